"""Reads both texts of /metrics with the parsers of Prometheus's Python library, and expects the same families in both."""

import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as classic


def read(path, parse):
    """The kind of each family and its samples' names; a parser ends with an error at the first line that is wrong."""
    with open(path, encoding="utf-8", newline="") as file:
        families = list(parse(file.read()))
    return {family.name: (family.type, {sample.name for sample in family.samples}) for family in families}


new, old = read(sys.argv[1], open_metrics), read(sys.argv[2], classic)
assert len(new) > 20, f"only {len(new)} families"
assert new == old, f"the formats differ: {new.items() ^ old.items()}"
print(f"{len(new)} families of metrics, in both formats")
