# sae.h needs no building: this makes the tool, the examples and the tests. `make help` lists targets.

CC      ?= cc
CXX     ?= c++
CFLAGS  ?= -O2
WARN    ?= -Wall -Wextra
# OpenMP where the compiler has it; OPENMP= builds without.
ifeq ($(origin OPENMP),undefined)
OPENMP  := $(shell echo 'int main(void){return 0;}' | \
             $(CC) -fopenmp -include omp.h -x c -fsyntax-only - 2>/dev/null && echo -fopenmp)
endif

# A BLAS, to test SAE_CBLAS with; CBLAS="-L/lib -lfoo" names another, CBLAS= tests without.
ifeq ($(origin CBLAS),undefined)
CBLAS   := $(shell mkdir -p build; for l in -lopenblas -lcblas -lblas; do \
             echo 'int main(void){return (int)cblas_sdot(0, 0, 1, 0, 1);}' | \
             $(CC) -include cblas.h -x c - -o build/cblas $$l 2>/dev/null && echo $$l && break; done)
endif

EMU_TESTS := build/tests/test_emu build/tests/test_cuda
BLAS_TESTS := build/worst/test_bits build/worst/test_screen $(if $(CBLAS),$(patsubst %,build/blas/test_%,\
                  bits golden ops screen session trainers))
