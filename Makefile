# The two commands of the README do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
TORCH  := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
SHELL  := bash
# In the order of their names, the folders of long tests come first. Workers have a thread each.
JOBS   ?= 2
SPREAD := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-slurm test-slow fault-battery lint format package golden clean

help:            ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 14

$(BIN)/hpcscale: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "hpcscale needs Python 3.10 or newer, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	@# torch first and by its exact version: a range may bring in gigabytes of another build
	$(BIN)/python -m pip install -q --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(BIN)/hpcscale   ## sweeps/quickstart.yaml end to end on this machine; prints where the report is
	$(BIN)/hpcscale sweep sweeps/quickstart.yaml --executor local

test: $(BIN)/hpcscale   ## all tests that fit on a small machine; Slurm's where its packages are installed
	$(SPREAD) -m "not slow"

test-slurm: $(BIN)/hpcscale  ## the tests on a real Slurm alone (root; see slurm/devcluster)
	$(BIN)/python -m pytest -m slurm tests/cluster

test-slow: $(BIN)/hpcscale   ## the long tests
	$(BIN)/python -m pytest -m "slow and not faults"

fault-battery: $(BIN)/hpcscale  ## disturb trainings in every way; the table goes to docs/reliability.md
	HPCSCALE_FAULT_TABLE=docs/reliability.md $(BIN)/python -m pytest -m faults tests/faults

lint: $(BIN)/hpcscale   ## ruff, mypy, shellcheck
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	@if command -v shellcheck >/dev/null; then git ls-files -z 'slurm/*' | xargs -0 grep -lZ '^#!.*bash' | xargs -0 shellcheck; \
	else echo "shellcheck is not installed: shell scripts were not checked"; fi

format: $(BIN)/hpcscale  ## let ruff write the format
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

package: $(BIN)/hpcscale ## wheel and sdist in dist/
	$(BIN)/python -m build

clean:           ## what make has made, the run directories excepted
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
