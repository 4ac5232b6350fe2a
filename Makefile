# Works from a fresh clone with Rust installed. As root, `test` installs what is missing and runs the
# device tests, too; without root they print SKIPPED.
#
#   DRIVER=tun   leave DPDK out          FEATURES=dpdk   make libdpdk required
#   SEEDS=N      number of `sim` runs    TIME=SECONDS    per fuzz target    REPEAT=N  runs of a bench
#   MOST=N       octets of a `sim` run at most, each way
#   NIC=MODELS   cards of demo-nic, with commas between

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

DRIVER ?= dpdk
SEEDS ?= 10000
MOST ?= 67108864
TIME ?= 60
REPEAT ?= 3
NIC ?= e1000e,vmxnet3,virtio-net-pci
KERNEL = $(or $(CARGO_TARGET_DIR),target)/nic-kernel
PLOT ?= $(or $(CARGO_TARGET_DIR),target)/relays.svg
# Expanded when a recipe runs, so that what `deps` has just installed counts.
FEATURES ?= $(if $(filter tun,$(DRIVER)),,$(shell pkg-config --exists libdpdk 2>/dev/null && echo dpdk))
CARGO_FEATURES = --features netsim/live$(if $(FEATURES), --features $(FEATURES))
BIN = $(or $(CARGO_TARGET_DIR),target)/release
# Measurements have a target CPU, and so a place, of their own: valgrind knows nothing newer than AVX2, and what is
# counted or timed on one machine shall be the same code on another.
V3 = $(or $(CARGO_TARGET_DIR),target)/x86-64-v3
WORKLOADS = $(V3)/release/workloads
FUZZ_TARGETS = $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))

.PHONY: help demo demo-short demo-nic build deps test sim interop lint package fuzz bench bench-quick bench-instructions bench-latency bench-paths bench-relays socks-checks

help:
	@grep -hE '^# [a-z-]+: ' $(MAKEFILE_LIST) | sed 's/^# //'

# demo: a phone with two links downloads through the gateway; under two minutes once built (root)
demo: deps
	$(MAKE) build
	$(BIN)/proxy-gw demo --driver $(DRIVER)

# demo-short: the same with small transfers, its speed reported but not judged
demo-short: deps
	$(MAKE) build
	$(BIN)/proxy-gw demo --driver $(DRIVER) --short --no-gates

# demo-nic: a guest of QEMU's with emulated PCI cards and the gateway on them, for each of NIC; a minute once built (root)
demo-nic:
	scripts/install-deps nic
	scripts/guest-kernel $(KERNEL)
	$(MAKE) build FEATURES=dpdk
	$(BIN)/proxy-gw demo nic --kernel $(KERNEL) --model $(NIC)

# deps: install the Debian packages the tests and the demo use (root)
deps:
	scripts/install-deps $(filter tun,$(DRIVER))

# Without root, or without a network, the tests that miss something say so themselves.
.PHONY: deps-if-possible
deps-if-possible:
	@scripts/install-deps $(filter tun,$(DRIVER)) \
	  || echo "tests that need what is missing print SKIPPED" >&2

# build: optimised binaries in target/release
build:
	cargo build --release --workspace $(CARGO_FEATURES)

# test: unit, property, simulation and documentation tests; those with devices and namespaces (root)
test: deps-if-possible
	cargo test --workspace $(CARGO_FEATURES) --features plait-bench/workloads

# sim: SEEDS random faulted transfers through the simulator, of at most MOST octets each way
sim:
	# The bench profile is the release one with overflow checks.
	PLAIT_SIM_SEEDS=$(SEEDS) PLAIT_SIM_MOST=$(MOST) cargo test --profile bench -p mptcp-core --test sim -- --nocapture

