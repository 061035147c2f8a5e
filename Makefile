# Everything here needs Python ≥ 3.10, make and a package index; .venv is made when it is missing.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lab export bench record readme hooks install clean
demo: install            ## train SNet and a U-Net on a real MRI, predict an unseen slab, write demo/report.html
	$(BIN)/snet demo --out demo
test: install            ## what CI runs: export in sync, notebooks clean, every page, every test, the wheel
	$(BIN)/python .ci/check.py
lab: install             ## JupyterLab on the course
	$(BIN)/jupyter lab --notebook-dir nbs
export: install          ## notebooks -> snetlib/
	$(BIN)/nbdev_export && $(BIN)/nbdev_clean
bench: install           ## speed and memory as ratios within one run
	$(BIN)/python tests/bench/run.py
record: install         ## the last demonstration's picture and scores -> README
	mkdir -p nbs/images data/results && cp demo/picture.png nbs/images/demo.png && cp demo/scores.csv data/results/demo.csv
readme: install          ## nbs/index.ipynb -> README.md
	$(BIN)/python .ci/readme.py
hooks: install           ## git hooks that keep notebooks clean and merges readable
	$(BIN)/nbdev_install_hooks
install: $(READY)
clean:                   ## the environment and everything that can be made again
	rm -rf .venv build dist *.egg-info demo

$(READY): settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("snetlib needs Python 3.10 or newer; try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	@echo "Installing into .venv: about 3 GB to download and 7 GB on disk, most of it PyTorch; once."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,baselines]'
	@touch $(READY)
