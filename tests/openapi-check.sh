#!/bin/sh
# Compares docs/openapi.yaml with a running node of one: requests drawn from the description, and ones that break it. Run
# by `make openapi-check`; needs Python 3 and, the first time, the package index. DKV_EXAMPLES: how many per operation.
# First, both texts of /metrics are read by the parsers of Prometheus's own Python library.
set -eu
cd "$(dirname "$0")/.."
VERSION=4.32.5
PARSER_VERSION=0.26.0
VENV=target/openapi/venv
ADDRESS=127.83.0.1

INSTALLED='from importlib.metadata import version; print(version("schemathesis"), version("prometheus-client"))'
if [ "$("$VENV/bin/python" -c "$INSTALLED" 2>&1)" != "$VERSION $PARSER_VERSION" ]; then
    python3 -m venv --clear "$VENV"
    "$VENV/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$VERSION" "prometheus-client==$PARSER_VERSION"
fi

dir=$(mktemp -d)
cat > "$dir/node.yaml" <<YAML
node_id: node1
data_dir: $dir/data
peers: [{ node_id: node1, raft_addr: "$ADDRESS:18081", http_addr: "$ADDRESS:8081" }]
YAML
# Sound requests may meet a condition that does not hold, a key used before, or a limit counted in bytes, not characters.
cat > "$dir/schemathesis.toml" <<TOML
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "404", "409", "412", "413", "422", "431"]
[checks.negative_data_rejection]
expected-statuses = ["400", "404", "405", "409", "411", "412", "413", "422", "431", "505"]
TOML
target/debug/dkv-server --config "$dir/node.yaml" 2> "$dir/log" &
server=$!
trap 'kill "$server" 2> /dev/null || true; wait "$server" || true; rm -rf "$dir"' EXIT INT TERM
tries=100
until curl -sf "http://$ADDRESS:8081/readyz" > /dev/null; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || { cat "$dir/log"; exit 1; }
    sleep 0.1
done

curl -sf "http://$ADDRESS:8081/metrics" > "$dir/metrics.open"
curl -sf -H 'Accept: text/plain' "http://$ADDRESS:8081/metrics" > "$dir/metrics.classic"
PYTHONDONTWRITEBYTECODE=1 "$VENV/bin/python" tests/metrics_check.py "$dir/metrics.open" "$dir/metrics.classic"

PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=tests SCHEMATHESIS_HOOKS=openapi_hooks \
    "$VENV/bin/schemathesis" --config-file "$dir/schemathesis.toml" run docs/openapi.yaml --url "http://$ADDRESS:8081" --checks all --continue-on-failure \
    --max-examples "${DKV_EXAMPLES:-100}" --phases examples,coverage,fuzzing --request-timeout 10 "$@" || code=$?
if grep -q panicked "$dir/log"; then
    cat "$dir/log"
    exit 1
fi
exit "${code:-0}"
