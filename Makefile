# Everything here needs Python ≥ 3.10, make and a package index; .venv is made when it is missing.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
.DEFAULT_GOAL := help

.PHONY: help demo test lab student slides docs export path runall pages format fuzz bench bench-models gpu record readme hooks install clean
help:                    ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14
demo: install            ## train SNet and a U-Net on a real MRI, predict an unseen slab, write demo/report.html
	$(BIN)/snet demo --out demo
test: install            ## what CI runs: style, export in sync, every page, every test, the wheel
	$(BIN)/python .ci/check.py
lab: install             ## JupyterLab on the course, on this machine only
	$(BIN)/jupyter lab --ip 127.0.0.1 --notebook-dir nbs nbs/course.ipynb
student: install         ## clean copies of the lessons in work/, without solutions, with nbgrader's tags
	$(BIN)/python .ci/student.py
slides: install          ## a slide deck of every lesson in site/slides/
	$(BIN)/python .ci/slides.py
docs: install            ## pages and API reference as a searchable site in site/
	$(BIN)/python .ci/docs.py
export: install          ## notebooks -> snetlib/
	$(BIN)/nbdev_export && $(BIN)/nbdev_clean
path: install            ## headers, links to the neighbours, and the page of the course
	$(BIN)/python .ci/path.py
runall: install          ## Run All of every page in a bare clone, counted and timed
	$(BIN)/python .ci/runall.py
pages: install           ## execute every page and write what it prints and draws
	$(BIN)/python .ci/pages.py write && $(BIN)/python .ci/readme.py
format: install          ## one style for pages, tests and scripts
	$(BIN)/ruff check --fix nbs tests .ci setup.py && $(BIN)/ruff format nbs tests .ci setup.py
fuzz: install            ## 5,000 damaged files: the right result or one sentence; N=… and SEED=… change it
	$(BIN)/python tests/fuzz.py --inputs $(or $(N),5000) --seed $(or $(SEED),0)
bench: install           ## speed and memory as ratios within one run
	$(BIN)/python tests/bench/run.py
bench-models: install    ## what every network of the papers costs -> data/results/costs.csv
	$(BIN)/python tests/bench/bench_costs.py --rounds 3 --write data/results/costs.csv
gpu: install             ## ten minutes on an NVIDIA GPU: speed, memory, precision, a run that continues
	$(BIN)/python tests/bench/gpu.py
record: install         ## the last demonstration's picture and scores -> README
	mkdir -p nbs/images data/results && cp demo/picture.png nbs/images/demo.png && cp demo/scores.csv data/results/demo.csv
readme: install          ## nbs/index.ipynb -> README.md
	$(BIN)/python .ci/readme.py
hooks: install           ## git hooks that keep notebooks clean and merges readable
	$(BIN)/nbdev_install_hooks
install: $(READY)        ## the environment in .venv, once; make install CPU=1: without CUDA
clean:                   ## remove the environment and everything that can be made again
	rm -rf .venv build dist *.egg-info demo

$(READY): settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("snetlib needs Python 3.10 or newer; try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	@echo "Installing into .venv: about 3 GB to download and 7 GB on disk, most of it PyTorch; once."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
ifdef CPU
	@echo "CPU=1: PyTorch without CUDA, about 1 GB on disk in place of 5, where the package index offers it."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)+cpu" \
	|| echo "The package index has no PyTorch for the processor alone; the usual one is installed."
endif
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,baselines]'
	@touch $(READY)
