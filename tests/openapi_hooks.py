"""What the description of the API cannot say, for `tests/openapi-check.sh`."""

import schemathesis

# Of each pair a request may have one.
EXCLUSIVE = [
    ("revision", "min_revision"),
    ("count_only", "limit"),
    ("count_only", "order"),
    ("count_only", "keys_only"),
]

# Numbers that must not lie behind the store's, or behind the end of a snapshot.
REACHED = ("revision", "min_revision", "min_index", "offset")


@schemathesis.hook
def filter_case(context, case):
    """If-Match and If-None-Match exclude each other; so do some parameters. A cursor is a node's, never invented; a range
    begins before it ends; a number must have been reached."""
    headers = {name.lower() for name in case.headers or {}}
    query = case.query or {}
    return (
        not {"if-match", "if-none-match"} <= headers
        and not any(a in query and b in query for a, b in EXCLUSIVE)
        and "cursor" not in query
        and not {"start", "end"} <= query.keys()
        and not any(str(query.get(name, "")).isdigit() and int(query[name]) > 0 for name in REACHED)
    )
