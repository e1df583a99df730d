# Caudal's commands. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/caudal
# The build folder is outside the checkout, so that a fresh clone uses the outputs of an older one.
export CARGO_TARGET_DIR ?= $(CACHE)/target
RELEASE := $(CARGO_TARGET_DIR)/release
CAUDAL := $(RELEASE)/caudal

# The suites about replicas run also on Valkey. Two tests are skipped: TLS, which this build of Valkey lacks, and the number of
# streams.
ON_VALKEY := redis:: cluster:: outages:: placement:: --skip the_connection_may_be_encrypted --skip five_thousand

.PHONY: help run build chat patches server model test unit engine-test integration client-test clients e2e check renew stack chaos restarts bench gpu-check clean tools
help: ## Print this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

run: build ## Fetch the model, build, and serve the chat page on http://127.0.0.1:8080 (ARGS="--set …" to change)
	@exec $(CAUDAL) serve $(ARGS)

build: tools chat server model ## Build everything that `make run` needs

tools:
	@bash config/tools.sh

chat: client-ts/node_modules
	@cd client-ts && npm run --silent build
	@mkdir -p $(RELEASE)/chat && rm -rf $(RELEASE)/chat/* && cp -r client-ts/chat/dist/* $(RELEASE)/chat/

client-ts/node_modules: client-ts/package-lock.json
	@cd client-ts && npm ci --silent --no-audit --no-fund
	@touch client-ts/node_modules

patches: ## Make the patched crates, which every cargo command needs
	@bash server/patches/apply.sh

server: patches
	@cargo build --release --locked -p caudal-server

model: server
	@$(CAUDAL) model pull

test: build unit engine-test integration client-test clients e2e ## Run every test: Rust, TypeScript, browser; installs the programs for them

unit: patches ## Run the unit tests of everything except the real engine
	@bash tests/setup.sh
	@cargo test --locked -p caudal-server --no-default-features
	@CAUDAL_REDIS_SERVER=$(CACHE)/valkey/valkey-server cargo test --locked -p caudal-server --no-default-features --lib -- store::redis
	@cargo test --locked -p caudal-kernels

engine-test: model ## Run the unit tests of the real engine, on the real model
	@cargo test --locked --release -p caudal-server --lib -- engine::mistral model:: --test-threads 1

# The suites that run also on the embedded store, each test in its own folder. There a thousand cancels take longer than the stream
# beside them, so that test is skipped.
STORED := cancel:: chains:: conversations:: orphans:: prompts:: rates:: references:: resume:: turns:: cache:: steering:: \
	--skip a_thousand

integration: build ## Test the real binary over real sockets
	@bash tests/setup.sh
	@cargo test --locked -p caudal-tests
	@CAUDAL_REDIS_SERVER=$(CACHE)/valkey/valkey-server cargo test --locked -p caudal-tests --test suite -- $(ON_VALKEY)
	@CAUDAL_TEST_STORE=sqlite cargo test --locked -p caudal-tests --test suite -- $(STORED)

client-test: build ## Test the SDK against the real binary
	@bash tests/setup.sh
	@cd client-ts && npm run --silent test

clients: build ## Test unmodified clients from PyPI and npm against the real binary
	@bash tests/setup.sh
	@bash tests/clients/run.sh

e2e: build ## Test in a real browser, on the real model
	@bash tests/setup.sh
	@cd client-ts && npm run --silent test:e2e

check: patches client-ts/node_modules ## Check format, lint, types, docs, licences of dependencies
	@cargo fmt --all --check
	@python3 config/deny.py
	@python3 config/house.py
	@python3 config/circles.py
	@cargo clippy --locked --workspace --no-deps --all-targets --no-default-features -- -D warnings
	@cargo clippy --locked --release --no-deps -p caudal-server -p caudal-bench --all-targets -- -D warnings
	@RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps -p caudal-server --no-default-features
	@cd client-ts && npm run --silent check

renew: patches client-ts/node_modules ## Write the generated files again: docs/*.json, client-ts/src/wire.ts, tests/golden
	@CAUDAL_RENEW=1 cargo test --quiet --locked -p caudal-server --no-default-features --lib -- wire::contract
	@cd client-ts && npm run --silent wire
	@cargo build --quiet --locked -p caudal-server --no-default-features
	@CAUDAL_BIN=$(CARGO_TARGET_DIR)/debug/caudal CAUDAL_RENEW=1 cargo test --quiet --locked -p caudal-tests --test suite -- golden::

stack: build ## Run Redis, three replicas and nginx as plain processes, on http://127.0.0.1:8080 (ARGS="--listen …" to change, --dashboards for Prometheus)
	@bash tests/setup.sh
	@cargo run --quiet --release --locked -p caudal-tests --bin stack -- $(ARGS)

chaos: build ## Run two minutes of faults against the stack while clients stream through it
	@bash tests/setup.sh
	@cargo run --quiet --release --locked -p caudal-tests --bin chaos -- $(ARGS)

restarts: build ## Kill the only process 20 times under 50 streams, once while its file is full (ARGS="--kills …" to change)
	@cargo run --quiet --release --locked -p caudal-tests --bin restarts -- $(ARGS)

bench: build ## Measure ratios against the bare engine, load, latency; prints tables, writes bench/*.json
	@bash tests/bench.sh

gpu-check: patches ## Build for CUDA, and pack the files for checks on a machine with a GPU
	@bash tests/gpu/pack.sh

clean: ## Remove all build outputs
	@rm -rf $(CARGO_TARGET_DIR) client-ts/node_modules client-ts/dist client-ts/chat/dist
