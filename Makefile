# Two targets do all the set-up on a fresh machine: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORAGE ?= sqlite:///demo.db
STAMP := $(VENV)/.installed

.PHONY: demo test lint format docs gallery wheel clean

demo: $(STAMP)
	$(BIN)/autotune search moe-cache --trials 60 --seed 0 --storage $(STORAGE) --study demo

# Tests start hundreds of processes of Python, which should not compile everything anew, even where nothing is to be kept.
test: export PYTHONDONTWRITEBYTECODE =
test: $(STAMP)
	sh .ci/system-packages.sh
	$(BIN)/python -m pytest -n 3 --dist loadgroup $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, in build/site; it loads nothing from elsewhere, so build/site/index.html can be opened from the disk.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# The page of pictures, from those in docs/images; after new ones were made, or a picture was added.
gallery: $(STAMP)
	$(BIN)/python .ci/gallery.py

# Both distributions, in dist/; the wheel is built from the sdist, so that nothing that lies about here gets into it.
wheel: $(STAMP)
	$(BIN)/python -m build --outdir dist

clean:
	rm -rf $(VENV) build dist demo.db demo.db-wal demo.db-shm

# editable_mode=compat: type checkers of other projects find the package, and no folder of the same name hides it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "autotune needs Python 3.11 or newer; set PYTHON=python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --config-settings editable_mode=compat -e ".[dev]"
	touch $@
