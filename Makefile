# The recipes stand in make.py, which also runs without make: python make.py test
PYTHON ?= python3
RECIPES := help demo test lab student slides docs export path runall pages format clean-wheel fuzz \
	bench bench-load bench-models gpu record readme hooks install clean
.DEFAULT_GOAL := help

.PHONY: $(RECIPES)
$(RECIPES):
	@$(PYTHON) make.py $@
