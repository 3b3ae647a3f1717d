# The commands of README.md. As an ordinary user what needs root runs with sudo.
#
#   make demo [HOLD=1]      see it work; HOLD=1 leaves it up to be poked at
#   make test [ARGS=...]    everything; ARGS goes to nextest, a filter for instance
#   make check              what a change needs before it is committed, in two minutes: formatting, warnings, tests without devices
#   make quick              the demo, and the tests that tell whether this Debian will do; .ci/run has Debian 13 do it
#   make bench              packets a second beside its peers
#   make rss [NIC=igb]      FULLNAT on emulated NICs with RSS, in QEMU 10; a part of make test
#   make deb | make rpm     packages, in target/package; docs/deploy.md says for which systems
#   make mutants ARGS=...   which small changes of the code no quick test notices: ARGS="--file gateway/src/path/egress/toa.rs"
#   make image              container images weir:latest and weir:all, with podman and buildah
#   make compose-demo       a client and two web servers with the gateway between them, each in a container
#   make service            the Debian package under a real systemd, in QEMU 10
#   make guard              instructions a packet beside those that the repository keeps
#   make recipes            the recipes for additions, carried out in a copy: docs/recipes

SHELL := /bin/bash
TARGET := $(or $(CARGO_TARGET_DIR),target)
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env)
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
# How nextest starts a test: network namespaces are root's.
RUNNER := $(if $(AS_ROOT),CARGO_TARGET_$(shell echo $(HOST) | tr 'a-z-' 'A-Z_')_RUNNER="$(AS_ROOT)")
NEXTEST_PROFILE := $(if $(CI),ci,default)
# How long each of the four targets of gateway/tests/fuzz.rs looks for trouble.
export WEIR_FUZZ_SECONDS ?= $(if $(CI),20,1)
# What `quick` runs of what it builds: of the end-to-end tests those that show ports, twins and each method, with one worker.
QUICK := not binary(e2e) | test(/^(lifecycle|outages|steering)::/) | test(/^(forwarding|ipv6|links)::one_worker::/)
# Demo and tests use the programs in /usr/sbin.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin:$(HOME)/.cargo/bin

.PHONY: demo test check quick lint bench guard recipes mutants rss deb rpm image compose-demo service deps

demo:
	@scripts/deps demo
	cargo build --release --package weir --package weirctl --package weir-lab --bins
	@$(AS_ROOT) $(TARGET)/release/demo $(if $(HOLD),--hold)

# The end-to-end tests look for weirctl beside weir, which nextest builds for them.
test: deps lint
	cargo build --profile ci --package weirctl --package weir --package weir-lab --bins
	$(RUNNER) cargo nextest run --workspace --cargo-profile ci --profile $(NEXTEST_PROFILE) $(ARGS)
	bench/trex/check
	bench/testpmd/check
	scripts/rss
	$(if $(CI),$(MAKE) guard,@echo "make guard counts instructions a packet, as CI does: some minutes")

# Unoptimised, as one works; of the tests those that start no gateway.
check: deps
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo nextest run --package cpu --package weir --package weir-api --package weirctl --lib --test architecture --test 'path_*' --test 'golden_*' \
	  --test control_questions --test address_uses --test commands --profile $(NEXTEST_PROFILE) $(ARGS)

# What depends on the Debian: DPDK with its drivers, and the programs that a lab is made of. Built without optimisation.
quick:
	@scripts/deps quick
	cargo build --package weir --package weirctl --package weir-lab --bins
	@$(AS_ROOT) $(TARGET)/debug/demo
	$(RUNNER) cargo nextest run --package dpdk --package weir --package weir-api --package weirctl --profile $(NEXTEST_PROFILE) --lib \
	  --test path_tables --test golden_recordings --test 'host_*' --test e2e -E '$(QUICK)' $(ARGS)

# Formatting, warnings, dependencies.
lint: deps
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	scripts/deny

bench:
	@scripts/deps bench
	cargo run --release --package weir-bench -- compare

# Counted in a release build, so that it is what ships; then that two workers share no cache line, and that a packet's way
# has no check that would panic. All three count, so that they don't mind each other.
guard: deps
	cargo build --release --package weir-bench
	@printf '%s\n' guard lines panics | xargs -P 3 -I COMMAND sh -c \
	  '$(TARGET)/release/weir-bench COMMAND >$(TARGET)/COMMAND.out 2>&1; status=$$?; cat $(TARGET)/COMMAND.out; exit $$status'

recipes: deps
	scripts/recipes $(ARGS)

mutants:
	@scripts/deps mutants
	scripts/mutants $(ARGS)

rss: deps
	cargo build --profile ci --package weirctl --package weir --package weir-lab --bins
	scripts/rss $(NIC)

deb rpm:
	@scripts/deps package
	scripts/package $@

image:
	scripts/image build

compose-demo:
	scripts/image demo

service: deps
	cargo build --profile ci --package weirctl --package weir --package weir-lab --bins
	scripts/service

deps:
	@scripts/deps test
