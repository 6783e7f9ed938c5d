# make demo       builds the kernels, trains a Mask R-CNN on generated shapes, prints its AP and leaves pictures
# make test       builds and runs all tests
# make gpu-check  on a machine with a GPU: builds there, runs the CUDA tests (a skip for want of one is a failure) and the CUDA
#                 benchmarks; PREBUILT=1 takes the library that is there, such as one built on a machine without a GPU;
#                 WHEELS=FOLDER first installs the packages in it, such as pycocotools, where no package index is
# make gpu-sanitize  there: compute-sanitizer's memcheck, racecheck, initcheck and synccheck over the tests that draw random
#                 cases, a few each; gpu-sanitize-memcheck and so on run one
# make lint       style and types;  make format  rewrites the sources in the project's style
# make cpp-test   the C++ tests;  SANITIZE=address,undefined builds them with sanitizers
# make sanitize   the operators' tests in Python over a library with AddressSanitizer and UndefinedBehaviorSanitizer (Linux, gcc)
# make emulate-cuda  the CUDA kernels run on the CPU, slowly, by the operators' tests (tests/cuda_emulation); SANITIZE as above
# make nightly    2,000 random cases of every operator against the reference
#
# PYTHON   the Python to start from (default: the first of python3, python)
# TORCH    what to install where that Python has no torch of 2.11 or newer, e.g. make test TORCH=torch==2.12.1
# VENV     the environment to make (default: .venv)
# OUT      where gpu-check and gpu-sanitize leave their logs and results (default: output)

PYTHON ?= $(shell command -v python3 || command -v python)
TORCH ?= torch==2.13.0
VENV ?= .venv
SANITIZE ?=
BIN := $(VENV)/bin
RUN := PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python

OPERATOR_TESTS := $(CURDIR)/tests --ignore=$(CURDIR)/tests/maskrcnn --ignore=$(CURDIR)/tests/parity

.PHONY: demo test gpu-build gpu-check gpu-sanitize lint format cpp-test sanitize emulate-cuda nightly clean

