# Everything sets itself up: `make demo` and `make test` are all there is to know.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint types check format docs hooks real drills gpu mutants bench clean

demo: $(INSTALLED)  ## the main job on generated tasks: minutes on 2 cores, nothing is downloaded
	$(BIN)/l2kd plan tune_configs/quickstart.yaml
	$(BIN)/l2kd sweep tune_configs/quickstart.yaml

test: $(INSTALLED)  ## the tests, some 9 minutes on 2 cores
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	$(BIN)/ruff check l2kd_ray tests benchmarks examples
	$(BIN)/ruff format --check l2kd_ray tests benchmarks examples

types: $(INSTALLED)
	$(BIN)/mypy

check: lint types test

docs: $(INSTALLED)  ## the documentation site, in site/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	$(BIN)/python -m mkdocs build --strict

hooks: $(INSTALLED)  ## lint, format and types before each commit
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pre-commit>=3.7,<5'
	$(BIN)/pre-commit install

drills: $(INSTALLED)  ## faults on purpose, more than 20 kills, clusters that come and go: 25 minutes
	$(BIN)/python -m pytest -m drill --timeout 1200
	$(BIN)/python tests/drills.py
	$(BIN)/python tests/cluster_drills.py

gpu: $(INSTALLED)  ## the tests that need a GPU
	$(BIN)/python -m pytest -m gpu

mutants: $(INSTALLED)  ## faults put in by hand, of which the tests notice at least 95 %: an hour
	$(BIN)/python tests/mutants.py

bench: $(INSTALLED)  ## speed of the stages and of sweeps, coverage of the intervals: 90 minutes
	$(BIN)/python benchmarks/measure.py
	$(BIN)/python benchmarks/step.py --models small
	$(BIN)/python benchmarks/step.py --models gpt2 --variants "ours" "ours, bf16"
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/structured.py
	$(BIN)/python benchmarks/sweeps.py
	$(BIN)/python benchmarks/coverage.py

real: $(INSTALLED)  ## the studies on real data and weights; L2KD_DATA and L2KD_MODELS say where
	for study in nlg_real mixed_real; do \
	    $(BIN)/l2kd sweep tune_configs/$$study.yaml data_dir=$(L2KD_DATA) \
	        student.model=$(L2KD_MODELS)/stories15M || exit; \
	done

format: $(INSTALLED)
	$(BIN)/ruff format l2kd_ray tests benchmarks examples
	$(BIN)/ruff check --fix l2kd_ray tests benchmarks examples

$(INSTALLED): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