EXAMPLES := $(patsubst examples/%.c,build/%,$(filter-out examples/llama_cpp.c,$(wildcard examples/*.c)))
TOOL     := $(patsubst tools/%.c,build/tools/%.o,$(filter-out tools/demo.c,$(wildcard tools/*.c)))
LM       := sae_lm.h
TESTS    := $(patsubst tests/%.c,build/tests/%,$(wildcard tests/test_*.c)) $(EMU_TESTS) $(BLAS_TESTS)
SCRIPTS  := $(wildcard tests/*.sh)
COMPILE   = $(CC) $(CFLAGS) $(WARN) $(OPENMP)
LINKED    = $(COMPILE) -Ibuild/linked $< build/sae_h.o -o $@ $(LDFLAGS) -lm
OBJECTS   = $(CC) $(CFLAGS) $(OPENMP) $(filter %.o,$^) -o $@ $(LDFLAGS) -lm

.PHONY: all headers lib man install uninstall emu cuda llama test test-asan test-cuda test-peers demo bench bench-cuda bench-peers bench-load fuzz \
        lint lint-headers clean help

all: build/sae build/demo build/bench $(EXAMPLES) ## the tool, the benchmark and the examples (the default)

build build/tools build/tests build/lint build/linked build/emu build/cuda build/blas build/worst:
	@mkdir -p $@

# The headers that users copy, made from src/.
SOURCES := $(wildcard src/*.h src/*.cuh src/*/*)
build/headers: $(SOURCES) src/make_headers.sh | build
	@mkdir -p build/made && sh src/make_headers.sh build/made
	@for h in sae.h sae_cuda.cuh sae_lm.h; do cmp -s build/made/$$h $$h || cp build/made/$$h $$h; done; touch $@
sae.h sae_cuda.cuh sae_lm.h: build/headers ;
headers: sae.h sae_cuda.cuh sae_lm.h ## sae.h, sae_cuda.cuh and sae_lm.h, made from src/ (all targets do so by themselves)

# The programs and most tests share one compiled sae.h. Each example and test also compiles alone, as its
# head says; here the header of build/linked takes their SAE_IMPLEMENTATION away. It is the master in src/,
# so that a test may also include a room of src/ to look inside.
build/linked/sae.h: Makefile | build/linked
	@printf '#undef SAE_IMPLEMENTATION\n#include "../../src/sae.h"\n' > $@

IMPLEMENTATION = printf '\#define SAE_IMPLEMENTATION\n\#include "sae.h"\n' | $(COMPILE) -I. -x c -c - -o $@
build/sae_h.o: sae.h Makefile | build
	$(IMPLEMENTATION)

build/embedded: examples/embedded.inc
build/%: examples/%.c build/sae_h.o build/linked/sae.h
	$(LINKED)

# llama.cpp as the engine. LLAMA: its folder, with a build in LLAMA_BUILD; without, an installed libllama.
LLAMA       ?=
LLAMA_BUILD ?= $(LLAMA)/build
LLAMA_FLAGS  = $(if $(LLAMA),-I$(LLAMA)/include -I$(LLAMA)/ggml/include -L$(LLAMA_BUILD)/bin \
                   -Wl$(comma)-rpath$(comma)$(abspath $(LLAMA_BUILD)/bin))
comma       := ,
build/llama_cpp: examples/llama_cpp.c build/sae_h.o build/linked/sae.h
	$(COMPILE) -Ibuild/linked $< build/sae_h.o -o $@ $(LLAMA_FLAGS) $(LDFLAGS) -lllama -lggml-base -lm
llama: build/llama_cpp ## build/llama_cpp: llama.cpp as the engine; LLAMA=DIR names its folder

# The tool and the demo. tools/tool.h says what each file is for.
build/tools/%.o: tools/%.c sae.h $(LM) $(wildcard tools/*.h) Makefile | build/tools
	$(COMPILE) -I. -Ibuild -c $< -o $@

build/sae: $(TOOL) build/sae_h.o
	$(OBJECTS)

build/demo: build/tools/demo.o build/tools/models.o build/sae_h.o
	$(OBJECTS)

# The page of sae features as lines of C.
build/tools/models.o: build/page_html.h
build/page_html.h: tools/page.html Makefile | build
	@printf '/* Made from tools/page.html. */\nstatic const char *const page_html[] = {\n' > $@
	@sed 's/\\/\\\\/g; s/"/\\"/g; s/.*/"&",/' $< >> $@
	@printf '0 };\n' >> $@

# Alone: it times the header's insides too.
build/bench: bench/bench.c bench/linear.h bench/lm.h sae.h $(LM) Makefile | build
	$(COMPILE) -I. $< -o $@ $(LDFLAGS) -lm

build/tests/test_features: build/page_html.h tools/sae_features.h tools/page.h

# These call what is private (saei_*): each compiles sae.h once more, all others are linked.
ALONE := $(patsubst %,build/tests/test_%,bits engine files formats fuzz_corpus gguf io linear no_formats no_stdio screen trainers)
TEST_HEADERS := $(wildcard tests/*.h tests/fuzz/*.[ch]) $(LM)
$(ALONE): build/tests/%: tests/%.c sae.h Makefile $(TEST_HEADERS) | build/tests
	$(COMPILE) -I. $< -o $@ $(LDFLAGS) -lm
build/tests/%: tests/%.c build/sae_h.o build/linked/sae.h $(TEST_HEADERS) | build/tests
	$(COMPILE) -Ibuild/linked -I. -Ibuild $< build/sae_h.o -o $@ $(LDFLAGS) -lm

# With SAE_CBLAS: the BLAS that is there, and one as wrong as may be.
BLAS_ALONE := $(patsubst build/tests/%,build/blas/%,$(ALONE))
build/blas/sae_h.o: sae.h Makefile | build/blas
	$(IMPLEMENTATION) -DSAE_CBLAS
$(BLAS_ALONE): build/blas/%: tests/%.c sae.h Makefile $(TEST_HEADERS) | build/blas
	$(COMPILE) -DSAE_CBLAS -I. $< -o $@ $(LDFLAGS) $(CBLAS) -lm
build/blas/%: tests/%.c build/blas/sae_h.o build/linked/sae.h $(TEST_HEADERS)
	$(COMPILE) -DSAE_CBLAS -Ibuild/linked -I. $< build/blas/sae_h.o -o $@ $(LDFLAGS) $(CBLAS) -lm
WORST := -DSAE_CBLAS -Itests/worst
build/worst/%: tests/%.c sae.h Makefile $(TEST_HEADERS) tests/worst/cblas.h | build/worst
	$(COMPILE) $(WORST) -I. $< -o $@ $(LDFLAGS) -lm

# Exports sae_* alone. examples/sae.py opens it.
VISIBLE := 'extern __attribute__((visibility("default")))'
build/libsae.so: sae.h Makefile | build
	printf '#define SAE_IMPLEMENTATION\n#include "sae.h"\n' | \
	    $(COMPILE) -I. -fPIC -shared -fvisibility=hidden -DSAE_API=$(VISIBLE) -x c - -o $@ $(LDFLAGS) -lm

# The CUDA backend on the emulation of tests/emu: the same sources, a host compiler. Shared arrays get
# AddressSanitizer's borders where the compiler can (GCC).
EMU_SECTIONS := $(shell echo 'int x;' | $(CXX) -fsanitize-sections=emu_shared -x c++ -fsyntax-only - \
                    2>/dev/null && echo -fsanitize-sections=emu_shared)
EMU_COMPILE   = $(CXX) -std=c++17 $(CFLAGS) -ffp-contract=off $(EMU_SECTIONS) $(WARN) $(OPENMP) -Itests/emu -I.
EMU_HEADERS  := $(wildcard tests/emu/*.h)
CUDA_SOURCES := sae.h sae_cuda.cuh Makefile

build/emu/emu.o: tests/emu/emu.cpp $(EMU_HEADERS) Makefile | build/emu
	$(EMU_COMPILE) -c $< -o $@

build/emu/sae_cuda.o: $(CUDA_SOURCES) $(EMU_HEADERS) | build/emu
	printf '#define SAE_CUDA\n#define SAE_CUDA_IMPLEMENTATION\n#include "sae.h"\n' | \
	    $(EMU_COMPILE) -x c++ -c - -o $@

# The tool again, with the one file of it that knows of CUDA compiled for it.
TOOL_CUDA := $(filter-out build/tools/program.o,$(TOOL)) build/emu/program.o
build/emu/program.o: tools/program.c sae.h $(LM) $(wildcard tools/*.h) Makefile | build/emu
	$(COMPILE) -DSAE_CUDA -I. -c $< -o $@

build/sae-emu: $(TOOL_CUDA) build/sae_h.o build/emu/sae_cuda.o build/emu/emu.o
	$(CXX) $(CFLAGS) $(OPENMP) $^ -o $@ $(LDFLAGS) -lm

# bench.c as it is in build/bench, and CUDA beside it; bench-emu only shows that it runs.
build/emu/bench.o: bench/bench.c bench/linear.h bench/lm.h sae.h $(LM) Makefile | build/emu
	$(COMPILE) -DSAE_CUDA -I. -c $< -o $@
build/emu/peak.o: bench/peak.cu $(EMU_HEADERS) Makefile | build/emu
	$(EMU_COMPILE) -x c++ -c $< -o $@
build/bench-emu: build/emu/bench.o build/emu/peak.o build/emu/sae_cuda.o build/emu/emu.o
	$(CXX) $(CFLAGS) $(OPENMP) $^ -o $@ $(LDFLAGS) -lm

emu: build/sae-emu ## build/sae-emu: the tool whose --device cuda runs on an emulation, without a GPU

build/tests/test_emu: tests/test_emu.cpp build/emu/emu.o build/sae_h.o $(wildcard tests/*.h) | build/tests
	$(EMU_COMPILE) $< build/emu/emu.o build/sae_h.o -o $@ $(LDFLAGS) -lm

build/tests/test_cuda: tests/test_cuda.cpp build/emu/emu.o $(CUDA_SOURCES) $(EMU_HEADERS) \
                       $(wildcard tests/*.h) tests/test_ops.c tests/test_bits.c | build/tests
	$(EMU_COMPILE) -Wno-unused-function $< build/emu/emu.o -o $@ $(LDFLAGS) -lm

# The real thing.
NVCC ?= $(shell command -v nvcc || ls /usr/local/cuda/bin/nvcc 2> /dev/null)
CUDA_ARCH    ?= 80 90 100
CUDA_FLAGS   ?= -O3
CUDA_GENCODE  = $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$(a),code=sm_$(a))
CUDA_COMPILE  = $(NVCC) -std=c++17 $(CUDA_FLAGS) $(CUDA_GENCODE) -Werror all-warnings \
                -Xcompiler -Wall,-Wextra,-ffp-contract=off$(if $(OPENMP),$(comma)$(OPENMP)) -I.
CUDA_LINKED   = $(NVCC) $(if $(OPENMP),-Xcompiler $(OPENMP)) $(filter %.o,$^) -o $@ -lcublasLt -lm
comma := ,

build/cuda/two.cu: Makefile | build/cuda
	@printf '#define SAE_CUDA\n#define SAE_CUDA_IMPLEMENTATION\n#include "sae.h"\n' > $@
build/cuda/one.cu: Makefile | build/cuda
	@printf '#define SAE_CUDA\n#define SAE_IMPLEMENTATION\n#include "sae.h"\n' > $@
	@printf 'int main() { return sae_cuda_backend()->name[0] != 99; }\n' >> $@

build/cuda/%.o: build/cuda/%.cu $(CUDA_SOURCES)
	$(CUDA_COMPILE) -c $< -o $@

build/sae-cuda: $(TOOL_CUDA) build/sae_h.o build/cuda/two.o
	$(CUDA_LINKED)

build/cuda/peak.o: bench/peak.cu Makefile | build/cuda
	$(CUDA_COMPILE) -c $< -o $@
build/bench-cuda: build/emu/bench.o build/cuda/two.o build/cuda/peak.o
	$(CUDA_LINKED)

build/cuda/one: build/cuda/one.o
	$(CUDA_LINKED)

build/cuda/test_cuda: tests/test_cuda.cpp $(CUDA_SOURCES) $(wildcard tests/*.h tests/test_*.c) | build/cuda
	$(NVCC) -std=c++17 $(CUDA_FLAGS) $(CUDA_GENCODE) -Xcompiler -ffp-contract=off \
	    $(if $(OPENMP),-Xcompiler $(OPENMP)) -I. -x cu $< -o $@ -lcublasLt -lm

cuda: ## build/sae-cuda and build/bench-cuda, for NVIDIA GPUs (needs nvcc; CUDA_ARCH="80 90 100")
	@if [ -n "$(NVCC)" ]; then $(MAKE) --no-print-directory build/cuda/one build/sae-cuda build/bench-cuda; \
	else echo "SKIPPED: nvcc is not installed, no build/sae-cuda and build/bench-cuda"; fi

SANITIZER ?= $(shell command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null)
test-cuda: ## tests/test_cuda on a GPU, then under compute-sanitizer where that is installed
	@if [ -z "$(NVCC)" ]; then echo "SKIPPED: nvcc is not installed, nothing is tested on a GPU"; exit 0; fi; \
	$(MAKE) --no-print-directory build/cuda/test_cuda && ./build/cuda/test_cuda || exit 1; \
	if [ -z "$(SANITIZER)" ]; then echo "SKIPPED: compute-sanitizer is not installed"; exit 0; fi; \
	./build/cuda/test_cuda | grep -q '^SKIPPED' && exit 0; \
	for tool in memcheck racecheck initcheck; do \
	    echo "compute-sanitizer --tool $$tool"; \
	    $(SANITIZER) --tool $$tool --error-exitcode 1 ./build/cuda/test_cuda || exit 1; \
	done

# What other projects find by pkg-config and by CMake's find_package. DESTDIR: the root of a package.
PREFIX  ?= /usr/local
VERSION := $(shell sed -n 's/^\#define SAE_VERSION "\(.*\)"/\1/p' src/api/base.h)
ROOT     = $(DESTDIR)$(PREFIX)
INSTALLED = include/sae.h include/sae_cuda.cuh include/sae_lm.h bin/sae share/man/man1/sae.1 share/pkgconfig/sae.pc \
            share/cmake/sae/sae-config.cmake share/cmake/sae/sae-config-version.cmake

build/sae.1: build/sae tools/package/make_man.sh
	@sh tools/package/make_man.sh build/sae > $@.tmp && mv $@.tmp $@

man: build/sae.1 ## build/sae.1, the manual page, from what the tool says; `man -l build/sae.1` shows it

install: build/sae build/sae.1 ## headers, tool, manual page, pkg-config and CMake files; PREFIX=/usr/local DESTDIR=
	@mkdir -p $(addprefix "$(ROOT)"/,$(sort $(dir $(INSTALLED))))
	install -m 644 sae.h sae_cuda.cuh sae_lm.h "$(ROOT)/include"
	install -m 755 build/sae "$(ROOT)/bin/sae"
	install -m 644 build/sae.1 "$(ROOT)/share/man/man1/sae.1"
	install -m 644 tools/package/sae-config.cmake "$(ROOT)/share/cmake/sae"
	@cd tools/package && for f in pkgconfig/sae.pc cmake/sae/sae-config-version.cmake; do \
	    sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' "$${f##*/}.in" > "$(ROOT)/share/$$f" && \
	    chmod 644 "$(ROOT)/share/$$f" || exit 1; \
	done

uninstall: ## removes them again
	rm -f $(addprefix "$(ROOT)"/,$(INSTALLED))
	@rmdir "$(ROOT)/share/cmake/sae" 2> /dev/null || true

lib: build/libsae.so ## the shared library, for examples/sae.py and other languages

test: build/sae build/sae-emu build/libsae.so $(TESTS) ## builds and runs every test; the last line sums up
	@if [ -z "$(CBLAS)" ]; then \
	    echo "SKIPPED: no cblas links (-lopenblas, -lcblas, -lblas): SAE_CBLAS is tested with tests/worst/cblas.h alone"; \
	fi; \
	passed=0; failed=0; \
	OMP_WAIT_POLICY=$${OMP_WAIT_POLICY:-passive} CC="$(CC)" CXX="$(CXX)"; \
	export OMP_WAIT_POLICY CC CXX; \
	for t in $(TESTS) $(SCRIPTS); do \
	    case $$t in *.sh) run="sh $$t";; *) run=$$t;; esac; \
	    $$run > $(CURDIR)/build/tests/output 2>&1; rc=$$?; \
	    line=$$(grep -E '^[0-9]+ passed, [0-9]+ failed$$' build/tests/output | tail -n 1); \
	    p=$$(echo "$$line" | sed 's/ passed.*//'); \
	    f=$$(echo "$$line" | sed 's/.*, \([0-9]*\) failed/\1/'); \
	    if [ -z "$$line" ]; then p=0; f=1; line="no result, exit status $$rc"; \
	    elif [ $$rc != 0 ] && [ "$$f" = 0 ]; then f=1; fi; \
	    printf '%-32s %s\n' "$$t" "$$line"; \
	    if [ "$$f" = 0 ]; then grep '^SKIPPED' build/tests/output; fi; \
	    if [ "$$f" != 0 ]; then cat build/tests/output; fi; \
	    passed=$$((passed + p)); failed=$$((failed + f)); \
	done; \
	echo "$$passed passed, $$failed failed"; [ $$failed = 0 ]

PYTHON ?= python3
test-peers: build/sae build/libsae.so ## against the real Python packages, those that are installed
	@$(PYTHON) tests/peers.py && $(PYTHON) tests/peers_formats.py build/sae && \
	    $(PYTHON) tests/peers_lm.py build/sae && $(PYTHON) tests/peers_loss.py

# The same tree by links, so that both builds stay. SAE_ROOT: where the tests find their fixtures.
SANITIZE := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all
test-asan: ## the tests under AddressSanitizer and UBSan, built in build/asan
	@mkdir -p build/asan; \
	for f in Makefile sae.h sae_cuda.cuh sae_lm.h src examples tools tests bench CMakeLists.txt; do ln -sfn "../../$$f" "build/asan/$$f"; done
	@SAE_ROOT="$(CURDIR)" $(MAKE) --no-print-directory -C build/asan test CFLAGS="$(SANITIZE)"

PYTHON ?= python3
demo: build/demo ## a model reads a text, three dictionaries learn what it thinks, a page shows it
	@OMP_WAIT_POLICY=$${OMP_WAIT_POLICY:-passive} ./build/demo build/demo_out

DATA ?= activations.npy
bench: build/bench ## speed of single operations; `make bench DATA=F.npy` also times the trainers
	./build/bench ops
	@if [ -f "$(DATA)" ]; then ./build/bench "$(DATA)"; fi

CUDA_OUT ?= build/bench-cuda.jsonl
bench-cuda: cuda ## all GPU figures into build/bench-cuda.jsonl, beside PyTorch where installed; DATA=F.npy
	$(PYTHON) bench/gpu.py build/bench-cuda "$(DATA)" --out "$(CUDA_OUT)"

PYTHON ?= python3
bench-peers: build/bench ## the trainers beside dictionary_learning on PyTorch, where installed; DATA=F.npy
	$(PYTHON) bench/peers.py build/bench "$(DATA)"

bench-load: build/bench ## opening a dictionary beside torch.load, safetensors and numpy, where installed
	$(PYTHON) bench/peers_load.py build/bench

FUZZ_SECONDS ?= 60
fuzz: ## the readers against damaged files, FUZZ_SECONDS each (needs clang); FUZZ="zip json": these alone
	@sh tests/fuzz/run.sh $(FUZZ_SECONDS) $(FUZZ)

# The header in every dialect, with and without OpenMP, with SAE_CBLAS, without training, formats or files, and for
# Windows: COMPILER_STANDARD[_openmp|_cblas|_no-train|_no-formats|_no-stdio|_encode|_least].
DIALECTS := $(foreach s,c99 c11 c17,gcc_$(s) clang_$(s)) $(foreach s,c++11 c++17 c++20,g++_$(s) clang++_$(s)) \
            gcc_c99_openmp g++_c++11_openmp gcc_c99_cblas clang_c99_cblas g++_c++11_cblas \
            $(foreach m,no-train no-stdio least,gcc_c99_$(m) clang_c99_$(m) g++_c++11_$(m)) \
            gcc_c99_no-formats g++_c++11_no-formats gcc_c99_encode clang_c99_encode \
            mingw_c99 mingw_c99_least mingw++_c++17
LINTS    := $(DIALECTS:%=build/lint/%.done)
STRICT   := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror

lint-headers: $(LINTS)

build/lint/%.done: sae.h Makefile | build/lint
	@set -- $$(echo $* | tr _ ' '); cc=$$1; std=$$2; lang=c; case $$std in c++*) lang=c++;; esac; \
	case $$cc in mingw) cc=x86_64-w64-mingw32-gcc;; mingw++) cc=x86_64-w64-mingw32-g++;; esac; \
	case $$3 in openmp) more=-fopenmp;; cblas) more='$(WORST)';; no-train) more=-DSAE_NO_TRAIN;; \
	    no-formats) more=-DSAE_NO_FORMATS;; no-stdio) more=-DSAE_NO_STDIO;; \
	    encode) more='-DSAE_NO_TRAIN -DSAE_NO_FORMATS';; least) more='-DSAE_NO_TRAIN -DSAE_NO_FORMATS -DSAE_NO_STDIO';; *) more=;; esac; \
	if ! command -v $$cc > /dev/null; then echo "SKIPPED: $$cc is not installed ($*)"; exit 0; fi; \
	if printf '#define SAE_IMPLEMENTATION\n#include "sae.h"\n' | \
	       $$cc -x $$lang -std=$$std $(STRICT) -O2 $$more -I. -c - -o build/lint/$*.o && \
	   printf '#include "sae.h"\nint main(void){return 0;}\n' | \
	       $$cc -x $$lang -std=$$std $(STRICT) $$more -I. -c - -o build/lint/$*.use.o && \
	   $$cc build/lint/$*.use.o build/lint/$*.o -lm $$more -o build/lint/$*.program; \
	then echo "clean: $*"; touch $@; else echo "FAILED: $*"; exit 1; fi