# A torch that is there is used as it is: the environment then sees that Python's packages.
$(VENV)/ready: pyproject.toml setup.py CMakeLists.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit("maskrcnn-ops needs Python 3.10 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 10) else 0)'
	@if $(PYTHON) -c 'import torch, sys; sys.exit(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11))' 2>/dev/null; then \
	  echo "using the torch of $(PYTHON)"; $(PYTHON) -m venv --system-site-packages $(VENV); \
	else \
	  echo "installing $(TORCH)"; $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet '$(TORCH)'; \
	fi
	$(BIN)/python -m pip install --quiet 'setuptools>=77' cmake ninja 'pybind11>=2.13'
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install --quiet --no-build-isolation -e '.[dev]'
	@touch $@

# Sources may have changed since the environment was made; ninja rebuilds what has.
.PHONY: build
build: $(VENV)/ready
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python setup.py --quiet build_ext --inplace > $(VENV)/build.log 2>&1 || { cat $(VENV)/build.log; exit 1; }
	@$(BIN)/python -m maskrcnn_ops

demo: build
	$(RUN) -m maskrcnn demo --output output/demo

test: build cpp-test
	$(RUN) -m pytest tests

cpp-test: $(VENV)/ready
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B build/cpp -G Ninja -DMASKRCNN_OPS_CUDA=OFF -DMASKRCNN_OPS_TESTS=ON -DMASKRCNN_OPS_SANITIZE=$(SANITIZE) \
	  -DMASKRCNN_OPS_TORCH_DIR=$$($(BIN)/python -c 'import torch, os; print(os.path.dirname(torch.__file__))') > /dev/null
	PATH="$(abspath $(BIN)):$$PATH" cmake --build build/cpp --target cpp_tests
	cd build/cpp && PATH="$(abspath $(BIN)):$$PATH" ctest --output-on-failure

# $(call test-variant,name,options of cmake,sanitizers,tests): the operators' tests over another build of the library, in a
# copy of the package, which is where Python starts and looks first. The interpreter is not sanitized, so the runtime is
# loaded before it, and libstdc++ with it, whose exceptions the runtime must see; leaks would be torch's and Python's. What
# the library writes before it ends the program is not captured.
define test-variant
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B build/$(1) -G Ninja -DMASKRCNN_OPS_CUDA=OFF -DMASKRCNN_OPS_PYTHON=ON $(2) \
	  -DMASKRCNN_OPS_SANITIZE=$(3) -DPython3_EXECUTABLE=$(abspath $(BIN))/python > /dev/null
	PATH="$(abspath $(BIN)):$$PATH" cmake --build build/$(1) --target maskrcnn_ops _host
	rm -rf build/$(1)/package && mkdir build/$(1)/package
	cp -r maskrcnn_ops build/$(1)/package/ && cp build/$(1)/*.so build/$(1)/package/maskrcnn_ops/
	cd build/$(1)/package && PATH="$(abspath $(BIN)):$$PATH" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  $(if $(3),LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)") \
	  $(abspath $(BIN))/python -m pytest $(OPERATOR_TESTS) -p no:cacheprovider --capture=sys -k $(4)
endef

SANITIZERS := address,undefined
sanitize: $(VENV)/ready
	$(call test-variant,sanitize,,$(SANITIZERS),"not cuda")

# The tests that a GPU runs, by the CUDA kernels on the CPU, but those of torch's machinery and of much memory; then which
# kernels ran how often.
emulate-cuda: export CUDA_EMULATION_REPORT := $(CURDIR)/build/emulation/launches
emulate-cuda: $(VENV)/ready
	rm -f $(CUDA_EMULATION_REPORT)
	$(call test-variant,emulation,-DMASKRCNN_OPS_EMULATE_CUDA=ON,$(SANITIZE),"cpu and not benchmark and not slow and not opcheck and not compile and not two_to_the_31")
	awk '{ count[$$2] += $$1 } END { for (kernel in count) print count[kernel], kernel }' $(CUDA_EMULATION_REPORT) | sort -k 2

nightly: build
	HYPOTHESIS_PROFILE=nightly $(RUN) -m pytest $(OPERATOR_TESTS) -m hypothesis --durations=0

lint: $(VENV)/ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	PATH="$(abspath $(BIN)):$$PATH" clang-format --dry-run --Werror $$(git ls-files 'csrc/*' 'tests/cpp/*' 'tests/cuda_emulation/*' 'examples/cpp/*' | grep -E '\.(h|cpp|cu|inl)$$')

format: $(VENV)/ready
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .
	PATH="$(abspath $(BIN)):$$PATH" clang-format -i $$(git ls-files 'csrc/*' 'tests/cpp/*' 'tests/cuda_emulation/*' 'examples/cpp/*' | grep -E '\.(h|cpp|cu|inl)$$')

# These use the Python that is there, without network: torch with CUDA, nvcc, cmake, ninja, pybind11, pytest, hypothesis. PTX
# beside the machine's own code, so that the tests can have the driver compile it, as it does on newer GPUs.
GPU_OUT := $(or $(OUT),output)
gpu-build:
	mkdir -p $(GPU_OUT)
ifdef WHEELS
	$(PYTHON) -m pip install --quiet --no-index --no-deps $(WHEELS)/*.whl
endif
ifndef PREBUILT
	MASKRCNN_OPS_CUDA=1 TORCH_CUDA_ARCH_LIST="$${TORCH_CUDA_ARCH_LIST:-$$($(PYTHON) -c 'import torch; print("%d.%d+PTX" % torch.cuda.get_device_capability())')}" \
	  $(PYTHON) setup.py --quiet build_ext --inplace
endif
	$(PYTHON) -m maskrcnn_ops

# The benchmarks run also after a test has failed: a machine with a GPU may be there once. The models' tests need what the
# models need, and a row of the benchmarks that lacks torchvision or pycocotools fails alone.
MODEL_NEEDS := import numpy, PIL, pycocotools, safetensors, tqdm
gpu-check: gpu-build
	$(PYTHON) -c '$(MODEL_NEEDS)' || ignored=--ignore=$(CURDIR)/tests/maskrcnn; \
	MASKRCNN_TESTS_REQUIRE=cuda $(PYTHON) -m pytest $(CURDIR)/tests --ignore=$(CURDIR)/tests/parity $$ignored -k cuda \
	  --continue-on-collection-errors --durations=20 -o faulthandler_timeout=100 > $(GPU_OUT)/gpu-tests.log 2>&1; tests=$$?; \
	tail -n 80 $(GPU_OUT)/gpu-tests.log; \
	$(PYTHON) -m benchmarks --device cuda --output $(GPU_OUT)/cuda.json; rows=$$?; \
	$(PYTHON) -m benchmarks report --no-plot $(GPU_OUT)/cuda.json && exit $$((tests | rows))

# Our kernels are checked, and torch's only by initcheck, which must see who wrote what ours read. Without torch's cache of
# memory each tensor has bounds of its own, and begins uninitialised. Torch asks by calls that may fail.
OURS := --kernel-name kernel_substring=maskrcnn_ops
sanitizer_memcheck := $(OURS) --report-api-errors no
sanitizer_racecheck := $(OURS)
sanitizer_synccheck := $(OURS)
gpu-sanitize:
	$(MAKE) --keep-going gpu-sanitize-memcheck gpu-sanitize-racecheck gpu-sanitize-initcheck gpu-sanitize-synccheck
gpu-sanitize-%: gpu-build
	HYPOTHESIS_PROFILE=few MASKRCNN_TESTS_REQUIRE=cuda PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
	  compute-sanitizer --tool $* $(sanitizer_$*) --error-exitcode 9 \
	  $(PYTHON) -m pytest $(OPERATOR_TESTS) -m hypothesis -k cuda > $(GPU_OUT)/$*.log 2>&1; status=$$?; \
	tail -n 20 $(GPU_OUT)/$*.log; exit $$status

clean:
	rm -rf $(VENV) build output maskrcnn_ops/*.so maskrcnn_ops/include maskrcnn_ops/share
