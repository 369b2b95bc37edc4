# Each target sets up what it needs on a fresh clone: Python 3.10, .venv, every package at its pinned version.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= demo_out
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint clean

# One thread: the same weights, and so the same figures, on every run.
demo: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/spikebottlenet demo --out $(OUT)

# One thread a test process: two processes share the cores better than one does with many threads.
test: lint
	@.ci/find-chromium --install >/dev/null
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) $(OUT) build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The constraints come through the environment so that pip's own build environment obeys them too.
$(STAMP): pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	    python=$$(.ci/find-python) || exit 2; \
	    echo "Making $(VENV) with $$python (some 6 GB with torch; a few minutes)"; \
	    "$$python" -m venv --clear $(VENV); }
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --progress-bar off -e '.[dev,bench,ray]'
	touch $@
