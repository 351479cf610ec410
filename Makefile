# `make` lists what there is. Everything runs in .venv, made here once and kept until
# pyproject.toml or requirements.lock changes.

PYTHON ?= python3
EXTRAS ?= dev,parity
BIN := .venv/bin
LOG := .venv/install.log

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test slow golden beam lock clean

help:
	@echo 'make demo              set up .venv and run the main job on real video (about 6 minutes)'
	@echo '                       make demo ARGS="--seeds 3" hands options to tgvlm demo'
	@echo 'make test              lint, format, types and tests (about 10 minutes)'
	@echo '                       make test ARGS="-k spans -x" hands options to pytest'
	@echo 'make slow              the tests that take longer'
	@echo 'make golden DIR=...    compare with the recorded outputs of the original code'
	@echo 'make beam              the tests that need Apache Beam, in an environment of its own'
	@echo 'make lock              resolve the newest dependencies into requirements.lock'
	@echo 'make clean             remove .venv, caches and build leftovers'
	@echo
	@echo 'EXTRAS=dev leaves torch out of make test; what compares with it then skips.'
	@echo 'PYTHON=python3.12 picks another interpreter for .venv (3.11 or newer).'

demo: .venv/core
	@$(BIN)/tgvlm demo $(ARGS)

# Files in order: the long ones are not among the last, for which one core would wait.
test: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

slow: .venv/dev
	$(BIN)/pytest -m slow $(ARGS)

golden: .venv/dev
	@test -n '$(DIR)' || { echo 'make golden needs the folder: make golden DIR=path/to/golden'; exit 2; }
	$(BIN)/pytest tests/golden --golden '$(DIR)' $(ARGS)

# Beam's bounds on protobuf, pyarrow and others exclude what requirements.lock pins.
beam:
	@test -x .venv-beam/bin/python || $(PYTHON) -m venv .venv-beam
	.venv-beam/bin/python -m pip install --quiet --disable-pip-version-check \
	  -e '.[beam,gcs]' beartype psutil pytest pytest-timeout
	.venv-beam/bin/python -m pytest -m 'slow or not slow' tests/data/test_beam_shards.py \
	  tests/data/test_shard_tasks.py tests/data/test_buckets.py $(ARGS)

# One installer for both sets: uv where it is there, else pip. Its talk goes to a log that is shown
# only when something went wrong. $(1) is what to install.
define install
@echo 'installing $(1) into .venv (a minute or two, once)'
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
  echo '$(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 ...'; exit 2; }
@if command -v uv > /dev/null; then \
  { test -x $(BIN)/python || uv venv --quiet --python '$(PYTHON)' .venv; } && \
  uv pip install --quiet --python $(BIN)/python -c requirements.lock -e '$(1)' > $(LOG) 2>&1; \
else \
  { $(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv .venv; } && \
  $(BIN)/python -m pip install --quiet --disable-pip-version-check \
    --no-compile -c requirements.lock -e '$(1)' > $(LOG) 2>&1; \
fi || { cat $(LOG); exit 1; }
@touch $@
endef

.venv/core: pyproject.toml requirements.lock
	$(call install,.)

.venv/dev: pyproject.toml requirements.lock
	$(call install,.[$(EXTRAS)])
	@touch .venv/core

lock:
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check '.[dev,parity]'
	{ sed -n '/^#/p' requirements.lock; \
	  build/lock/bin/python -m pip freeze --exclude tgvlm_jax | sed 's/+cpu$$//'; } > build/requirements.lock
	mv build/requirements.lock requirements.lock

clean:
	rm -rf .venv .venv-beam .pytest_cache .ruff_cache build *.egg-info
	find tgvlm_jax tests configs -name __pycache__ -type d -prune -exec rm -rf {} +