# interop: the tests against the Linux kernel, and curl, PySocks, ssh, Chromium and dig as clients of the gateway, in
#   network namespaces; PLAIT_INTEROP=full for every combination (root)
interop:
	@scripts/install-deps $(filter tun,$(DRIVER)) clients \
	  || echo "tests that need what is missing print SKIPPED" >&2
	cargo test -p mptcp-tun --features interop --test interop --test interop_kernel -- --test-threads=1
	# Built as `make test` does it, so that nothing is built twice.
	cargo test --workspace $(CARGO_FEATURES) --features plait-bench/workloads --test program -- --ignored clients::

# bench: instructions, times beside peers, 100,000 sessions, relays, and paths, but not bench-latency; about an hour (root)
bench: bench-instructions
	$(WORKLOADS) times
	$(WORKLOADS) profile relay_mptcp_down
	$(WORKLOADS) sessions --count 100000
	$(MAKE) bench-relays
	$(MAKE) bench-paths

# bench-quick: instructions, and times of a few runs; under three minutes once built
bench-quick: bench-instructions
	$(WORKLOADS) times --runs 3 --quick

# bench-instructions: instructions of each step, held against benches/instructions.csv; fails when one is more than
#   2 % dearer; UPDATE=1 writes the table instead
bench-instructions: workloads
	$(WORKLOADS) instructions $(if $(UPDATE),--update)

.PHONY: workloads
workloads:
	RUSTFLAGS="-C target-cpu=x86-64-v3" cargo build --release --target-dir $(V3) \
	  -p plait-bench --features workloads --bin workloads

# bench-paths: our sender and the kernel's over the same emulated links; REPEAT=N runs of each (root)
bench-paths: deps
	$(MAKE) build
	$(BIN)/paths --repeat $(REPEAT)

# bench-latency: what the gateway and relays add to a round trip under load and after silence; REPEAT=N runs (root)
bench-latency:
	scripts/install-deps $(filter tun,$(DRIVER)) bench
	$(MAKE) build
	$(BIN)/relays latency --repeat $(REPEAT)

# bench-relays: the gateway beside other relays over veth, and through memory; REPEAT=N runs of each, PLOT=FILE for the plot (root)
bench-relays:
	scripts/install-deps $(filter tun,$(DRIVER)) bench
	$(MAKE) build
	$(BIN)/relays --repeat $(REPEAT) --plot $(PLOT)
	$(BIN)/relays vhost --repeat $(REPEAT)

# socks-checks: what SOCKS5 servers do with clients unlike curl: microsocks, Dante and ours, as a table (root)
socks-checks:
	scripts/install-deps $(filter tun,$(DRIVER)) bench
	$(MAKE) build
	scripts/socks-checks compare $(BIN)/proxy-gw

# lint: formatting, clippy, rustdoc, packaging; cargo-deny when it is installed
lint: package
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets $(CARGO_FEATURES) --features mptcp-tun/interop,plait-bench/workloads -- -D warnings
	cargo clippy -p proxy-gw --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps $(CARGO_FEATURES)
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --all-features check; \
	else echo "lint: cargo-deny is not installed, deny.toml was not checked"; fi

# package: the published crates can be packaged, licences included
package:
	cargo package -p netsim -p mptcp-core --allow-dirty --no-verify --quiet
	for crate in netsim mptcp-core; do \
	  for file in LICENSE-MIT LICENSE-APACHE; do \
	    cargo package -p $$crate --allow-dirty --list | grep -qx $$file \
	      || { echo "package: $$crate lacks $$file" >&2; exit 1; }; \
	  done; done

# fuzz: every fuzz target for TIME seconds (needs `cargo install cargo-fuzz`)
fuzz:
	@cargo fuzz --version >/dev/null || { echo "fuzz: run 'cargo install cargo-fuzz' first" >&2; exit 1; }
	for target in $(FUZZ_TARGETS); do \
	  mkdir -p fuzz/work/$$target; \
	  RUSTC_BOOTSTRAP=1 cargo fuzz run $$target fuzz/work/$$target fuzz/corpus/$$target -- \
	    -max_total_time=$(TIME) -print_final_stats=1; done
