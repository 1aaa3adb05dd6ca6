# Each target but the wheel's makes .venv if it is missing. PYTHON chooses the interpreter that makes it.
PYTHON ?= python3
BIN := .venv/bin
TESTS := $(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile
DATA ?= $(ART_SENSREG_DATA)

.PHONY: bench test test-all test-machines test-device test-versions coverage docs notebook test-wheel gpu gpu-mnist gpu-cifar10 lint results-mnist clean

.venv/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[bench,callbacks,dev,docs]'
	touch $@

# The main job on scikit-learn's digits: train every defence, attack it, print the table.
bench: .venv/installed
	$(BIN)/python benchmarks/run_art_suite.py --dataset digits

# Everything that ends in minutes.
test: .venv/installed
	OMP_NUM_THREADS=1 $(TESTS)

# The slow tests too.
test-all: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# The tests as if on other machines: two other instruction sets, two threads, and networks that were rounded differently
# while they were trained.
test-machines: .venv/installed
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 OMP_NUM_THREADS=1 $(TESTS)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=2 $(TESTS) -n 1
	ART_SENSREG_ROUNDING=1 OMP_NUM_THREADS=1 $(TESTS) -p tests.support.rounding

# What a GPU would do, without one: the tests marked `gpu` and those of tests/device on an emulated device.
test-device: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p tests.device.plugin --assert=plain -n 2 tests

# docs/results/gpu.json and gpu.md, on a machine with a GPU: at most nine minutes. GPU="--emulated" does without one.
gpu: .venv/installed
	$(BIN)/python benchmarks/gpu.py $(GPU)

# A piece of an experiment on a GPU, at most nine minutes; the same target again goes on.
gpu-mnist gpu-cifar10: .venv/installed
	$(BIN)/python benchmarks/experiment.py $@ --minutes 8

# The tests in another environment, with another Python or torch: ENVIRONMENT=/path/to/venv. The line goes into
# docs/results/versions.md with `make test-versions ENVIRONMENT=... RECORD=1`.
test-versions:
	OMP_NUM_THREADS=1 $(ENVIRONMENT)/bin/python benchmarks/tested_versions.py $(if $(RECORD),--record)

# The share of lines that the tests run, file by file, into docs/results/coverage.md; the lines themselves into build/coverage.
coverage: .venv/installed
	OMP_NUM_THREADS=1 $(TESTS) --cov --cov-report=html:build/coverage
	(printf '# What the tests run\n\nBy `make coverage`: the tests that end in minutes, on a machine without a GPU.\n\n'; \
	 $(BIN)/coverage report --format=markdown) > docs/results/coverage.md

# The documentation site, into build/docs. Its gallery and its notebook are run; any warning is an error.
docs: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -q -W --keep-going -b html docs build/docs
	OMP_NUM_THREADS=1 $(BIN)/python docs/notebooks/execute.py --check

# The wheel in an empty environment: `art-sensreg bench` ends with its table, `audit` runs on a network in a file.
test-wheel:
	PYTHON=$(PYTHON) bash tests/wheel.sh

# The notebook of the documentation: execute it and store its outputs.
notebook: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python docs/notebooks/execute.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# docs/results/: needs mnist.npz in the folder ART_SENSREG_DATA; hours in all.
results-mnist: .venv/installed
	PYTHON=$(BIN)/python sh benchmarks/make_results.sh

clean:
	rm -rf .venv build docs/auto_gallery docs/sg_execution_times.rst *.egg-info .mypy_cache .ruff_cache .pytest_cache
