# Targets for daily work; `make` alone lists them. Everything runs in .venv, which is
# built on first use. Another interpreter: make clean, then make venv PYTHON=python3.11.

PYTHON ?= python3
DEMO_DATA ?= data/demo
DEMO_RUN ?= work_dirs/demo
DEMO_JOBS ?= 2
PYTEST_ARGS ?=
# Of the tests: one more than processors, for some of them wait; 0 runs them in pytest's
# own process.
WORKERS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )))

PY := .venv/bin/python
STAMP := .venv/.stamp
PEERS := .venv/peers/.stamp
VERSIONS := .venv/newest/.stamp .venv/oldest/.stamp
PIP := $(PY) -m pip --disable-pip-version-check --no-input
# Byte-compiling all of torch takes 45 s; importing once compiles what is needed in 10 s.
INSTALL := $(PIP) install --quiet --no-compile
INSTALL_INTO = $(subst $(PY),$(@D)/bin/python,$(INSTALL))

# .venv holds absolute paths: rebuild it where the folder was moved or copied.
export REPOSITORY := $(CURDIR)
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
REBUILD := FORCE
endif

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: help venv demo demo-full test test-quick test-all test-faults test-slurm test-newest \
	test-oldest test-upstream test-wheel dist docs lint typecheck format peers bench clean FORCE

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

venv: $(STAMP) ## Build .venv with the pinned dependencies and this package

# The stamp is written last, so an interrupted installation starts afresh.
$(STAMP): requirements/pinned.txt setup.cfg setup.py pyproject.toml $(REBUILD)
	@$(CHECK_PYTHON)
	@if [[ "$$(cat $(STAMP) 2>/dev/null)" == "$$REPOSITORY" ]]; then rm $(STAMP); \
	else $(call CREATE_VENV,.venv); fi
	@echo "Installing the pinned dependencies into .venv (about 3 GB, one to three minutes)"
	@$(INSTALL) -c requirements/pinned.txt torch torchvision
	@$(INSTALL) --no-deps -r requirements/pinned.txt
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@env -u PYTHONDONTWRITEBYTECODE $(PY) -W ignore -c "$$FIRST_IMPORT" >/dev/null
	@echo "$$REPOSITORY" > $(STAMP)

define DEMO
$(PY) -m mmssl_ext.datasets.demo --out $(DEMO_DATA)
$(PY) tools/chain.py configs/chains/$(subst -,_,$@).py --work-dir $(DEMO_RUN) --rerun \
	--jobs $(DEMO_JOBS)
endef

demo demo-full: export DEMO_ROOT := $(DEMO_DATA)
demo demo-full: export OMP_WAIT_POLICY ?= PASSIVE

demo: venv ## Draw scenes, pretrain ASCL, carry it to a segmentor, one page (5 minutes)
	$(DEMO)

demo-full: venv ## The same with every transfer; keeps what `make demo` has finished
	$(DEMO)

# All tests of a file run on one worker, so that what the file shares is made once. More
# workers than 16 would wait for the longest file.
TESTS = $(PY) -m tests.supervise -q -n $(WORKERS) --maxprocesses 16 --dist loadfile

define CHECKS
$(PY) -m mmssl_ext check-env
$(PY) -m ruff check .
$(PY) -m ruff format --check .
$(PY) -m mypy mmssl_ext
endef

test test-quick test-all: export OMP_NUM_THREADS ?= 1
test test-quick test-all: export OMP_WAIT_POLICY ?= PASSIVE

test: venv ## Check the environment, lint, type-check and run the tests (10 minutes)
	$(CHECKS)
	$(TESTS) $(PYTEST_ARGS)

test-quick: venv ## Run the tests that take a moment each, for a change under way (2 minutes)
	$(TESTS) --quick $(PYTEST_ARGS)

test-all: venv ## The same with every slow test and whole matrix
	$(CHECKS)
	$(TESTS) -m "not slurm" $(PYTEST_ARGS)

test-faults: export OMP_NUM_THREADS ?= 1
test-faults: venv ## Inject every fault of docs/faults.md and print the table (20 minutes)
	$(PY) -m pytest -q --faults $(PYTEST_ARGS)

test-slurm: export OMP_NUM_THREADS ?= 1
test-slurm: venv ## Install Slurm where it is missing (as root), start two nodes, test on them
	@command -v slurmctld > /dev/null || [ "$$(id -u)" != 0 ] || { \
		apt-get update -q && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install \
		-qy --no-install-recommends munge slurm-client slurmctld slurmd; } || true
	$(PY) -m pytest -q -rs -m slurm tests/slurm $(PYTEST_ARGS)

# Left out: tests marked slow, fault or slurm, and what does not depend on versions.
FAST := -m "not slow and not fault and not slurm" --ignore=tests/docs \
	--ignore=tests/slurm --ignore=tests/faults --ignore=tests/test_benchmarks.py \
	--ignore=tests/test_packaging.py --ignore=tests/test_files.py

test-newest test-oldest: export OMP_NUM_THREADS ?= 2
test-newest test-oldest: export OMP_WAIT_POLICY ?= PASSIVE

test-newest: .venv/newest/.stamp ## Run the fast tests with the newest releases (6 GB)
	.venv/newest/bin/python -m mmssl_ext check-env
	.venv/newest/bin/python -m pytest -q $(FAST) $(PYTEST_ARGS)

