# meshd: the commands of this tree. Every target does its own set-up (operating system packages, .venv), quick when repeated.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -p no:cacheprovider

.PHONY: help launch install setup setup-test test slow unit sweep fuzz fuzz-native sanitize lint format demo bench bench-peers bench-failover bench-profile fresh clean

## show this list
help:
	@awk '/^## / { text = substr($$0, 4) } /^[a-z-]+:/ { split($$0, part, ":"); printf "  make %-16s %s\n", part[1], text; text = "" }' Makefile

## start the router of this host: make launch PEERS=host2,host3 [KEY_FILE=…] [KEY=…] [MESHD_DIR=…] [ARGS=…]
launch: setup
	@packaging/launch

## make `meshd` a command of this machine (/usr/local/bin/meshd)
install: setup
	@packaging/link

## install what the router needs, start nothing
setup:
	@packaging/setup-system launch
	@packaging/setup-venv

## install what the tests need too
setup-test:
	@packaging/setup-system test
	@packaging/setup-venv test

## check style and types, then run the tests, but for `slow` ones, in two processes (root); CI=true: no skips; ARGS=…: in one process
test: lint
	@packaging/as-root $(PYTEST) -m "not slow" $${ARGS:--n 2}

## the tests that take too long for every change: a million MACs, moves between address families, loads with each engine, sanitizers
slow: setup-test
	@packaging/as-root $(PYTEST) -m slow $${ARGS:-}

## run the tests that need neither root nor namespaces, some seconds: make unit [ARGS="-k replay"]
unit:
	@packaging/setup-system launch
	@packaging/setup-venv test
	@$(PYTEST) -m "not netns and not docker" $${ARGS:-}

## more seeds of the random faults over simulated meshes, 3 s each: make sweep [SEEDS=200] [FIRST_SEED=0]
sweep:
	@packaging/setup-system launch
	@packaging/setup-venv test
	@SEEDS=$${SEEDS:-200} $(PYTEST) tests/sim/test_mesh_nemesis.py $${ARGS:-}

## feed every decoder malformed inputs, one line each: make fuzz [FUZZ_INPUTS=1000000] [FUZZ_SEED=0] [FUZZ_TARGET=part of a name]
fuzz:
	@packaging/setup-system launch
	@packaging/setup-venv test
	@$(BIN)/python -m tests.fuzz $${FUZZ_INPUTS:-1000000} $${FUZZ_SEED:-0} "$${FUZZ_TARGET:-}"

## the native engine's tests, and routers with it, under address, undefined-behaviour and thread sanitizers: make sanitize [ARGS=thread]
sanitize: setup-test
	@packaging/as-root packaging/sanitize $${ARGS:-}

## feed the native engine malformed frames and datagrams, under sanitizers: make fuzz-native [FUZZ_INPUTS=10000000] [FUZZ_SEED=0]
fuzz-native: setup-test
	@packaging/fuzz-native $${FUZZ_INPUTS:-10000000} $${FUZZ_SEED:-0}

## check style and types
lint: setup-test
	@failed=0; $(BIN)/ruff check . || failed=1; $(BIN)/ruff format --check . || failed=1; $(BIN)/mypy || failed=1; exit $$failed

## put the code into the house format
format:
	@packaging/setup-system launch
	@packaging/setup-venv test
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

## three hosts on this machine: real routers and containers in network namespaces, ping, throughput, clean-up
demo: setup-test
	@packaging/as-root $(BIN)/python -m bench.demo $${ARGS:-}

## measure meshd against the kernel's VXLAN and the other overlays that are installed: make bench [ARGS=--quick]
bench: setup-test
	@packaging/as-root $(BIN)/python -m bench $${ARGS:-}

## the same, after installing the other overlays (wireguard-go, tinc, fastd, n2n, nebula, OpenVPN)
bench-peers: setup-test
	@packaging/setup-system peers
	@packaging/as-root $(BIN)/python -m bench --peers $${ARGS:-}

## how long traffic stops when a path is cut, 20 times: make bench-failover [ARGS="--runs 5"]
bench-failover: setup-test
	@packaging/as-root $(BIN)/python -m bench.failover $${ARGS:-}

## where the routers' time goes during a bulk transfer: make bench-profile [ARGS="--engine python"]
bench-profile: setup-test
	@packaging/as-root $(BIN)/python -m bench.profile $${ARGS:-}

## try the first command on a fresh Debian 12 in a chroot (root, debootstrap, minutes): make fresh [FRESH="launch PEERS=host2"]
fresh:
	@packaging/as-root packaging/try-fresh $${FRESH:-test}

## remove caches and build results (.venv stays: the router of this host may run from it)
clean:
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
