"""What the description of the API cannot say, for `tests/openapi-check.sh`."""

import itertools
import re

import schemathesis

# What an address may look like. Members that are added live where nobody does: no name is looked up for them, and no other
# machine is called.
ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")
NOBODY = itertools.count()

# Of each pair a request may have one.
EXCLUSIVE = [
    ("revision", "min_revision"),
    ("count_only", "limit"),
    ("count_only", "order"),
    ("count_only", "keys_only"),
    ("key", "prefix"),
    ("key", "start"),
    ("key", "end"),
]

# Transactions that can be done. What the description allows is mostly refused: keys written twice, ranges backwards, text
# that is no base64, revisions that do not exist.
TRANSACTIONS = itertools.cycle(
    [
        {},
        {"then": [{"put": {"key": "a", "value": "1", "prev": True}}, {"get": {"key": "a"}}]},
        {
            "if": [{"key": "a", "version": {"lt": 5}}, {"prefix": "b", "exists": False}, {"key": "c", "value": "x"}],
            "then": [{"delete": {"prefix": "d", "prev": True}}, {"list": {"start": "a", "limit": 3, "order": "desc"}}],
            "else": [{"put": {"key_base64": "/w==", "value_base64": "/w=="}}, {"list": {"count_only": True}}],
        },
        {
            "if": [{"start": "a", "end": "b", "mod_revision": {"gt": 0}}, {"key": "a", "create_revision": 2}],
            "then": [{"txn": {"then": [{"get": {"key": "a", "revision": 1}}], "else": [{"delete": {"key": "z"}}]}}],
            "else": [{"list": {"prefix": "", "keys_only": True}}],
        },
    ]
)

# Numbers that must not lie after the store's, or after the end of a snapshot.
REACHED = ("revision", "min_revision", "min_index", "offset")


@schemathesis.hook
def filter_case(context, case):
    """If-Match and If-None-Match exclude each other; so do some parameters. A cursor is a node's, never invented; a range
    begins before it ends, and one that is removed has a bound or is everything; a number must have been reached."""
    headers = {name.lower() for name in case.headers or {}}
    query = case.query or {}
    if case.method.upper() == "DELETE" and case.path == "/v1/kv":
        is_bounded = any(query.get(name) for name in ("prefix", "start", "end"))
        if is_bounded == (str(query.get("all", "")).lower() == "true"):
            return False
    return (
        not {"if-match", "if-none-match"} <= headers
        and not any(a in query and b in query for a, b in EXCLUSIVE)
        and "cursor" not in query
        and not {"start", "end"} <= query.keys()
        and not any(str(query.get(name, "")).isdigit() and int(query[name]) > 0 for name in REACHED)
    )


@schemathesis.hook
def map_case(context, case):
    """Addresses that the description allows become some that can be meant, and so do transactions."""
    is_sound = case.meta is None or case.meta.generation.mode.is_positive
    if case.method.upper() == "POST" and case.path == "/v1/txn" and is_sound:
        case.body = next(TRANSACTIONS)
        # Some of them write.
        (case.query or {}).pop("consistency", None)
    if case.path == "/v1/watch":
        # Nobody waits for changes that do not come, or reads a stream that does not end.
        case.headers = {**(case.headers or {}), "Accept": "application/json"}
        if case.method.upper() == "GET" and case.query is not None and is_sound:
            case.query["wait_s"] = 0
        elif isinstance(case.body, dict) and is_sound:
            case.body["wait_s"] = 0
    if isinstance(case.body, dict):
        for field in ("raft_addr", "http_addr"):
            address = case.body.get(field)
            if isinstance(address, str) and ADDRESS.fullmatch(address):
                case.body[field] = f"127.83.0.2:{10_000 + next(NOBODY) % 50_000}"
    return case
