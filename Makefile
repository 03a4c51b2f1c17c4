PYTHON ?= python3
BIN := .venv/bin
SCALE ?= embedded
SWEEP ?= main
LAUNCHER ?= none
RECORDS ?= results/embedded/records.tar.zst
# Compiled modules are kept even where the environment forbids it: imports are three times as fast.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo grid figures report test test-fast test-slurm check base clean
help:
	@echo "make demo     LoRA against full finetuning, offline, in minutes on two cores"
	@echo "make grid     a sweep: SWEEP=main SCALE=embedded|small|paper, LAUNCHER=none (list), local or slurm"
	@echo "make figures  every figure as PDF and PNG, by executing the notebooks"
	@echo "make report   one HTML page with claims, tables, figures; RECORDS=$(RECORDS)"
	@echo "make test     all tests; make test-fast leaves the slow ones out; make check lints and types"
	@echo "make test-slurm  the tests that need a Slurm, on two nodes that it sets up here (as root)"
	@echo "make base     pre-train the packaged base model of the embedded scale again"

# The environment is made once, and again only when the dependencies change.
.venv/installed: pyproject.toml
	test -x $(BIN)/uv || { $(PYTHON) -m venv .venv && $(BIN)/pip install --quiet uv; }
	$(BIN)/uv pip install --python $(BIN)/python --editable '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/python -m lvf.grid sweep=demo launcher=local
	$(BIN)/python -m lvf.report

grid: .venv/installed
	$(BIN)/python -m lvf.grid sweep=$(SWEEP) scale=$(SCALE) launcher=$(LAUNCHER) $(GRID)

figures: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m lvf.reporting.figures records=$(RECORDS)

report: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m lvf.report records=$(RECORDS) paper=true page=true

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-fast: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

test-slurm: .venv/installed
	@if [ "$$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then \
		echo "skipped: test-slurm sets up a Slurm with apt, namespaces and root rights"; exit 0; fi; \
	launchers/test_cluster install && launchers/test_cluster start || exit 1; \
	eval "$$(launchers/test_cluster env)"; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster --durations 5; status=$$?; \
	launchers/test_cluster stop; exit $$status

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

base: .venv/installed
	$(BIN)/python -m lvf.embedded.pretrain

clean:
	rm -rf runs shards
