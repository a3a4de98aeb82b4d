# Two commands for a stranger: `make demo` and `make test`. Both set up what they need.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(abspath $(VENV))/bin
ROOT   := $(CURDIR)
SOURCES := $(shell find fqonnx passes runtime_ops -type f -not -name '*.pyc') pyproject.toml

.PHONY: demo test lint types imports unit sanitize sanitize-cuda fuzz gpu-check bench startup \
	large memory quality redundancy sigma-delta feedback trellis architectures backend report-picture clean

demo: $(VENV)/.package
	$(BIN)/python tools/demo.py --folder demo

test: lint types imports unit sanitize

lint: $(VENV)/.package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Types and imports are checked on the installed package: only there are passes/ and runtime_ops/
# where their imports say, and the tools would find the bare folders here first.
types: $(VENV)/.package
	cd $(VENV) && $(BIN)/mypy --config-file $(ROOT)/pyproject.toml -p fqonnx

imports: $(VENV)/.package
	cd $(VENV) && $(BIN)/lint-imports --config $(ROOT)/pyproject.toml

unit: $(VENV)/.package
	$(BIN)/pytest

# The tests of the native library with the address and undefined-behaviour sanitizers in it. They
# must be loaded before Python is, which itself leaves memory to the end of the process: no search
# for leaks. Fresh memory is full of NaN, and reports go past pytest, whose end they are. The fuzz
# test alone takes every instruction set, for time.
ASAN = $(shell $(CXX) -print-file-name=libasan.so)
SANITIZERS = LD_PRELOAD="$(ASAN) $(shell $(CXX) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0:malloc_fill_byte=255:max_malloc_fill_size=1073741824

sanitize: $(VENV)/.package
	@test -e "$(ASAN)" || { echo "make sanitize needs g++ and its libasan, not: $(CXX)" >&2; exit 1; }
	$(BIN)/cmake -S runtime_ops -B build/sanitize -G Ninja -DFQONNX_SANITIZE=ON \
		-DCMAKE_CXX_COMPILER=$(CXX) -DCMAKE_MAKE_PROGRAM=$(BIN)/ninja
	$(BIN)/cmake --build build/sanitize
	$(SANITIZERS) FQONNX_LIBRARY=build/sanitize/libfqonnx_ops.so \
		$(BIN)/pytest tests/runtime_ops/test_library.py tests/runtime_ops/test_library_trellis.py \
		tests/runtime_ops/test_library_fuzz.py -k "not every_instruction_set" --capture=sys

# The same for the CUDA kernels, on the host. The folder of what they load at run time is named: the
# sanitizer's dlopen does not look beside the library.
sanitize-cuda: $(VENV)/.package
	$(BIN)/cmake -S runtime_ops -B build/sanitize-cuda -G Ninja -DFQONNX_SANITIZE=ON \
		-DFQONNX_CUDA=EMULATED -DCMAKE_MAKE_PROGRAM=$(BIN)/ninja
	$(BIN)/cmake --build build/sanitize-cuda
	$(SANITIZERS) FQONNX_EMULATED_LIBRARY=build/sanitize-cuda/libfqonnx_ops.so \
		LD_LIBRARY_PATH=build/sanitize-cuda $(BIN)/pytest tests/runtime_ops/test_cuda_emulation.py

# On a machine with an NVIDIA GPU and nvcc. PYTHON's PyTorch must see the GPU.
gpu-check:
	cmake -S runtime_ops -B build/cuda -DFQONNX_CUDA=ON
	cmake --build build/cuda --parallel
	$(PYTHON) tools/gpu_check.py --library build/cuda/libfqonnx_ops.so \
		--json build/gpu.json --markdown build/gpu.md

# What the README shows of the report that `make demo` left; it takes a chromium.
report-picture: $(VENV)/.package
	$(BIN)/python tools/report_picture.py demo/report.html docs/report.png

bench: $(VENV)/.package
	$(BIN)/python tools/speed.py --markdown docs/speed.md

# Hours, and 20 GB in FOLDER, for models of 1.1 and 7 billion weights.
large: $(VENV)/.package
	$(BIN)/python tools/large_models.py --folder $(or $(FOLDER),build) \
		--markdown docs/large-models.md

memory: $(VENV)/.package
	$(BIN)/python tools/memory.py --markdown docs/compiling.md

startup: $(VENV)/.package
	$(BIN)/python tools/startup.py --markdown docs/deployment.md

quality: $(VENV)/.package
	$(BIN)/python tools/quality.py

redundancy: $(VENV)/.package
	$(BIN)/python tools/redundancy.py --markdown docs/redundancy.md

# DATA names the folder of MNIST's idx files.
sigma-delta: $(VENV)/.package
	$(BIN)/python tools/sigma_delta.py --data $(DATA) --markdown docs/sigma-delta.md

feedback: $(VENV)/.package
	$(BIN)/python tools/feedback.py --markdown docs/feedback.md

trellis: $(VENV)/.package
	$(BIN)/python tools/trellis.py --markdown docs/trellis.md

# DATA names a folder of pretrained models; without it their rows are left out.
architectures: $(VENV)/.package
	$(BIN)/python tools/architecture_table.py $(if $(DATA),--data $(DATA)) \
		--markdown docs/architectures.md

# Every model that onnx tests runtimes with; it takes some minutes.
backend: $(VENV)/.package
	$(BIN)/python tools/backend_models.py --markdown docs/backend.md

# Mutated files, random graphs, and what reads a model by coverage, for SECONDS; finds are crash-*.
SECONDS ?= 600
fuzz: $(VENV)/.package
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt ".[cpu,fuzz]"
	FQONNX_FUZZ_CASES=3000 FQONNX_FUZZ_EXAMPLES=300 \
		$(BIN)/pytest tests/test_mutated_models.py tests/test_random_graphs.py
	$(BIN)/python tools/fuzz_loader.py build/corpus -max_total_time=$(SECONDS) \
		-max_len=20000 -timeout=20 -rss_limit_mb=8192

$(VENV)/.dependencies: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt ".[cpu,demo,dev]"
	touch $@

$(VENV)/.package: $(VENV)/.dependencies $(SOURCES)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--force-reinstall .
	touch $@

clean:
	rm -rf $(VENV) demo build dist
