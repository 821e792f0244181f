# make run    fine-tune the embedded model with every notebook and write outputs/default/index.html
# make test   run the tests
# Each makes .venv and installs into it on first use. PYTHON, TORCH_INDEX, PROFILE, RUN_ID and ARGS can be set:
#   make run PROFILE=smoke        make test ARGS="tests/test_chat.py -k mask"
#   make bench                  how fast training, evaluation and cleaning are, beside their peers (about an hour)
#   make study                  every variant of the studies, for the reference that the notebooks show (hours)
#   make run TORCH_INDEX=https://download.pytorch.org/whl/cpu      torch without CUDA, on Linux

PYTHON ?= python3
VENV ?= .venv
PROFILE ?= cpu
RUN_ID ?= default
TORCH_INDEX ?=
ARGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test lint reference study bench clean

run: $(READY)
	$(BIN)/python -m nbhelpers run --profile $(PROFILE) --run-id $(RUN_ID) $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

reference: $(READY)
	$(BIN)/python -m nbhelpers run --profile cpu --run-id reference-run
	$(BIN)/python -m nbhelpers reference outputs/reference-run

study: $(READY)
	$(BIN)/python -m nbhelpers run notebooks/studies/*.ipynb --profile cpu --run-id study -p study full
	$(BIN)/python -m nbhelpers reference outputs/study --reference-folder outputs/reference/studies

bench: $(READY)
	$(BIN)/python -m pip install -q --disable-pip-version-check -r benchmarks/requirements.txt
	for name in startup generation loss_curves data_preparation training_throughput; do \
		$(BIN)/python benchmarks/$$name.py || exit 1; done

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); \
		sys.exit(0 if ok else "Python %d.%d found; 3.11 to 3.13 is needed: make PYTHON=python3.11 ..." % sys.version_info[:2])'
	@echo "Setting up $(VENV) (once, a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(if $(TORCH_INDEX),echo "Installing torch from $(TORCH_INDEX)" && \
		$(BIN)/python -m pip install -q --disable-pip-version-check --index-url $(TORCH_INDEX) $$(grep '^torch==' requirements.txt))
	@echo "Installing the tested set of packages (requirements.txt)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.txt
	@echo "Installing nbhelpers from this folder"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@
