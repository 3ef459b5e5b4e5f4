# Every target sets itself up; a bare machine needs Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint format bench scores pixels docs docs-links clean

demo: $(VENV)/.core
	$(BIN)/stitchrl demo

# Tests start many interpreters: with the compiled files kept, each is there in three quarters of the time.
test test-all: export PYTHONDONTWRITEBYTECODE =

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m ""

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev .bench/.ready
	cd benchmarks && ../$(BIN)/python demo.py && ../$(BIN)/python coverage.py && ../$(BIN)/python false_go.py && ../$(BIN)/python tradeoff.py && ../$(BIN)/python verdicts.py \
		&& ../$(BIN)/python throughput.py

# The peer lives apart: it pins versions that stitchrl does not. `make scores DATA=folder` needs the MuJoCo logs.
.bench/.ready: benchmarks/requirements-peer.txt | $(VENV)/bin/python
	$(PYTHON) -m venv .bench
	.bench/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements-peer.txt
	.bench/bin/python -m pip install --quiet --disable-pip-version-check "gymnasium[mujoco]==1.4.0" "mujoco==4.0.0"
	@touch $@

# MinAtar's other requirements only draw.
pixels: $(VENV)/.dev .bench/.ready
	for python in $(BIN)/python .bench/bin/python; do $$python -m pip install --quiet --disable-pip-version-check --no-deps minatar==1.0.15; done
	cd benchmarks && ../$(BIN)/python pixels.py

scores: $(VENV)/.dev .bench/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "gymnasium[mujoco]==1.4.0" "mujoco==4.0.0"
	cd benchmarks && ../$(BIN)/python scores.py --data $(abspath $(DATA))

# docs/_build/html/index.html. Warnings are errors; a link to a file that is not there is one. Addresses of other sites are
# looked at by docs-links, which needs a network.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -b html -n -W --keep-going -q -j auto docs docs/_build/html

docs-links: $(VENV)/.docs
	$(BIN)/python -m sphinx -b linkcheck -q docs docs/_build/links

clean:
	rm -rf docs/_build docs/api docs/benchmarks .bench $(VENV) .pytest_cache .ruff_cache .mypy_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "stitchrl needs Python 3.11 or newer; '$(PYTHON)' is older. Try: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs,lab]'
	@touch $@ $(VENV)/.core

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.core
