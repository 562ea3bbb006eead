# make demo: the main job on real data with embedded real servers.  make test: everything that must hold.
# Both set up a virtual environment of their own from hashed locks; nothing else on the machine is touched.
PYTHON ?= python3.11
ifeq ($(shell command -v $(PYTHON) 2>/dev/null),)
PYTHON := python3
endif
VENV := .venv
DEMO_VENV := .venv-demo
BIN := $(VENV)/bin

.PHONY: demo test test-full check setup lock clean

demo: $(DEMO_VENV)/.ready
	$(DEMO_VENV)/bin/pulsebms demo

test: check
	$(BIN)/python -m pytest -m "not full" -n 2 --dist loadfile

test-full: check
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(VENV)/.ready

$(VENV)/.ready: configs/locks/dev.txt pyproject.toml
	configs/locks/install.sh $(PYTHON) $(VENV) configs/locks/dev.txt torch==2.13.0

$(DEMO_VENV)/.ready: configs/locks/demo.txt pyproject.toml
	configs/locks/install.sh $(PYTHON) $(DEMO_VENV) configs/locks/demo.txt

# Needs uv on the PATH. The locks name exact versions and hashes, never an index. torch stands apart (install.sh): the build that
# is wanted differs from machine to machine, and with it what it brings along.
APART := torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
  nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
  nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx
COMPILE := uv pip compile -q pyproject.toml --python-version 3.11 --extra embedded --extra data --generate-hashes --no-annotate --no-header
lock:
	$(COMPILE) --extra twin --extra train --extra dev $(addprefix --no-emit-package ,$(APART)) -o configs/locks/dev.txt
	$(COMPILE) -c configs/locks/dev.txt -o configs/locks/demo.txt

clean:
	rm -rf $(VENV) $(DEMO_VENV) build *.egg-info