test-oldest: .venv/oldest/.stamp ## Run the fast tests with the lowest versions of setup.cfg (5 GB)
	.venv/oldest/bin/python -m mmssl_ext check-env
	.venv/oldest/bin/python -m pytest -q $(FAST) $(PYTEST_ARGS)

# pip resolves everything but the onedl packages, which name packages that are not wanted
# (see requirements/pinned.txt).
$(VERSIONS): .venv/%/.stamp: requirements/%.txt $(STAMP)
	@$(call CREATE_VENV,$(@D))
	@echo "Installing requirements/$*.txt into $(@D) (about 5 GB, several minutes)"
	@grep -v ^onedl- $< | $(INSTALL_INTO) -r /dev/stdin
	@grep ^onedl- $< | $(INSTALL_INTO) --no-deps -r /dev/stdin
	@$(INSTALL_INTO) --no-deps --no-build-isolation -e .
	@touch $@

test-upstream: .venv/upstream/.stamp ## Run the tests of models with mmengine and mmpretrain by OpenMMLab
	PYTHONPATH=.venv/upstream $(PY) -m pytest -q $(FAST) tests/models $(PYTEST_ARGS)

# In a folder of their own, which PYTHONPATH puts before the builds that are installed.
.venv/upstream/.stamp: requirements/upstream.txt $(STAMP)
	@rm -rf $(@D)
	@$(INSTALL) --no-deps --target $(@D) -r requirements/upstream.txt
	@touch $@

dist: venv ## Build wheel and sdist into dist
	rm -rf dist
	$(PY) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(PY) setup.py --quiet sdist

test-wheel: venv ## Install the wheel into an empty environment elsewhere, use it (5 GB)
	$(PY) -m tests.wheel

docs: venv ## Build the documentation into docs/_build/html (Python 3.11 or newer)
	$(PY) -m sphinx -E -W --keep-going -q -b html docs docs/_build/html
	@echo "Documentation: docs/_build/html/index.html"

lint: venv ## Check style with ruff
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

typecheck: venv ## Check types with mypy
	$(PY) -m mypy mmssl_ext

format: venv ## Format the code and fix what ruff can fix
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

peers: $(PEERS) ## Install the libraries that the benchmarks compare with

# In a folder of their own that only the benchmarks look into. pip would leave old files
# in a folder that is there already.
$(PEERS): requirements/peers.txt $(STAMP)
	@rm -rf $(@D)
	@$(INSTALL) --no-deps --target $(@D) -r requirements/peers.txt
	@touch $@

bench: venv ## Run the benchmarks and draw the results (15 minutes on an idle machine)
	@$(MAKE) --no-print-directory peers \
	|| echo "Not all peers could be installed; the benchmarks leave those out." >&2
	$(PY) benchmarks/queue_loss.py
	$(PY) benchmarks/queue_parts.py
	$(PY) benchmarks/dense_loss.py
	$(PY) benchmarks/inter_branch.py
	$(PY) benchmarks/step.py
	mkdir -p work_dirs
	$(PY) benchmarks/checkpoint.py --folder work_dirs
	$(PY) benchmarks/pipeline.py
	$(PY) benchmarks/scale.py
	$(PY) benchmarks/plot.py

clean: ## Remove .venv, caches and build leftovers; data and runs stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define FIRST_IMPORT
import cv2, matplotlib.pyplot, rich.console, torchvision
import mmpretrain.datasets, mmpretrain.engine, mmpretrain.models
import mmssl_ext.transfer.detection, mmssl_ext.transfer.segmentation
import sklearn.linear_model, sklearn.svm, torch.utils.tensorboard
import _pytest.config, mmssl_ext
endef
export FIRST_IMPORT

define CHECK_PYTHON
command -v "$(PYTHON)" >/dev/null || { \
  echo "No '$(PYTHON)' was found. Name a Python 3.10 to 3.12: make venv PYTHON=/path/to/python3.11" >&2; exit 1; }; \
version="$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"; \
case "$$version" in \
  3.10|3.11|3.12) ;; \
  2.*|3.[0-9]) echo "'$(PYTHON)' is Python $$version, but mmssl_ext needs 3.10 or newer. Name another one: make venv PYTHON=python3.11" >&2; exit 1 ;; \
  *) echo "Warning: '$(PYTHON)' is Python $$version; the pinned dependencies are tested with 3.10 to 3.12." >&2 ;; \
esac
endef

# Debian and Ubuntu ship python3 without ensurepip; there virtualenv or the system's pip
# can still fill the environment.
define CREATE_VENV
rm -rf $(1); \
"$(PYTHON)" -m venv $(1) >/dev/null 2>&1 \
|| { rm -rf $(1); "$(PYTHON)" -m virtualenv --quiet $(1) 2>/dev/null; } \
|| { rm -rf $(1); "$(PYTHON)" -m venv --without-pip $(1) 2>/dev/null \
     && "$(PYTHON)" -m pip --python $(1)/bin/python install --quiet pip 2>/dev/null; } \
|| { rm -rf $(1); echo "'$(PYTHON)' cannot create a virtual environment. On Debian or Ubuntu: apt install python3-venv; elsewhere: $(PYTHON) -m pip install virtualenv" >&2; exit 1; }
endef
