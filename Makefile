# make demo   set up, create the demo videos, run the whole pipeline on them
# make test   set up, run the tests
# make numeric  set up, run the tests that compare numbers as on a processor with AVX2, and as on one with only SSE4.1 (x86)
# make faults set up, run the long tests: every write interrupted, 300 kills, 1,000 bad files (up to half an hour)
# make .venv  only set up; repeated only when the requirements change
# make mmdet  set up .venv-mmdet, used only by extract_bbox.py --detector mmdet:CONFIG:CHECKPOINT (compiles mmcv: 15 minutes)
# CPU-only torch (much smaller): make .venv TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
TORCH_INDEX ?=
PIP = .venv/bin/pip --disable-pip-version-check
MMDET_PIP = .venv-mmdet/bin/pip --disable-pip-version-check

# The tests of one file run in one process because they share their set-up.
TEST = .venv/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# Hides newer instructions from oneDNN, ATen, MKL (torch), OpenBLAS, numpy (numpy, OpenCV), OpenCV and its IPP.
AVX2 = ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 OPENBLAS_CORETYPE=Haswell \
	NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR" OPENCV_CPU_DISABLE=AVX512-SKX OPENCV_IPP=avx2
SSE41 = ONEDNN_MAX_CPU_ISA=SSE41 ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 OPENBLAS_CORETYPE=Nehalem \
	NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL AVX512_SPR" OPENCV_CPU_DISABLE=AVX512-SKX,AVX2,FP16,AVX OPENCV_IPP=sse42

.PHONY: demo test numeric faults lint .venv mmdet

demo: .venv
	.venv/bin/python -m tools.make_demo
	.venv/bin/python run_pipeline.py --dataset_name demo --mode test

test: .venv/ready-dev
	$(TEST)

numeric: .venv/ready-dev
	$(AVX2) $(TEST) -m numeric
	$(SSE41) $(TEST) -m numeric

faults: .venv/ready-dev
	.venv/bin/python -m pytest --long tests/faults tests/test_properties.py

lint: .venv/ready-dev
	.venv/bin/ruff check .

.venv: .venv/ready

.venv/ready: requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed: install Python 3.11 to 3.14 (Debian: apt install python3 python3-venv)"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || { echo "error: $$($(PYTHON) -V) is not supported (packages exist for Python 3.11 to 3.14): choose another with make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: this Python has no venv: install it (Debian: apt install python3-venv)"; exit 2; }
	@echo "setting up .venv: torch and the rest, 1 to 6 GB, a few minutes"
	@test -x .venv/bin/pip || $(PYTHON) -m venv .venv
	@test -z "$(TORCH_INDEX)" || $(PIP) install -q $$(grep -E '^torch' requirements.txt) --index-url $(TORCH_INDEX)
	@$(PIP) install -q -r requirements.txt
	@.venv/bin/python -c 'import cv2' 2>/dev/null || { .venv/bin/python -c 'import cv2' 2>&1 | tail -n 1; echo "error: OpenCV needs a system library that is missing: install it (Debian: apt install libgl1 libglib2.0-0 libxcb1)"; exit 2; }
	@touch $@

.venv/ready-dev: .venv/ready requirements-dev.txt
	@$(PIP) install -q -r requirements-dev.txt
	@touch $@

mmdet: .venv-mmdet/ready

.venv-mmdet/ready: requirements-mmdet.txt
	@command -v c++ >/dev/null || { echo "error: mmcv needs a C++ compiler: install one (Debian: apt install build-essential python3-dev)"; exit 2; }
	@echo "setting up .venv-mmdet: compiling mmcv, about 15 minutes"
	@test -x .venv-mmdet/bin/pip || $(PYTHON) -m venv .venv-mmdet
	@$(MMDET_PIP) install -q wheel $$(grep -E '^(setuptools|torch|numpy)' requirements-mmdet.txt)
	@$(MMDET_PIP) install -q --no-build-isolation -r requirements-mmdet.txt
	@touch $@
