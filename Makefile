# The two commands of the README, and the check that goes with every change.
#
#   make demo   shows the switch at work with three VMs and a physical network of namespaces
#   make test   runs every test: units, soft guests, namespaces, real guests
#   make bench  the switch beside OVS, testpmd, the Linux bridge and VDE (about 25 minutes): benches/RESULTS.md
#   make lint   formatting, clippy, licences, dependency arrows, where unsafe stands

TOOLS := scripts/with-tools

.PHONY: all demo test lint bench setup build clean

all: build

setup:
	@scripts/setup.sh

build: setup
	@$(TOOLS) cargo build --release --locked

demo: build
	@$(TOOLS) cargo run --release --locked --quiet -- demo

test: setup
	@scripts/test.sh

lint: setup
	@scripts/lint.sh

bench: setup
	@scripts/bench.sh

clean:
	rm -rf target
