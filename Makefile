# Everything a developer needs; `make help` lists it. Only Python 3.11+, make and a package index are required.

# `make test PYTHON=python3.13` has an environment of its own, so that several versions stand side by side.
ifdef PYTHON
VENV := .venv-$(notdir $(PYTHON))
else
VENV := .venv
PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
endif
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

# Containers often set it; the tests start some hundred programs, and each would compile all of the code again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run worker test test-pythons image-test restore-test galera-test lint bench faults format model mysql mysql-stop lock audit sbom clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/runtime model ## Set everything up and serve on http://127.0.0.1:8000
	@echo "starting"
	@$(BIN)/python -m app

worker: $(VENV)/runtime model ## Run asynchronous tasks in a process of their own (TASK_WORKERS=outside)
	@$(BIN)/python -m app.worker

test: $(VENV)/development model ## Set everything up and run all tests (ARGS="-k name" for some)
	@$(BIN)/python scripts/mysql_server.py fetch
	@$(BIN)/python -m pytest -n 5 --dist worksteal $(ARGS)

test-pythons: ## Run all tests with each Python on the PATH, from 3.11 to 3.14
	@ran=; for version in 3.11 3.12 3.13 3.14; do \
		if command -v python$$version >/dev/null; then \
			ran=yes; echo "python$$version"; $(MAKE) --no-print-directory test PYTHON=python$$version || exit 1; \
		fi; \
	done; test -n "$$ran" || { echo "no python3.11 to python3.14 on the PATH" >&2; exit 1; }

image-test: $(VENV)/development ## Build the Dockerfile without Docker, and test the image (as root on Debian; 3 to 10 minutes)
	@$(BIN)/python -m pytest tests/deploy/check_image.py

restore-test: $(VENV)/development ## Back up a working service and restore it into an empty server (one minute)
	@$(BIN)/python scripts/mysql_server.py fetch
	@$(BIN)/python -m pytest -q tests/deploy/test_backup.py tests/deploy/test_restore.py

galera-test: $(VENV)/development model ## Kill nodes of a Galera cluster, and instances, under load and check that nothing is lost
	@$(BIN)/python -m pytest -n 0 -s -m galera tests/scaling $(ARGS)

lint: $(VENV)/development ## Check style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/development ## Format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

model: | $(VENV)/runtime ## Fetch the local model's weights (once)
	@$(BIN)/python -m scripts.make_model

bench: $(VENV)/development model ## Measure speed, memory and start side by side (takes ten minutes; ARGS="--before CHECKOUT")
	@$(BIN)/python scripts/mysql_server.py fetch
	@$(BIN)/python -m bench $(ARGS)

faults: $(VENV)/development ## Break one part after the other under load: nothing is lost or paid twice (ten minutes; ARGS="frozen")
	@$(BIN)/python scripts/mysql_server.py fetch
	@$(BIN)/python -m bench.faults $(ARGS)

mysql: $(VENV)/runtime ## Start a MySQL server to try things on (make mysql-stop ends it)
	@$(BIN)/python scripts/mysql_server.py start

mysql-stop:
	@$(BIN)/python scripts/mysql_server.py stop

lock: $(VENV)/development ## Compile requirements*.txt from pyproject.toml
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes pyproject.toml --output-file requirements.txt
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes pyproject.toml --group dev \
		--constraints requirements.txt --output-file requirements-dev.txt

audit: $(VENV)/development ## Look for known vulnerabilities of the pinned packages, where advisories can be reached
	@$(BIN)/python -m scripts.audit

sbom: $(VENV)/development ## Write sbom.cdx.json, a CycloneDX list of the packages that the service runs on
	@$(BIN)/uv tool run --system-certs --from cyclonedx-bom cyclonedx-py requirements requirements.txt --output-format JSON \
		--output-reproducible --output-file sbom.cdx.json

clean: ## Remove what make has built (data/ stays)
	rm -rf .venv .venv-python3* .mypy_cache .ruff_cache .pytest_cache .hypothesis app/clients/local/weights

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: https://www.python.org/downloads/" >&2; exit 1; }
	@echo "creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/runtime: requirements.txt | $(VENV)/bin/python
	@echo "installing requirements.txt into $(VENV) (about a minute, once)"
	@$(PIP) -r requirements.txt
	@echo "installing the service itself"
	@$(PIP) --no-deps --editable .
	@touch $@

$(VENV)/development: requirements-dev.txt | $(VENV)/bin/python
	@echo "installing requirements-dev.txt into $(VENV) (about two minutes, once)"
	@$(PIP) -r requirements-dev.txt
	@echo "installing the service itself"
	@$(PIP) --no-deps --editable .
	@touch $@ $(VENV)/runtime
