# Every target sets up .venv by itself when it is missing or older than the two files that define it.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# One process per core, each of one thread: tests are many small products, for which threads wait for each other.
TESTS := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal

.PHONY: demo test check slow trainers coverage docs bench clean

demo: $(READY)
	$(BIN)/solset demo --out runs/demo --overwrite

test: check
	$(TESTS) tests

check: $(READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python tools/plain_english.py
	$(TESTS) src --jaxtyping-packages=solset,beartype.beartype

slow: $(READY)
	$(TESTS) -m 'slow and not long'

# Models of other libraries: what needs a library that cannot be installed here is skipped.
trainers: $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[trainers]' || echo "skipping: not installed"
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/test_trainers.py -rs

coverage: $(READY)
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage report

docs: $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/sphinx-build -W -b html docs docs/_build/html

bench: $(READY)
	$(BIN)/python -m benchmarks

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf .venv docs/_build
