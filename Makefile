# Stratus. `make help` lists what there is to do; each line of help stands beside its target.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help cloud cloud-down cloud-purge cluster cluster-down test test-faults test-debian test-deb test-nested fuzz lint bench docs install deb appliance-tiny appliance-debian doctor install-needed

# Built appliances; the daemon's state is in .stratus, caches are in .cache.
APPLIANCES := .cache/appliances
PREFIX := /usr/local
DESTDIR :=
# --refresh: build appliances from the archive's newest packages.
REFRESH :=

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

cloud: ## a cloud on this machine: build, start, one virtual machine, SSH
	@packaging/cloud up

cloud-down: ## remove machines, stop the daemon; volumes, images, users and appliances stay
	@packaging/cloud down

cloud-purge: ## cloud-down, and delete the cloud's data (.stratus)
	@packaging/cloud purge

cluster: ## a cloud of nine computers on this machine, as root: etcd, two entries, storage, three hosts
	@packaging/cluster up

cluster-down: ## end the cluster; nothing of it is left
	@packaging/cluster down

test: ## lints, unit, property and end-to-end tests with real QEMU
	@packaging/test

test-faults: ## the daemon killed 1000 times under load, 1000 schedules of a whole cloud, moves disturbed at each step (hours)
	@packaging/test faults

test-debian: ## the Debian appliance in a cloud, with cloud-init (minutes, root)
	@packaging/test debian

test-deb: ## the Debian packages and stratus install, on two computers in namespaces (minutes, root)
	@packaging/test deb

test-nested: ## bare computers become hosts by stratus install and run machines by KVM (many minutes, root)
	@packaging/test nested

fuzz: ## fuzz the parsers of outside data, a minute each (STRATUS_FUZZ_SECONDS for another time)
	@packaging/fuzz

lint: ## formatting, clippy, shellcheck
	@packaging/test lint

bench: appliance-tiny ## benchmarks, side by side with a bare QEMU script
	@packaging/install-needed
	@packaging/bench

docs: ## documentation of the crates, in target/doc
	cargo doc --workspace --no-deps

install: ## programs, manual pages, completions into PREFIX (/usr/local), below DESTDIR
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' packaging/install

deb: ## the Debian packages stratus and stratusd, in target/debian
	@packaging/install-needed build deb
	@packaging/deb/build

appliance-tiny: ## the tiny appliance: 19 MB, SSH in seconds
	@packaging/install-needed tiny
	@appliances/tiny/build $(APPLIANCES) $(REFRESH)

appliance-debian: ## Debian 12 with cloud-init (minutes, root)
	@packaging/install-needed debian
	@appliances/debian12/build $(APPLIANCES) $(REFRESH)

doctor: ## compare the cloud's documents with what is really there
	@packaging/cloud doctor

install-needed: ## install the Debian packages that are missing
	@packaging/install-needed
