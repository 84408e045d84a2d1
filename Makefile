# cluster: five nodes in the foreground, data in data/. test: everything proven. check: writes nothing. fix: formats.
# sim: the simulator, SEEDS=n [FROM=m] many seeds, SEED=n one with its trace. man: manual pages in target/man/.

CARGO ?= cargo

.PHONY: cluster build test check fix openapi-check sim mutants man clean

cluster: build
	exec target/release/dkv-server cluster configs/node*.yaml

build:
	$(CARGO) build --release

# The counts of every suite, added up, are the last line; the exit code is cargo's.
test:
	@log=$$(mktemp) && trap 'rm -f "$$log"' EXIT && \
	{ $(CARGO) test --no-fail-fast 2>&1; echo "exit: $$?"; } | tee "$$log" | grep --line-buffered -v "^exit: " ; \
	awk '/^test result:/ { passed += $$4; failed += $$6; ignored += $$8 } /^exit: / { code = $$2 } \
	END { printf "passed %d, failed %d, ignored %d\n", passed, failed, ignored; exit code != 0 || failed > 0 }' "$$log"

check:
	$(CARGO) fmt --check
	# Once without the tests: their dependencies switch on features that the programs must not rely on.
	$(CARGO) clippy --locked -- -D warnings
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps
	$(CARGO) test --locked --quiet --test architecture

fix:
	$(CARGO) clippy --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt

# The API's description against a running node, by schemathesis from PyPI in target/openapi.
openapi-check:
	$(CARGO) build
	tests/openapi-check.sh

SEEDS ?= 2500
FROM ?= 0
sim:
ifdef SEED
	SEED=$(SEED) $(CARGO) test --locked --test sim -- --nocapture --exact replay
else
	SEEDS=$(SEEDS) FROM=$(FROM) $(CARGO) test --locked --test sim -- --nocapture --exact seeds_keep_every_promise
endif

mutants:
	$(CARGO) test --test mutants -- --run

# The manual pages of both programs. `man -l target/man/dkv-cli.1` shows one; section 1 of a manual path takes them all.
man:
	$(CARGO) run --quiet --locked --example man -- target/man

clean:
	$(CARGO) clean
	rm -rf data
