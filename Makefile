# make run        every notebook in profile mini, then outputs/mini/report.html
# make test       lint and all tests
# make dry-run    what would run, how many images, GB and hours
# make lab        JupyterLab on the notebooks
# make clean      removes what runs wrote (asks first) and the tools' caches
# make lock       pins the newest packages that pyproject.toml allows
#
# make run PROFILE=gpu CORES=4 SET="strength=0.5 seed=3" PHOTOS=my/photos TEMPLATES=my/scenes OUT=my/outputs
# Works with GNU make 3.81 (macOS) and newer.

PROFILE ?= mini
CORES ?= 2
PHOTOS ?=
TEMPLATES ?=
OUT ?=
SET ?=
SNAKEMAKE_FLAGS ?=
TEST_FLAGS ?=

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/requirements.lock
NEEDED := import sys, venv; sys.exit(sys.version_info < (3, 11))
SYSTEM_PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c '$(NEEDED)' >/dev/null 2>&1 && { echo $$p; break; }; done)

JOB = $(PYTHON) -m d3s_utils.job
# Through the shell's own variables, so that blanks, brackets and quotes in a value arrive as they were typed.
export PROFILE CORES PHOTOS TEMPLATES OUT SET SNAKEMAKE_FLAGS
ARGUMENTS = --profile="$$PROFILE" --cores="$$CORES" --photos="$$PHOTOS" --templates="$$TEMPLATES" \
	--output-dir="$$OUT" --snakemake-flags="$$SNAKEMAKE_FLAGS" --set="$$SET"

.PHONY: run test dry-run report lab clean lock environment install
.DEFAULT_GOAL := run

run: environment
	@$(JOB) run $(ARGUMENTS)

dry-run: environment
	@$(JOB) dry-run $(ARGUMENTS)

report: environment
	@$(JOB) report $(ARGUMENTS)

test: environment
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m pytest -n 2 --dist loadfile $(TEST_FLAGS)

lab: environment
	$(PYTHON) -m jupyterlab --notebook-dir=. notebooks/01_compositing.ipynb

# The environment is made once, and again only when requirements.lock holds other pins.
environment:
	@cmp -s requirements.lock $(STAMP) || $(MAKE) --no-print-directory install

install:
	@test -n "$(SYSTEM_PYTHON)" || { \
		echo "make: Python 3.11 or newer with venv is needed; none was found. SYSTEM_PYTHON=/its/path names one." >&2; \
		exit 1; }
	@echo "Making the environment in $(VENV) from requirements.lock (a few minutes, once)"
	@test -x $(PYTHON) && $(PYTHON) -c '$(NEEDED)' || $(SYSTEM_PYTHON) -m venv --clear $(VENV)
	@$(PYTHON) -m uv --version >/dev/null 2>&1 || $(PYTHON) -m pip install --quiet --disable-pip-version-check uv
	@$(PYTHON) -m uv pip install --python $(PYTHON) -r requirements.lock
	@$(PYTHON) -c 'import pathlib, sysconfig; \
		pathlib.Path(sysconfig.get_path("purelib"), "d3s.pth").write_text(str(pathlib.Path.cwd()) + "\n")'
	@cp requirements.lock $(STAMP)

lock: environment
	@head -2 requirements.lock > requirements.lock.partial
	@$(PYTHON) -m uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --upgrade \
		--no-annotate --no-header --no-emit-index-url --quiet >> requirements.lock.partial
	@mv requirements.lock.partial requirements.lock

clean:
	@printf 'Remove outputs of all runs below outputs/ and the caches? [y/N] '; read answer; test "$$answer" = y
	@find outputs -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	@rm -rf .pytest_cache .ruff_cache .hypothesis
	@find d3s_utils tests -name __pycache__ -type d -prune -exec rm -rf {} +
