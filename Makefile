# The only two commands a newcomer needs: `make run` and `make test`.  Both set everything up first.
.DEFAULT_GOAL := help
SHELL := /bin/sh

PYTHON_VERSION := $(shell cat .python-version)
PYTHON ?= python3
ARGS ?=

# An own uv is installed into .uv only where there is none.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
# uv does not read pip's settings; pass on the two that decide whether an install works here at all.
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif
ifdef PIP_CERT
export SSL_CERT_FILE ?= $(PIP_CERT)
endif

# Where images and build machines forbid compiled modules, each of a run's many processes would compile all that it imports anew: seconds of each.
unexport PYTHONDONTWRITEBYTECODE

# Versions with the digests of their files, and no names of hosts.
COMPILE = $(UV) pip compile --quiet --generate-hashes --python-version $(PYTHON_VERSION) \
  --no-header --no-annotate --no-emit-index-url --no-emit-find-links
BUILD := --build-constraint infra/pins/build.txt

# What every process of a run shares: no window, one thread per process, caches inside the project.
export MPLBACKEND := Agg
export OMP_NUM_THREADS ?= 1
export ZPRL_CACHE ?= $(CURDIR)/.cache

# Two workers, a file of tests each, in order: files of few long tests would otherwise come last, and alone.  What measures real time has the
# machine to itself afterwards.
SIDE_BY_SIDE := --numprocesses 2 --dist loadfile --no-loadscope-reorder
# What takes minutes is left to `make test-all`.
LEFT_OUT := and not exhaustive

.PHONY: help setup setup-mujoco run test test-all test-gpu test-mujoco lint ui doctor pins clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 24

# Where DVC keeps pickles.  Its default is a folder of /var/tmp that other users can change; zprl takes this one, too.
run: export DVC_SITE_CACHE_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/zprl/dvc
run: setup ## set up, fetch the demonstrations, run the whole pipeline
	@(umask 077 && mkdir -p "$$DVC_SITE_CACHE_DIR")
	@.venv/bin/dvc pull --quiet data.dvc
	@.venv/bin/zprl run $(ARGS)

test: setup ## set up and run the tests; choose with ARGS="-k gate"
	@$(if $(ARGS),.venv/bin/python -m pytest $(ARGS),.venv/bin/python -m pytest -m "not realtime $(LEFT_OUT)" $(SIDE_BY_SIDE) && .venv/bin/python -m pytest -m "realtime $(LEFT_OUT)")
	@$(if $(ARGS),,$(MAKE) --no-print-directory test-mujoco LEFT_OUT="$(LEFT_OUT)")

test-all: LEFT_OUT =
test-all: export PYTEST_ADDOPTS = --hypothesis-profile=explore
test-all: test ## the same with what takes minutes each: every task, every stage, both physics

test-gpu: setup ## on a machine with a GPU: learners and worlds on CUDA
	@.venv/bin/python -m pytest -m gpu --device cuda $(ARGS)

test-mujoco: setup-mujoco ## the tests of the MuJoCo worlds alone, in their own environment
	@.venv-mujoco/bin/python -m pytest tests/mujoco $(if $(ARGS),$(ARGS),-m "not realtime $(LEFT_OUT)" $(SIDE_BY_SIDE))

setup: .venv/.ready ## make the environment (Isaac Lab, kit-less)

setup-mujoco: .venv-mujoco/.ready ## make a second environment for the MuJoCo worlds, which cannot share Isaac's

.venv/.ready: infra/pins/isaac.txt infra/pins/build.txt pyproject.toml .python-version | $(UV)
.venv-mujoco/.ready: infra/pins/mujoco.txt infra/pins/build.txt pyproject.toml .python-version | $(UV)

.venv/.ready .venv-mujoco/.ready:
	@test -x $(@D)/bin/python || $(UV) venv --quiet --python $(PYTHON_VERSION) $(@D) || { \
	  echo "Python $(PYTHON_VERSION) was neither found nor could it be fetched."; \
	  echo "  remedy: install it (e.g. 'apt install python$(PYTHON_VERSION)', 'pyenv install $(PYTHON_VERSION)') and run make again"; exit 4; }
	@echo "installing $< into $(@D) (once, some minutes with a cold cache)"
	@$(UV) pip install --quiet --python $(@D)/bin/python --require-hashes $(BUILD) -r $< || { \
	  echo "The pinned packages could not be installed."; \
	  echo "  remedy: check the network and about 12 GB of free disk; behind an own index set UV_DEFAULT_INDEX"; exit 4; }
	@$(UV) pip install --quiet --python $(@D)/bin/python --no-deps $(BUILD) -e .
	@touch $@

.uv/bin/uv: infra/pins/uv.txt
	@$(PYTHON) -m venv .uv && .uv/bin/python -m pip install --quiet --require-hashes -r $< && touch $@ || { \
	  echo "uv, the installer, could not be set up with $(PYTHON)."; \
	  echo "  remedy: install Python's venv module (Debian: apt install python3-venv) or uv itself"; rm -rf .uv; exit 4; }

pins: | $(UV) ## compile infra/pins/*.txt anew from pyproject.toml
	$(COMPILE) --extra isaac --extra robot --extra realsense --extra robot-sim --extra s3 --group dev pyproject.toml -o infra/pins/isaac.txt
	$(COMPILE) --extra mujoco --extra ray --extra s3 --group dev pyproject.toml -o infra/pins/mujoco.txt
	@for name in uv build; do $(COMPILE) infra/pins/$$name.in -o infra/pins/$$name.txt; done
	@for name in mlflow prefect; do $(COMPILE) --constraints infra/pins/isaac.txt infra/pins/$$name.in -o infra/pins/$$name.txt; done

lint: setup ## style (ruff), types (mypy) and house style
	@.venv/bin/python -m ruff check . && .venv/bin/python -m ruff format --check .
	@.venv/bin/python -m mypy
	@.venv/bin/python -m pytest -q tests/style

ui: setup ## open MLflow and Prefect on this machine only
	@.venv/bin/zprl ui

doctor: setup ## say what is missing and how to get it
	@.venv/bin/zprl doctor

clean: ## remove environments and caches, never results
	rm -rf .venv .venv-mujoco .uv .cache .mypy_cache .pytest_cache .ruff_cache
