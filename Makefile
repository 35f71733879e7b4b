# make demo: the main job, shown. make test: the whole gate. make bench: figures beside their peers.
# Debian's own interpreter, not the first on PATH: that may lie where other users cannot enter.
PYTHON ?= /usr/bin/python3
VENV := .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
INSTALL = $(PIP) install --root-user-action=ignore --no-build-isolation

DEMO_PACKAGES := python3-venv e2fsprogs fuse2fs fuse-overlayfs squashfuse squashfs-tools uidmap busybox-static fuse3
TEST_PACKAGES := acl attr fish procps zstd zsh
BENCH_PACKAGES := bubblewrap

# Directories too: a deleted module must not live on in the installed copy.
SOURCES := pyproject.toml $(wildcard README.md) $(shell find sifkit overlay -name __pycache__ -prune -o -print)

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench clean demo-packages test-packages bench-packages
.NOTPARALLEL:

help:
	@sed -n 's/^# //p;/^$$/q' Makefile | head -1

demo: $(VENV)/installed
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" sh testdata/demo.sh .demo

test: test-packages lint
	@$(VENV)/bin/python tests/run_tests.py $(ARGS)

lint: $(VENV)/installed $(VENV)/dev
	$(VENV)/bin/ruff check --no-cache .
	$(VENV)/bin/ruff format --no-cache --check --quiet .
	$(VENV)/bin/mypy

bench: bench-packages $(VENV)/installed $(VENV)/dev
	@$(VENV)/bin/python tests/bench/run.py $(ARGS)

demo-packages:
	@sh .ci/packages $(DEMO_PACKAGES)

test-packages:
	@sh .ci/packages $(TEST_PACKAGES)

bench-packages:
	@sh .ci/packages $(BENCH_PACKAGES)

$(VENV)/bin/pip: | demo-packages
	$(PYTHON) -m venv $(VENV)

# In the environment rather than fetched for each build: installing again needs no network. The program that pip
# makes of ours loads the module re up to pip 24, which takes a twentieth of a start.
$(VENV)/build-tools: | $(VENV)/bin/pip
	$(PIP) install --root-user-action=ignore 'pip>=25' 'setuptools>=66' wheel
	@touch $@

# An installed copy, compiled: it starts faster than an editable one, and other users can run it.
# setuptools would take removed modules from an old build directory.
$(VENV)/installed: $(SOURCES) $(VENV)/build-tools
	rm -rf build sifkit.egg-info
	$(INSTALL) .
	@rm -rf build sifkit.egg-info
	@touch $@

$(VENV)/dev: pyproject.toml | $(VENV)/installed
	$(INSTALL) '.[dev]'
	@rm -rf build sifkit.egg-info
	@touch $@

clean:
	rm -rf $(VENV) .demo build sifkit.egg-info bench.json .mypy_cache .ruff_cache .pytest_cache .hypothesis
