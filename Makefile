# Everything runs in a virtual environment of its own; nothing else on the machine is touched.
PYTHON ?= $(firstword $(wildcard $(shell command -v python3.11 python3.12 python3.13 python3)))
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo-results
# Where the data of the benchmarks and of the slow tests lie; see benchmarks/RESULTS.md.
DATA ?= ../shared/data

.PHONY: install demo test lint bench library clean

install: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[cgcnn,dask,dgl,relax,sevennet,train,test,lint]"
	@touch $@

demo: install
	$(BIN)/crysgen sample --composition Li2O -n 16 -o $(DEMO)/Li2O --overwrite
	$(BIN)/crysmetrics demo -o $(DEMO)/metrics --overwrite

test: install
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python benchmarks/run_all.py --data $(DATA)

# Everything the library of known structures holds and has learned, anew from the data: hours.
RETRIEVAL := crysgen/retrieval/data
TRAINING := $(BIN)/python -m crysgen.retrieval.training
library: install
	$(BIN)/python -m crysgen.retrieval.library.build --data $(DATA) -o $(RETRIEVAL)/library.npz
	$(TRAINING).train_similarity $(RETRIEVAL)/library.npz \
		-o $(RETRIEVAL)/similarity.npz --volumes $(RETRIEVAL)/volume.npz
	$(TRAINING).train_plausibility $(RETRIEVAL)/library.npz -o $(RETRIEVAL)/plausibility.safetensors
	$(TRAINING).fit_calibration $(RETRIEVAL)/library.npz -o $(RETRIEVAL)/calibration.json
	$(TRAINING).fit_probability $(RETRIEVAL)/library.npz -o $(RETRIEVAL)/probability.json

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info
