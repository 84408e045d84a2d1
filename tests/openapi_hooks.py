"""What the description of the API cannot say, for `tests/openapi-check.sh`."""

import schemathesis


@schemathesis.hook
def filter_case(context, case):
    """If-Match and If-None-Match exclude each other."""
    names = {name.lower() for name in case.headers or {}}
    return not {"if-match", "if-none-match"} <= names
