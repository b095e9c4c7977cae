# Everything a newcomer needs: `make quickstart` and `make test`. Both make the virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
QUICKSTART := runs/quickstart
# tests run in one process per core, at most four; a file's tests stay together, because they share what is slow to make
PARALLEL ?= --numprocesses auto --maxprocesses 4 --dist loadfile
# 1 is the full dose of results/reliability/README.md: about 20 minutes on two cores
TORTURE_SCALE ?= 1
TORTURE_OUT ?= results/reliability

# SPU (docs/adapters.md) needs a Python before 3.12 and numpy before 2, and so an environment of its own
SPU_PYTHON ?= 3.11
SPU_VENV ?= $(VENV)-spu
SPU := runs/adapters
# folder, images, recorded logits, protocol
SPU_RUNS := 'field 10 exact.floor SEMI2K' 'field 2 logits.floor SEMI2K' 'field 1 exact.floor CHEETAH' \
	'ring 2 logits.floor SEMI2K' 'ring 1 logits.floor CHEETAH'

.DEFAULT_GOAL := help
.PHONY: help install install-dev quickstart private-inference test test-slow lowest torture check docs \
	notebooks benchmark spu clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

$(VENV)/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "circa_train needs Python 3.11 or newer; say which with: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(VENV)/.installed: pyproject.toml $(VENV)/bin/uv
	@echo "installing circa_train and what it needs (torch is large: a minute or two) ..."
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/bin/uv
	@echo "installing circa_train with what its tests need (torch is large: a minute or two) ..."
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev]'
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed ## Make .venv and install the package

install-dev: $(VENV)/.installed-dev ## The same, with what the tests need

quickstart: $(VENV)/.installed ## Train, truncate, fine-tune, verify and plot on embedded data (about three minutes)
	@echo "[1/6] training resnet8 on the embedded digits, with exact ReLUs"
	@$(BIN)/python scripts/train.py +experiment=quickstart_train
	@echo "[2/6] its accuracy when every sign test drops k bits, both modes, five fault draws each"
	@$(BIN)/python scripts/evaluate.py -m 'checkpoint=$(QUICKSTART)/train/*/best.pt' +sweep=quickstart_truncation
	@echo "[3/6] fine-tuning beyond the knee, with the faults in the loop"
	@$(BIN)/python scripts/train.py -m 'checkpoint=$(QUICKSTART)/train/*/best.pt' +sweep=quickstart_finetune
	@echo "[4/6] accuracy of the fine-tuned networks"
	@$(BIN)/python scripts/evaluate.py -m 'checkpoint=$(QUICKSTART)/sweeps/finetune/*/best.pt' +sweep=quickstart_finetuned
	@echo "[5/6] the same sign tests in a garbled circuit, at every site"
	@$(BIN)/python scripts/verify.py 'checkpoint=$(QUICKSTART)/train/*/best.pt' +experiment=quickstart_verify
	@echo "[6/6] table, figures, and a page with all of it"
	@$(BIN)/python scripts/plot.py runs=$(QUICKSTART) out=$(QUICKSTART)/plots report=true
	@echo "everything lies under $(QUICKSTART)/: the table is plots/results.csv, the figure plots/accuracy_vs_k.png;"
	@echo "open $(QUICKSTART)/plots/report.html in a browser to look at all of it"

private-inference: $(VENV)/.installed ## Two parties classify ten images with the quickstart's network (under a minute)
	@ls $(QUICKSTART)/train/*/best.pt >/dev/null 2>&1 || { echo "[0/2] training the quickstart's resnet8"; \
		$(BIN)/python scripts/train.py +experiment=quickstart_train; }
	@echo "[1/2] its integer network"
	@$(BIN)/python scripts/export.py 'checkpoint=$(QUICKSTART)/train/*/best.pt' fault=poszero fault.k=12 images=100 \
		draws.count=1 run.root=$(QUICKSTART) run.name=private
	@echo "[2/2] a server, a dealer and a client, in a process each; logits compared with the definition's"
	@folder=$$(ls -td $(QUICKSTART)/export/private-*/export | head -1); \
		$(BIN)/python scripts/serve.py export=$$folder connections=1 run.root=$(QUICKSTART) & \
		$(BIN)/python scripts/infer.py images=$$folder compare=$$folder limit=10 wait=30 run.root=$(QUICKSTART); \
		code=$$?; [ $$code = 0 ] || kill $$!; wait $$!; exit $$code

test: $(VENV)/.installed-dev ## Run the tests (minutes on two cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" $(PARALLEL)

test-slow: $(VENV)/.installed-dev ## Run the slow tests, too
	$(BIN)/python -m pytest -m "not gpu"

lowest: $(VENV)/.installed-dev ## The README's day with the oldest packages that pyproject.toml allows
	$(BIN)/uv venv --quiet --clear $(VENV)-lowest
	$(BIN)/uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct .
	CIRCA_TRAIN_PYTHON=$(CURDIR)/$(VENV)-lowest/bin/python $(BIN)/python -m pytest -m slow tests/test_readme.py

torture: $(VENV)/.installed-dev ## Kill jobs, attack files and messages, and print a table (TORTURE_SCALE=0.1: a look)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture --scale $(TORTURE_SCALE) --out $(TORTURE_OUT)

check: $(VENV)/.installed-dev ## Lint and check types
	$(BIN)/ruff check
	$(BIN)/mypy

docs: $(VENV)/.installed-dev ## Build the documentation site into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir site

notebooks: $(VENV)/.installed-dev ## Execute the notebooks and store them with their outputs (two minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.notebooks

benchmark: $(VENV)/.installed ## Print the speed and size table (under two minutes)
	$(BIN)/python scripts/benchmark.py benchmark=quick

$(SPU_VENV)/.installed: $(VENV)/bin/uv
	@$(BIN)/uv venv --quiet --clear --python $(SPU_PYTHON) $(SPU_VENV)
	@$(BIN)/uv pip install --quiet --python $(SPU_VENV)/bin/python 'spu==0.9.5' 'numpy<2'
	@touch $@

spu: $(VENV)/.installed $(SPU_VENV)/.installed ## Run the quickstart's network on SPU, two parties, and print what it cost
	@echo "[1/3] the quickstart's network, trained unless it is there"
	@$(BIN)/python scripts/train.py +experiment=quickstart_train
	@echo "[2/3] its exports: Circa's sign tests over a field, HummingBird's over a ring"
	@$(BIN)/python scripts/export.py 'checkpoint=$(QUICKSTART)/train/*/best.pt' images=100 draws.count=1 \
		run.root=$(SPU)/field fault=poszero fault.k=20
	@$(BIN)/python scripts/export.py 'checkpoint=$(QUICKSTART)/train/*/best.pt' images=100 draws.count=1 \
		run.root=$(SPU)/ring fault=bit_window fault.low=16 fault.high=28 rescaling=floor
	@echo "[3/3] SPU: minutes, and a table of equal logits"
	@rm -f $(SPU)/spu.jsonl
	@for run in $(SPU_RUNS); do set -- $$run; echo "$$run"; \
		$(SPU_VENV)/bin/python adapters/on_spu.py $(SPU)/$$1/export/*/export $$2 $$3 $$4 >> $(SPU)/spu.jsonl || exit 1; \
	done
	@$(BIN)/python adapters/costs.py $(SPU)/spu.jsonl

clean: ## Remove the virtual environment and caches (runs/ and data/ stay)
	rm -rf $(VENV) $(VENV)-lowest $(SPU_VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
