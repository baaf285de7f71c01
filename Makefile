# `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
CARGO ?= cargo
# Tests of the HTTP service stop tokio's clock, by a feature: in one build with them, everything above tokio would be built
# once for the demo and once more for the tests.
ALL := --workspace --exclude fleetscore-http

.PHONY: help deps demo build production test unit e2e chaos servers simulate fuzz fuzz-smoke fmt lint clean

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/\1|\2/' | awk -F'|' '{ printf "  make %-12s %s\n", $$1, $$2 }'

deps: ## Bring what a build needs beside Rust (or say exactly what to install)
	@scripts/build-deps.sh

demo: deps ## Run everything in one process: broker, fleet, training, windows, scoring (ARGS="--intervals 5" to pass flags)
	@$(CARGO) run -- demo $(ARGS)

build: deps ## Build the binary of the default profile: target/debug/fleetscore
	$(CARGO) build

production: deps ## Build the optimised binary: target/production/fleetscore (about half an hour on two cores)
	$(CARGO) build --profile production

test: deps unit fuzz-smoke e2e ## Run all tests; starts a real Kafka, PostgreSQL and Azurite by itself and stops them again

unit: ## Run unit and property tests of all crates, and the consumer against the embedded broker (no servers)
	$(CARGO) test $(ALL) --lib --bins --examples -q
	$(CARGO) test $(ALL) --test embedded --test wire_format --test small -q
	$(CARGO) test $(ALL) --doc -q
	$(CARGO) test -p fleetscore-http -q

e2e: servers ## Run the end-to-end tests against real servers (ARGS="kill" to filter)
	set -a; source target/test-servers.env; set +a; $(CARGO) test $(ALL) --test e2e --test with_servers -- $(ARGS)

chaos: servers ## Faults of all kinds on real parts, then everything must be exact (SECONDS=600 SEED=1 STORE=postgres|sqlite|both)
	set -a; source target/test-servers.env; set +a; \
	FLEETSCORE_CHAOS_SECONDS=$(or $(SECONDS),600) FLEETSCORE_CHAOS_SEED=$(SEED) \
	$(CARGO) test $(ALL) --test e2e -- --test-threads 1 chaos::$(filter-out both,$(STORE))

servers: ## Fetch the servers the end-to-end tests start
	@mkdir -p target
	@tests/setup.sh > target/test-servers.env.new && mv target/test-servers.env.new target/test-servers.env

simulate: ## Run the aggregator's own loop under every fault on a simulated clock (SEEDS=100000, 10000 if not said; SEED=7 shows one; MUTANT=no-fence; MUTANTS=1)
	$(CARGO) run --release -q -p fleetscore-simulation -- $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),10000)) \
	$(if $(MUTANT),--mutant $(MUTANT)) $(if $(MUTANTS),--mutants)

fuzz-smoke: ## Fuzz every reader for some thousand inputs (RUNS=2000), always the same ones
	fuzz/run.sh smoke $(or $(RUNS),2000)

fuzz: ## Fuzz what reads files, messages, settings and requests (RUNS=1000000, 100000 if not said; TARGET=pickle; all but parquet_models if none is named)
	fuzz/run.sh $(or $(TARGET),all) $(or $(RUNS),100000)

fmt: ## Format the code
	$(CARGO) fmt --all

lint: ## Check format and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(ALL) --all-targets -- -D warnings
	$(CARGO) clippy -p fleetscore-http --all-targets -- -D warnings

clean: ## Remove what builds and the demo left
	$(CARGO) clean
	rm -rf fleetscore-demo