lint: ## the plan of src/, the header in every dialect, its symbols, cppcheck and clang-tidy where installed
	@$(MAKE) --no-print-directory -k lint-headers
	@if [ -f build/lint/gcc_c99.o ]; then \
	    stray=$$(nm -g --defined-only build/lint/gcc_c99.o | awk '{print $$3}' | grep -v '^sae' || true); \
	    if [ -n "$$stray" ]; then echo "FAILED: symbols outside sae*: $$stray"; exit 1; fi; \
	    calls=$$(nm -u build/lint/gcc_c99.o | grep -wE 'exit|abort|printf|puts|rand|srand' || true); \
	    if [ -n "$$calls" ]; then echo "FAILED: the header calls $$calls"; exit 1; fi; \
	    echo "clean: symbols"; \
	fi
	@CC="$(CC)" CXX="$(CXX)" sh src/check.sh
	@if command -v cppcheck > /dev/null; then \
	    for more in "" "$(WORST)"; do \
	        cppcheck --quiet --std=c11 --language=c --enable=warning,portability --error-exitcode=1 \
	            --suppress=missingIncludeSystem --suppress=pointerOutOfBounds --max-configs=1 \
	            -DSAE_IMPLEMENTATION $$more -I. sae.h || exit 1; \
	    done; \
	    echo "clean: cppcheck"; \
	else echo "SKIPPED: cppcheck is not installed"; fi
	@if command -v clang-tidy > /dev/null; then \
	    clang-tidy --quiet --warnings-as-errors='*' \
	        --checks='-*,clang-analyzer-*,bugprone-*,-bugprone-easily-swappable-parameters,-bugprone-narrowing-conversions,-bugprone-implicit-widening-of-multiplication-result,-bugprone-assignment-in-if-condition,-bugprone-reserved-identifier,-bugprone-macro-parentheses,-bugprone-branch-clone,-clang-analyzer-security.insecureAPI.*' \
	        examples/quickstart.c -- -std=c99 -I. 2> build/lint/clang-tidy.txt || { cat build/lint/clang-tidy.txt; exit 1; }; \
	    echo "clean: clang-tidy"; \
	else echo "SKIPPED: clang-tidy is not installed"; fi

clean: ## removes build/
	rm -rf build

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 12
	@echo "variables: CC CXX CFLAGS OPENMP CBLAS (that of the tests; empty: without) LDFLAGS PREFIX DESTDIR"
