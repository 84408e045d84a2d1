# cluster: five nodes in the foreground, data in data/. test: everything proven. check: writes nothing. fix: formats.
# sim: the simulator, SEEDS=n [FROM=m] many seeds, SEED=n one with its trace. torture: real processes for MINUTES.
# upgrade-check: this program and the next one in one cluster, members replaced under load; the simulator of the next one.
# soak: overwrites for SECONDS. man: manual pages in target/man/.

CARGO ?= cargo

.PHONY: cluster build test sim torture soak check fix openapi-check upgrade-check mutants mutants-fix microbench man clean

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

# Real processes, killed, stopped and cut off from each other under load, for MINUTES; SEED=n repeats a run.
MINUTES ?= 10

torture:
	$(CARGO) test --test torture -- --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

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

# The next program is this tree with the feature `next-protocol`. Kept beside this one, which takes its place again.
upgrade-check:
	$(CARGO) build --locked --bin dkv-server --features next-protocol --target-dir target
	mkdir -p target/next-protocol && cp target/debug/dkv-server target/next-protocol/dkv-server
	DKV_NEXT_SERVER=$(CURDIR)/target/next-protocol/dkv-server \
	$(CARGO) test --locked --test upgrade -- --ignored --nocapture
	SEEDS=600 $(CARGO) test --locked --test sim --features next-protocol -- --nocapture --exact seeds_keep_every_promise

SEEDS ?= 2500
FROM ?= 0
sim:
ifdef SEED
	SEED=$(SEED) $(CARGO) test --locked --test sim -- --nocapture --exact replay
else
	SEEDS=$(SEEDS) FROM=$(FROM) $(CARGO) test --locked --test sim -- --nocapture --exact seeds_keep_every_promise
endif

# Breaks the code on purpose and expects the tests to notice. ONLY="words of names" chooses, RESUME=1 goes on.
mutants:
	$(CARGO) test --test mutants -- --run $(if $(RESUME),--resume) $(ONLY)

# The codec, the map and the core without a cluster. ONLY=text chooses by name.
microbench:
	cd tests/microbench && CARGO_TARGET_DIR=../../target/microbench $(CARGO) bench --benches -- $(ONLY)

# After a renaming: replaces FROM by TO in the texts of tests/mutants.toml that quote the code, as whole words.
mutants-fix:
	@$(CARGO) test --quiet --test mutants -- --fix '$(FROM)' '$(TO)'

# A thousand keys overwritten for ten minutes (or SECONDS=n): disk and memory stay bounded.
SECONDS ?= 600
soak:
	DKV_SOAK_SECONDS=$(SECONDS) $(CARGO) test --release --test soak -- --nocapture

# The manual pages of both programs. `man -l target/man/dkv-cli.1` shows one; section 1 of a manual path takes them all.
man:
	$(CARGO) run --quiet --locked --example man -- target/man

clean:
	$(CARGO) clean
	rm -rf data
