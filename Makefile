# `make` lists the targets. Everything is built with the one profile `release`, into one folder that all checkouts share:
# RocksDB, librdkafka and OpenSSL's bindings are compiled once.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

export CARGO_TARGET_DIR ?= $(HOME)/.cache/engram/target
TOOLS := $(HOME)/.cache/engram/tools
ENGRAM := $(CARGO_TARGET_DIR)/release/engram
CARGO_DENY := $(TOOLS)/bin/cargo-deny
CARGO_DENY_VERSION := 0.20.2
VENV := tests/clients/.venv
PEERS := models/tests/peers/.venv
EDITORS := tests/clients/yjs/node_modules
KERNELS := models/kernels
HISTORY := $(HOME)/.cache/engram/real-history
KAFKA_DIR ?= .kafka
ARGS ?=

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

.PHONY: run
run: build ## build, turn this repository's git history into events, process them, show the result
	@deploy/quickstart.sh $(ENGRAM) . ./engram-data

.PHONY: setup
setup: ## install what building and testing need (apt; elsewhere: say what is missing)
	@deploy/setup.sh all

.PHONY: build
build: ## build the engram binary
	@deploy/setup.sh build
	cargo build --release --bin engram
	@echo "built $(ENGRAM)"

.PHONY: test
test: setup kafka-fetch $(VENV)/.done $(PEERS)/.done $(EDITORS)/.done $(KERNELS)/.venv/.done ## run all tests; ARGS goes to `cargo test`
	@deploy/run-tests.sh $(ARGS)

.PHONY: check
check: ## what CI runs: format, lints, licences, doc tests, tests
	@deploy/setup.sh all
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets --locked -- -D warnings
	@$(MAKE) --no-print-directory deny
	@$(MAKE) --no-print-directory test ARGS=--locked

.PHONY: deny
deny: $(CARGO_DENY) ## check licences, bans and sources of the dependencies
	$(CARGO_DENY) --log-level error check licenses bans sources

.PHONY: advisories
advisories: $(CARGO_DENY) ## check the dependencies for known vulnerabilities (needs the network)
	$(CARGO_DENY) check advisories

.PHONY: kafka
kafka: ## start Apache Kafka in KAFKA_DIR (./.kafka) and leave it running
	@brokers=$$(deploy/kafka/kafka.sh start "$(KAFKA_DIR)"); \
	echo "Apache Kafka answers at $$brokers"; \
	echo "  use it:   $(ENGRAM) up --brokers $$brokers"; \
	echo "  stop it:  make kafka-stop     delete its data: make kafka-wipe"

.PHONY: kafka-stop
kafka-stop: ## stop it; its data and address are kept
	@deploy/kafka/kafka.sh stop "$(KAFKA_DIR)"

.PHONY: kafka-wipe
kafka-wipe: ## stop it and delete its data
	@deploy/kafka/kafka.sh wipe "$(KAFKA_DIR)"

.PHONY: kafka-fetch
kafka-fetch: ## fetch Apache Kafka's jars
	@deploy/kafka/kafka.sh fetch

.PHONY: bench
bench: build kafka-fetch $(EDITORS)/.done ## measure on an Apache Kafka of its own; ARGS goes to `engram bench`
	@deploy/with-kafka.sh $(ENGRAM) bench $(ARGS)

.PHONY: bench-editors
bench-editors: build kafka-fetch $(EDITORS)/.done ## measure what editors wait for, beside Hocuspocus and the plain y-websocket server
	@deploy/bench-editors.sh $(ENGRAM)

.PHONY: bench-codec
bench-codec: ## measure reading and writing events by row and by column
	@deploy/setup.sh build
	cargo bench --workspace --bench codec

.PHONY: bench-models
bench-models: ## measure the scoring of forests beside XGBoost, LightGBM, lleaves and ONNX Runtime
	@deploy/setup.sh build
	@models/benches/run.sh

.PHONY: soak
soak: setup kafka-fetch $(EDITORS)/.done $(HISTORY) ## the long form of the tests: up to 5 million events; ARGS goes to them
	ENGRAM_SOAK=1 KAFKA_HEAP=1g cargo test --release --workspace --test exactly_once --test replay --test take_over --test under_fire --test editors_under_fire --test gateway --test git_documents -- --nocapture $(ARGS)
	ENGRAM_SOAK=1 ENGRAM_REPOSITORY=$(HISTORY) cargo test --release --workspace --test git_documents --test git_counts given_repository -- --nocapture --ignored

.PHONY: real-history
real-history: $(HISTORY) ## make a git repository of real histories, which `make soak` ingests (Debian)

$(HISTORY): deploy/real-history.py
	@rm -rf $@
	@deploy/real-history.py $@

.PHONY: simulate
simulate: ## run 10,000 seeds of the simulation; ARGS goes to it (--seeds, --first, --trace)
	@deploy/setup.sh build
	cargo build --release --workspace --bin engram-simulation
	$(CARGO_TARGET_DIR)/release/engram-simulation simulate --seeds 10000 $(ARGS)

.PHONY: fuzz
fuzz: ## run the fuzz targets for 60 seconds each; ARGS: SECONDS and names of targets
	@deploy/setup.sh build
	@fuzz/run.sh $(ARGS)

.PHONY: mutations
mutations: setup ## plant known bugs, one after the other: each must be caught; ARGS names some of them
	@deploy/mutations.py $(ARGS)

.PHONY: kernels
kernels: $(KERNELS)/.venv/.done ## compile the GPU's kernels to PTX, which is committed; no GPU is needed
	$(KERNELS)/.venv/bin/python $(KERNELS)/compile.py

.PHONY: gpu-check
gpu-check: ## on a host with a GPU: compare its margins with the CPU's, and measure both
	cargo run --release -p engram-models --example gpu_check -- $(ARGS)

.PHONY: clean
clean: ## delete what was built here; data folders and compiled dependencies are kept
	cargo clean --release -p engram -p engram-schemas -p engram-pipeline -p engram-models -p engram-processors -p engram-connectors -p engram-simulation
	rm -rf $(VENV) $(PEERS) $(EDITORS) $(KERNELS)/.venv deploy/kafka/target

$(CARGO_DENY):
	cargo install cargo-deny --version $(CARGO_DENY_VERSION) --locked --root $(TOOLS)

$(VENV)/.done: tests/clients/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/clients/requirements.txt
	@touch $@

$(PEERS)/.done: models/tests/peers/requirements.txt models/tests/peers/data.txt
	python3 -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check -r models/tests/peers/requirements.txt
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check --no-deps -r models/tests/peers/data.txt
	@touch $@

$(KERNELS)/.venv/.done: $(KERNELS)/requirements.txt
	python3 -m venv $(KERNELS)/.venv
	$(KERNELS)/.venv/bin/pip install --quiet --disable-pip-version-check -r $(KERNELS)/requirements.txt
	@touch $@

$(EDITORS)/.done: tests/clients/yjs/package-lock.json
	cd tests/clients/yjs && npm ci --silent --no-audit --no-fund
	@touch $@
