/*  emu.cpp - the emulation of cuda_runtime.h and cublasLt.h. One lock serves all; kernels run on the
    thread that waits for them. */
#include "cuda_runtime.h"
#include "cublasLt.h"
#include "cuda_bf16.h"
#include "emu.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMU_ASAN 1
#endif
#endif
#ifdef EMU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

/* ---- state ------------------------------------------------------------------------------------- */

namespace {

typedef std::chrono::steady_clock::time_point moment;

struct failure { std::string name; unsigned long nth; int error; };

struct operation {
    enum { KERNEL, COPY, SET, RECORD, WAIT, PRODUCT } kind = KERNEL;
    const void *kernel = nullptr;
    dim3 grid, block;
    size_t dynamic = 0, bytes = 0;
    bool fault = false;
    int fault_error = 0;
    std::function<void()> call;
    cudaEvent_t event = nullptr;
    unsigned long mark = 0; /* RECORD, WAIT: which record of the event */
};

} // namespace

struct CUevent_st {
    unsigned long recorded = 0, reached = 0;
    cudaStream_t where = nullptr;
    cudaGraph_t capture = nullptr;
    moment when;
};
struct CUgraph_st { std::vector<operation> nodes; };
struct CUgraphExec_st { std::vector<operation> nodes; };
struct CUstream_st {
    std::deque<operation> queue;
    cudaGraph_t capture = nullptr; /* what is recorded into */
    bool origin = false, invalid = false;
    cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
};

namespace {

enum { MOST_THREADS = 1024 };
const size_t ARENA = (size_t)1 << 36, ALIGN = 256, STACK = 256 << 10, LARGE = 128 << 10, KEPT = 16 << 20;

struct state {
    std::recursive_mutex lock;
    uint64_t rng = 1, seed = 1;
    int devices = 1, driver = 13000;
    cudaError_t last = cudaSuccess, sticky = cudaSuccess;
    std::vector<failure> failures;
    std::map<std::string, unsigned long> calls;
    unsigned long all_calls = 0;
    std::string fault;
    bool quiet = false, guarded = true;
    /* device memory */
    unsigned char *arena = nullptr;
    size_t arena_end = 0, in_use = 0, limit = (size_t)8 << 30;
    int open = 0;
    std::map<unsigned char *, size_t> blocks; /* start, size */
    std::multimap<size_t, unsigned char *> holes; /* rounded size, start */
    std::map<unsigned char *, size_t> pinned;
    std::map<const void *, int> dynamic; /* kernels allowed more than 48 KiB */
    std::set<cudaStream_t> streams;
    CUstream_st legacy, per_thread;
    bool executing = false;
};
state &S() {
    static state *s = new state; /* never destroyed: programs end in any order */
    return *s;
}
#define LOCK std::lock_guard<std::recursive_mutex> lock_(S().lock)

uint64_t random_bits() { /* splitmix64 */
    uint64_t z = (S().rng += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}
size_t random_below(size_t n) { return (size_t)((random_bits() >> 32) * n >> 32); }

void garbage(void *memory, size_t size) {
    uint64_t word = random_bits() | 0x8080808080808080ull;
    unsigned char *p = (unsigned char *)memory;
    for (; size >= 8; size -= 8, p += 8) memcpy(p, &word, 8);
    memcpy(p, &word, size);
}

bool is_sticky(int e) {
    return e == cudaErrorIllegalAddress || e == cudaErrorLaunchTimeout || e == cudaErrorAssert
           || e == cudaErrorHardwareStackError || e == cudaErrorIllegalInstruction
           || e == cudaErrorMisalignedAddress || e == cudaErrorLaunchFailure
           || e == cudaErrorECCUncorrectable;
}
cudaError_t fail(int error) {
    state &s = S();
    if (error == cudaSuccess) return cudaSuccess;
    s.last = (cudaError_t)error;
    if (is_sticky(error)) s.sticky = (cudaError_t)error;
    return (cudaError_t)error;
}
/* The error planned for this call of `name`, or 0. */
int planned(const char *name, bool count_all = true) {
    state &s = S();
    s.calls[name]++;
    if (count_all) s.all_calls++;
    for (size_t i = 0; i < s.failures.size(); i++) {
        failure &f = s.failures[i];
        if ((!f.name.empty() || !count_all) && f.name != name) continue;
        if (--f.nth) continue;
        int error = f.error;
        s.failures.erase(s.failures.begin() + (long)i);
        return error;
    }
    return 0;
}
/* Every call begins so: no device, an old driver, an error kept, one that is planned. */
cudaError_t enter(const char *name) {
    state &s = S();
    int error = planned(name);
    if (s.driver < 13000) return fail(cudaErrorInsufficientDriver);
    if (!s.devices) return fail(cudaErrorNoDevice);
    if (s.sticky) return fail(s.sticky);
    return fail(error);
}
#define ENTER(name)                                                                                \
    LOCK;                                                                                          \
    do {                                                                                           \
        cudaError_t e_ = enter(name);                                                              \
        if (e_) return e_;                                                                         \
    } while (0)

void found(const char *format, ...) __attribute__((format(printf, 1, 2)));
void found(const char *format, ...) {
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (S().fault.empty()) S().fault = text;
    if (!S().quiet) fprintf(stderr, "emulation: %s\n", text);
}

/* ---- fibers: the threads of a block ----------------------------------------------------------------
   A fiber runs threads one after the other while they reach no barrier; a thread that waits keeps its
   fiber and another one takes over. Without barriers a block costs no switch at all. */

struct fiber {
    void *sp = nullptr;
    unsigned char *stack = nullptr;
    size_t size = 0;
    int thread = -1; /* what to run next */
    void *fake = nullptr;
};

#if defined(__x86_64__)
extern "C" void emu_switch(void **save, void *to);
__asm__(".text\n.globl emu_switch\n.type emu_switch,@function\nemu_switch:\n"
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
        "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
        ".size emu_switch,.-emu_switch\n");
void *first_frame(unsigned char *top, void (*entry)()) { /* rsp is 8 modulo 16 at a function's start */
    void **sp = (void **)(void *)top - 8;
    memset((void *)sp, 0, 8 * sizeof *sp);
    sp[6] = (void *)(uintptr_t)entry;
    return sp;
}
#elif defined(__aarch64__)
extern "C" void emu_switch(void **save, void *to);
__asm__(".text\n.globl emu_switch\n.type emu_switch,%function\nemu_switch:\n"
        "sub sp,sp,#160\nstp x19,x20,[sp]\nstp x21,x22,[sp,#16]\nstp x23,x24,[sp,#32]\n"
        "stp x25,x26,[sp,#48]\nstp x27,x28,[sp,#64]\nstp x29,x30,[sp,#80]\n"
        "stp d8,d9,[sp,#96]\nstp d10,d11,[sp,#112]\nstp d12,d13,[sp,#128]\nstp d14,d15,[sp,#144]\n"
        "mov x9,sp\nstr x9,[x0]\nmov sp,x1\n"
        "ldp x19,x20,[sp]\nldp x21,x22,[sp,#16]\nldp x23,x24,[sp,#32]\n"
        "ldp x25,x26,[sp,#48]\nldp x27,x28,[sp,#64]\nldp x29,x30,[sp,#80]\n"
        "ldp d8,d9,[sp,#96]\nldp d10,d11,[sp,#112]\nldp d12,d13,[sp,#128]\nldp d14,d15,[sp,#144]\n"
        "add sp,sp,#160\nret\n");
void *first_frame(unsigned char *top, void (*entry)()) {
    void **sp = (void **)(void *)top - 20;
    memset((void *)sp, 0, 20 * sizeof *sp);
    sp[11] = (void *)(uintptr_t)entry;
    return sp;
}
#else
#error "the emulation switches stacks on x86-64 and arm64 alone"
#endif

enum wait_kind { RUNNABLE, AT_BLOCK, AT_WARP, ENDED };
struct warp_state {
    int arrived, line;
    unsigned generation;
    uint64_t slots[2][32];
};
struct block_state {
    const operation *op;
    uint64_t rng;
    int threads, arrived, line, kind, result, predicates, ended, current;
    bool broken;
    int ready[MOST_THREADS], num_ready;
    unsigned char state[MOST_THREADS];
    int lines[MOST_THREADS];
    fiber *on[MOST_THREADS]; /* NULL: not begun */
    warp_state warps[MOST_THREADS / 32];
    std::vector<fiber *> all, spare;
    fiber main, *running;
    unsigned char *dynamic; /* exactly as long as asked for */
};
block_state &B = *new block_state(); /* never destroyed, as S() */

void switch_to(fiber *from, fiber *to, bool leaves) {
    B.running = to;
#ifdef EMU_ASAN
    __sanitizer_start_switch_fiber(leaves ? nullptr : &from->fake, to->stack, to->size);
    emu_switch(&from->sp, to->sp);
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(from->fake, &bottom, &size);
#else
    (void)leaves;
    emu_switch(&from->sp, to->sp);
#endif
}

void place(int thread) { /* the thread that runs now */
    unsigned t = (unsigned)thread, x = blockDim.x, y = blockDim.y;
    B.current = thread;
    threadIdx.x = t;
    if (x == (unsigned)B.threads) return; /* y and z are 0, see run_block */
    threadIdx.x = t % x;
    threadIdx.y = t / x % y;
    threadIdx.z = t / x / y;
}

void fiber_main();
fiber *spare_fiber() {
    if (B.spare.empty()) {
        fiber *f = new fiber;
        size_t page = (size_t)sysconf(_SC_PAGESIZE);
        void *p = mmap(nullptr, STACK + page, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) {
            fprintf(stderr, "emulation: no memory for a stack\n");
            abort();
        }
        mprotect(p, page, PROT_NONE);
        f->stack = (unsigned char *)p + page;
        f->size = STACK;
        f->sp = first_frame(f->stack + STACK, fiber_main);
        B.all.push_back(f);
        B.spare.push_back(f);
    }
    fiber *f = B.spare.back();
    B.spare.pop_back();
    return f;
}

int pick() { /* a runnable thread, at random */
    uint64_t r = B.rng ^ B.rng << 13; /* xorshift: millions of picks */
    r ^= r >> 7;
    r ^= r << 17;
    B.rng = r;
    int i = (int)((r >> 32) * (uint64_t)B.num_ready >> 32), t = B.ready[i];
    B.ready[i] = B.ready[--B.num_ready];
    return t;
}
void release(int thread) {
    B.state[thread] = RUNNABLE;
    B.ready[B.num_ready++] = thread;
}

/* Someone else's turn. self: the thread that waits; it returns when it may go on. */
void give_way(int self) {
    fiber *mine = B.running;
    B.on[self] = mine;
    if (!B.num_ready) {
        switch_to(mine, &B.main, false); /* nobody can go on; run_block says why */
    } else {
        int next = pick();
        if (next == self) return;
        fiber *f = B.on[next];
        if (!f) {
            f = spare_fiber();
            f->thread = next;
        }
        switch_to(mine, f, false);
    }
    place(self);
}

void fiber_main() {
#ifdef EMU_ASAN
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (!B.main.stack) {
        B.main.stack = (unsigned char *)(uintptr_t)bottom;
        B.main.size = size;
    }
#endif
    for (;;) {
        fiber *self = B.running;
        int t = self->thread;
        place(t);
        B.on[t] = self;
        B.op->call();
        B.state[t] = ENDED;
        B.ended++;
        if (B.num_ready) {
            int next = pick();
            fiber *f = B.on[next];
            if (!f) {
                self->thread = next;
                continue;
            }
            B.spare.push_back(self);
            switch_to(self, f, false);
        } else {
            B.spare.push_back(self);
            switch_to(self, &B.main, false);
        }
    }
}

/* After a block that got stuck: every stack begins anew. */
void abandon() {
    B.spare.clear();
    for (fiber *f : B.all) {
        ASAN_UNPOISON_MEMORY_REGION(f->stack, f->size);
        f->sp = first_frame(f->stack + STACK, fiber_main);
        f->fake = nullptr;
        B.spare.push_back(f);
    }
}

void say_stuck() {
    int ended = -1, block = -1, warp = -1;
    char text[300];
    int n;
    for (int t = 0; t < B.threads; t++) {
        if (B.state[t] == ENDED) ended = t;
        if (B.state[t] == AT_BLOCK) block = t;
        if (B.state[t] == AT_WARP) warp = t;
    }
    n = snprintf(text, sizeof text, "block %u,%u,%u of %u,%u,%u cannot go on:", blockIdx.x, blockIdx.y,
                 blockIdx.z, gridDim.x, gridDim.y, gridDim.z);
    if (block >= 0)
        n += snprintf(text + n, sizeof text - (size_t)n, " thread %d waits at __syncthreads of line %d,",
                      block, B.lines[block]);
    if (warp >= 0)
        n += snprintf(text + n, sizeof text - (size_t)n, " thread %d at a warp's call of line %d,", warp,
                      B.lines[warp]);
    if (ended >= 0) snprintf(text + n, sizeof text - (size_t)n, " thread %d has ended", ended);
    found("%s", text);
}

extern "C" unsigned char __start_emu_shared[] __attribute__((weak));
extern "C" unsigned char __stop_emu_shared[] __attribute__((weak));
__attribute__((no_sanitize("address"))) void spoil_shared() {
    unsigned char *p = __start_emu_shared;
    uint64_t word = random_bits() | 0x8080808080808080ull;
    for (; p && p + 8 <= __stop_emu_shared; p += 8) *(volatile uint64_t *)(void *)p = word;
    if (B.dynamic) garbage(B.dynamic, B.op->dynamic);
}

bool run_block(const operation &op) {
    B.threads = (int)(op.block.x * op.block.y * op.block.z);
    B.arrived = B.ended = B.num_ready = 0;
    B.broken = false;
    threadIdx.y = threadIdx.z = 0;
    for (int w = 0; w * 32 < B.threads; w++) B.warps[w].arrived = 0;
    for (int t = 0; t < B.threads; t++) {
        B.on[t] = nullptr;
        release(t);
    }
    fiber *f = spare_fiber();
    f->thread = pick();
    switch_to(&B.main, f, false);
    if (B.ended == B.threads) return true;
    if (!B.broken) say_stuck();
    abandon();
    return false;
}

/* All blocks in a random order. */
void run_kernel(const operation &op) {
    size_t count = (size_t)op.grid.x * op.grid.y * op.grid.z;
    std::vector<uint32_t> order(count);
    B.op = &op;
    B.rng = random_bits() | 1;
    blockDim = op.block;
    gridDim = op.grid;
    free(B.dynamic);
    B.dynamic = op.dynamic ? (unsigned char *)malloc(op.dynamic) : nullptr;
    for (size_t i = 0; i < count; i++) {
        size_t j = random_below(i + 1);
        order[i] = order[j];
        order[j] = (uint32_t)i;
    }
    for (size_t i = 0; i < count; i++) {
        unsigned b = order[i];
        if (i == 0 || random_below(8) == 0) spoil_shared(); /* else: what the last block left */
        blockIdx.x = b % op.grid.x;
        blockIdx.y = b / op.grid.x % op.grid.y;
        blockIdx.z = b / op.grid.x / op.grid.y;
        if (!run_block(op)) {
            fail(cudaErrorLaunchFailure);
            return;
        }
    }
}

/* Ends the block from inside a thread. */
void broken(const char *what, int line, int other) {
    found("block %u,%u,%u thread %d: %s of line %d, others are at line %d", blockIdx.x, blockIdx.y,
          blockIdx.z, B.current, what, line, other);
    B.broken = true;
    B.num_ready = 0;
    give_way(B.current);
}

/* ---- device memory ------------------------------------------------------------------------------ */
/* One stretch of addresses, which the host can touch only while operations run. */

void arena_open(bool open) {
    state &s = S();
    if (open ? s.open++ : --s.open) return;
    if (s.arena_end && s.guarded) mprotect(s.arena, s.arena_end, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}
struct opened {
    opened() { arena_open(true); }
    ~opened() { arena_open(false); }
};

size_t rounded(size_t size) { return (size + 2 * ALIGN - 1) / ALIGN * ALIGN; } /* 1..256 bytes between */

cudaError_t device_alloc(void **out, size_t size) {
    state &s = S();
    size_t need = rounded(size);
    unsigned char *p;
    if (size > s.limit || s.in_use + size > s.limit) return fail(cudaErrorMemoryAllocation);
    if (!s.arena) {
        void *all = mmap(nullptr, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (all == MAP_FAILED) return fail(cudaErrorMemoryAllocation);
        s.arena = (unsigned char *)all;
    }
    auto hole = s.holes.lower_bound(need);
    if (hole != s.holes.end() && hole->first <= need + need / 4) {
        p = hole->second;
        s.holes.erase(hole);
    } else {
        size_t page = (size_t)sysconf(_SC_PAGESIZE), end;
        if (need > ARENA - s.arena_end) return fail(cudaErrorMemoryAllocation);
        if (s.blocks.empty() && s.holes.empty()) s.arena_end = 0;
        p = s.arena + s.arena_end;
        end = (s.arena_end + need + page - 1) / page * page;
        if (s.open || !s.guarded) mprotect(s.arena, end, PROT_READ | PROT_WRITE);
        s.arena_end = end;
    }
    {
        opened o;
        ASAN_UNPOISON_MEMORY_REGION(p, need);
        garbage(p, size < LARGE ? size : LARGE / 2);
        if (size >= LARGE) garbage(p + size - LARGE / 2, LARGE / 2); /* untouched pages cost nothing */
        ASAN_POISON_MEMORY_REGION(p + size, need - size);
    }
    s.blocks[p] = size;
    s.in_use += size;
    *out = p;
    return cudaSuccess;
}
bool in_arena(const void *p) {
    const unsigned char *at = (const unsigned char *)p;
    return S().arena && at >= S().arena && at < S().arena + ARENA;
}
/* All of [p, p + size) in one allocation. */
bool allocated(const void *p, size_t size) {
    state &s = S();
    unsigned char *at = (unsigned char *)(uintptr_t)p;
    auto b = s.blocks.upper_bound(at);
    if (b == s.blocks.begin()) return false;
    --b;
    return at >= b->first && size <= b->second && (size_t)(at - b->first) <= b->second - size;
}
bool is_pinned(const void *p) {
    unsigned char *at = (unsigned char *)(uintptr_t)p;
    auto b = S().pinned.upper_bound(at);
    if (b == S().pinned.begin()) return false;
    --b;
    return at < b->first + b->second;
}

/* ---- streams ------------------------------------------------------------------------------------ */

CUstream_st *stream_of(cudaStream_t stream) {
    state &s = S();
    if (!stream || stream == cudaStreamLegacy) return &s.legacy;
    if (stream == cudaStreamPerThread) return &s.per_thread;
    return s.streams.count(stream) ? stream : nullptr;
}

void perform(operation &op) {
    state &s = S();
    if (op.kind == operation::RECORD) {
        op.event->reached = op.mark;
        op.event->when = std::chrono::steady_clock::now();
    }
    if (s.sticky || op.kind == operation::RECORD || op.kind == operation::WAIT) return;
    if (op.fault) {
        fail(op.fault_error);
        return;
    }
    s.executing = true;
    if (op.kind == operation::KERNEL) run_kernel(op);
    else op.call();
    s.executing = false;
}

/* One operation of some stream, at random among those that can go on. False: there is none. */
bool advance() {
    state &s = S();
    CUstream_st *can[64];
    size_t n = 0;
    auto look = [&](CUstream_st *q) {
        if (q->queue.empty() || n == 64) return;
        operation &op = q->queue.front();
        if (op.kind == operation::WAIT && op.event->reached < op.mark) return;
        can[n++] = q;
    };
    look(&s.legacy);
    look(&s.per_thread);
    for (cudaStream_t q : s.streams) look(q);
    if (!n) return false;
    CUstream_st *q = can[random_below(n)];
    operation op = std::move(q->queue.front());
    q->queue.pop_front();
    perform(op);
    return true;
}
void drain(CUstream_st *q) {
    opened o;
    while (!q->queue.empty() && advance()) {}
}
void drain_all() {
    opened o;
    while (advance()) {}
}

/* Waiting is not allowed while a stream that looks at the whole program records. */
CUstream_st *capturing() {
    state &s = S();
    if (s.per_thread.capture) return &s.per_thread;
    for (cudaStream_t q : s.streams)
        if (q->capture && q->mode != cudaStreamCaptureModeRelaxed) return q;
    return nullptr;
}
#define NOT_WHILE_CAPTURING                                                                        \
    do {                                                                                           \
        CUstream_st *q_ = capturing();                                                             \
        if (q_) {                                                                                  \
            q_->invalid = true;                                                                    \
            return fail(cudaErrorStreamCaptureUnsupported);                                        \
        }                                                                                          \
    } while (0)

/* Takes an operation for later: into the graph, or the queue. */
cudaError_t take(CUstream_st *q, operation &&op) {
    state &s = S();
    if (q->capture) {
        if (q->invalid) return fail(cudaErrorStreamCaptureInvalidated);
        q->capture->nodes.push_back(std::move(op));
        return cudaSuccess;
    }
    if (q == &s.legacy) { /* waits for everything before it, and everything after it waits */
        NOT_WHILE_CAPTURING;
        opened o;
        drain_all();
        perform(op);
        return s.sticky ? fail(s.sticky) : cudaSuccess;
    }
    q->queue.push_back(std::move(op));
    return cudaSuccess;
}

} // namespace

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

unsigned char *emu_dynamic_shared() { return B.dynamic; }
unsigned emu_lane() { return (unsigned)B.current & 31; }
void emu_atomic() {
    if (B.num_ready && (random_bits() & 15) == 0) {
        int self = B.current;
        release(self);
        give_way(self);
    }
}

int emu_syncthreads(int kind, int line, int predicate) {
    int self = B.current;
    if (!B.arrived) {
        B.line = line;
        B.kind = kind;
        B.predicates = 0;
    } else if (B.line != line || B.kind != kind) broken("__syncthreads", line, B.line);
    B.predicates += predicate;
    B.state[self] = AT_BLOCK;
    B.lines[self] = line;
    if (++B.arrived == B.threads) {
        B.arrived = 0;
        B.result = kind == EMU_COUNT ? B.predicates
                 : kind == EMU_AND ? B.predicates == B.threads : B.predicates > 0;
        for (int t = 0; t < B.threads; t++) release(t);
    }
    give_way(self);
    return B.result;
}

/* Two sets of slots: a lane can be one call ahead of the slowest, never two. */
const uint64_t *emu_warp(unsigned mask, int line, uint64_t mine) {
    int self = B.current, first = self & ~31;
    warp_state *w = &B.warps[self / 32];
    unsigned set = w->generation & 1;
    if (mask != 0xFFFFFFFFu) broken("a part of a warp", line, line);
    if (B.threads - first < 32) broken("a warp of less than 32 threads", line, line);
    if (!w->arrived) w->line = line;
    else if (w->line != line) broken("a warp's call", line, w->line);
    w->slots[set][self & 31] = mine;
    B.state[self] = AT_WARP;
    B.lines[self] = line;
    if (++w->arrived == 32) {
        w->arrived = 0;
        w->generation++;
        for (int t = first; t < first + 32; t++) release(t);
    }
    give_way(self);
    return w->slots[set];
}

/* ---- the runtime's calls ----------------------------------------------------------------------- */

extern "C" {

void emu_seed(uint64_t seed) {
    LOCK;
    S().seed = S().rng = seed;
}
void emu_reset(void) {
    LOCK;
    state &s = S();
    const char *text;
    s.sticky = cudaSuccess;
    for (cudaStream_t q : s.streams) q->queue.clear();
    s.last = cudaSuccess;
    s.failures.clear();
    s.calls.clear();
    s.all_calls = 0;
    s.fault.clear();
    s.quiet = false;
    s.limit = (size_t)8 << 30;
    s.devices = 1;
    s.driver = 13000;
    s.seed = s.rng = 1;
    if ((text = getenv("SAE_EMU_SEED"))) s.seed = s.rng = strtoull(text, nullptr, 10);
    if ((text = getenv("SAE_EMU_MEMORY"))) s.limit = (size_t)strtoull(text, nullptr, 10);
    if ((text = getenv("SAE_EMU_DEVICES"))) s.devices = atoi(text);
    if ((text = getenv("SAE_EMU_DRIVER"))) s.driver = atoi(text);
    if ((text = getenv("SAE_EMU_FAIL"))) {
        char name[64];
        unsigned long nth;
        int error;
        if (sscanf(text, "%63[^:]:%lu:%d", name, &nth, &error) == 3) emu_fail(name, nth, error);
    }
}
void emu_devices(int count, int driver) {
    LOCK;
    S().devices = count;
    S().driver = driver;
}
void emu_memory(size_t bytes) {
    LOCK;
    S().limit = bytes;
}
void emu_fail(const char *name, unsigned long nth, int error) {
    LOCK;
    failure f;
    f.name = name ? name : "";
    f.nth = nth;
    f.error = error;
    S().failures.push_back(f);
}
unsigned long emu_calls(const char *name) {
    LOCK;
    return name ? S().calls[name] : S().all_calls;
}
const char *emu_fault(void) {
    LOCK;
    return S().fault.c_str();
}
void emu_guard(int on) {
    LOCK;
    state &s = S();
    s.guarded = on != 0;
    if (s.arena_end) mprotect(s.arena, s.arena_end, on && !s.open ? PROT_NONE : PROT_READ | PROT_WRITE);
}
void emu_quiet(int quiet) {
    LOCK;
    S().quiet = quiet != 0;
}
size_t emu_in_use(void) {
    LOCK;
    return S().in_use;
}

static struct emu_start { emu_start() { emu_reset(); } } emu_start_;

cudaError_t cudaGetLastError(void) {
    LOCK;
    cudaError_t e = S().last;
    S().last = S().sticky;
    return e;
}
cudaError_t cudaPeekAtLastError(void) {
    LOCK;
    return S().last;
}
static const struct { cudaError_t error; const char *name, *text; } emu_errors[] = {
    { cudaSuccess, "cudaSuccess", "no error" },
    { cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument" },
    { cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory" },
    { cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
      "invalid configuration argument" },
    { cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
      "CUDA driver version is insufficient for CUDA runtime version" },
    { cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected" },
    { cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal" },
    { cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
      "no kernel image is available for execution on the device" },
    { cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle" },
    { cudaErrorNotReady, "cudaErrorNotReady", "device not ready" },
    { cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
      "an illegal memory access was encountered" },
    { cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure" },
    { cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
      "operation not permitted when stream is capturing" },
    { cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
      "operation failed due to a previous error during capture" },
    { cudaErrorGraphExecUpdateFailure, "cudaErrorGraphExecUpdateFailure",
      "the graph update was not performed because it included changes which violated constraints "
      "specific to instantiated graph update" },
};
const char *cudaGetErrorName(cudaError_t error) {
    for (auto &e : emu_errors)
        if (e.error == error) return e.name;
    return "cudaErrorUnknown";
}
const char *cudaGetErrorString(cudaError_t error) {
    for (auto &e : emu_errors)
        if (e.error == error) return e.text;
    return "unknown error";
}

/* These two ask nothing of the device. */
cudaError_t cudaDriverGetVersion(int *version) {
    LOCK;
    *version = S().driver;
    return fail(planned("cudaDriverGetVersion"));
}
cudaError_t cudaRuntimeGetVersion(int *version) {
    LOCK;
    *version = 13000;
    return fail(planned("cudaRuntimeGetVersion"));
}
cudaError_t cudaGetDeviceCount(int *count) {
    *count = 0;
    ENTER("cudaGetDeviceCount");
    *count = S().devices;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) {
    ENTER("cudaGetDevice");
    *device = 0;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
    ENTER("cudaSetDevice");
    return device < 0 || device >= S().devices ? fail(cudaErrorInvalidDevice) : cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
    ENTER("cudaDeviceGetAttribute");
    if (device < 0 || device >= S().devices) return fail(cudaErrorInvalidDevice);
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = MOST_THREADS; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 48 << 10; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMultiProcessorCount: *value = 5; break;
    case cudaDevAttrIntegrated: *value = 0; break;
    case cudaDevAttrL2CacheSize: *value = 32 << 20; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = 228 << 10; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 227 << 10; break;
    case cudaDevAttrMaxPersistingL2CacheSize: *value = 0; break;
    default: return fail(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device) {
    ENTER("cudaGetDeviceProperties");
    if (device < 0 || device >= S().devices) return fail(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    strcpy(p->name, "host emulation");
    p->totalGlobalMem = S().limit;
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = 227 << 10;
    p->major = 9;
    p->multiProcessorCount = 5;
    p->warpSize = 32;
    p->l2CacheSize = 32 << 20;
    p->maxThreadsPerBlock = MOST_THREADS;
    p->maxThreadsPerMultiProcessor = 2048;
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize(void) {
    ENTER("cudaDeviceSynchronize");
    NOT_WHILE_CAPTURING;
    drain_all();
    return fail(S().sticky);
}
cudaError_t cudaDeviceReset(void) { return cudaDeviceSynchronize(); }
cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    ENTER("cudaMemGetInfo");
    *available = S().limit > S().in_use ? S().limit - S().in_use : 0;
    *total = S().limit;
    return cudaSuccess;
}

/* An allocation that is no start of one is an error; what it still takes to run is run before. Memory is
   given back after a kept error too, though CUDA says so only at the end of the process: in_use counts
   what the program forgot. */
cudaError_t cudaFree(void *memory) {
    LOCK;
    state &s = S();
    int error = planned("cudaFree");
    if (!memory) return fail(s.sticky);
    if (!s.devices || s.driver < 13000) return fail(cudaErrorNoDevice);
    auto b = s.blocks.find((unsigned char *)memory);
    if (b == s.blocks.end()) return fail(cudaErrorInvalidValue);
    if (!s.sticky) {
        NOT_WHILE_CAPTURING;
        drain_all();
    }
    ASAN_POISON_MEMORY_REGION(b->first, b->second);
    s.in_use -= b->second;
    s.holes.emplace(rounded(b->second), b->first);
    s.blocks.erase(b);
    if (s.blocks.empty()) { /* begin anew; the pages of large ones go back */
        s.holes.clear();
        if (s.arena_end > KEPT) madvise(s.arena + KEPT, s.arena_end - KEPT, MADV_DONTNEED);
    }
    return fail(s.sticky ? (int)s.sticky : error);
}
cudaError_t cudaFreeAsync(void *memory, cudaStream_t) { return cudaFree(memory); }
cudaError_t cudaFreeHost(void *memory) {
    LOCK;
    state &s = S();
    int error = planned("cudaFreeHost");
    if (!memory) return fail(s.sticky);
    auto b = s.pinned.find((unsigned char *)memory);
    if (b == s.pinned.end()) return fail(cudaErrorInvalidValue);
    if (!s.sticky) {
        NOT_WHILE_CAPTURING;
        drain_all();
    }
    s.pinned.erase(b);
    free(memory);
    return fail(s.sticky ? (int)s.sticky : error);
}
cudaError_t cudaHostRegister(void *memory, size_t size, unsigned) {
    ENTER("cudaHostRegister");
    if (!memory || !size || is_pinned(memory)) return fail(cudaErrorInvalidValue);
    S().pinned[(unsigned char *)memory] = size;
    return cudaSuccess;
}
cudaError_t cudaHostUnregister(void *memory) {
    ENTER("cudaHostUnregister");
    if (!S().pinned.erase((unsigned char *)memory)) return fail(cudaErrorInvalidValue);
    return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *a, const void *memory) {
    ENTER("cudaPointerGetAttributes");
    memset(a, 0, sizeof *a);
    if (in_arena(memory) && allocated(memory, 1)) {
        a->type = cudaMemoryTypeDevice;
        a->devicePointer = (void *)(uintptr_t)memory;
    } else if (is_pinned(memory)) {
        a->type = cudaMemoryTypeHost;
        a->hostPointer = a->devicePointer = (void *)(uintptr_t)memory;
    } else {
        a->type = cudaMemoryTypeUnregistered;
        a->device = -2;
    }
    return cudaSuccess;
}

/* ---- copies ------------------------------------------------------------------------------------ */

static cudaError_t emu_copy(const char *name, void *to, size_t to_pitch, const void *from,
                            size_t from_pitch, size_t width, size_t height, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    ENTER(name);
    CUstream_st *q = stream_of(stream);
    size_t to_size = height ? (height - 1) * to_pitch + width : 0;
    size_t from_size = height ? (height - 1) * from_pitch + width : 0;
    bool to_device = in_arena(to), from_device = in_arena(from), snapshot;
    if (!q) return fail(cudaErrorInvalidResourceHandle);
    if (!width || !height) return cudaSuccess;
    if (to_pitch < width || from_pitch < width || !to || !from) return fail(cudaErrorInvalidValue);
    if (kind != cudaMemcpyDefault
        && (to_device != (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice)
            || from_device != (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice)))
        return fail(cudaErrorInvalidValue);
    if ((to_device && !allocated(to, to_size)) || (from_device && !allocated(from, from_size)))
        return fail(cudaErrorInvalidValue);
    operation op;
    op.kind = operation::COPY;
    op.bytes = width * height;
    snapshot = !from_device && !is_pinned(from) && !q->capture;
    if (snapshot) { /* pageable memory may change once the call has returned */
        auto copy = std::make_shared<std::vector<unsigned char>>(from_size);
        memcpy(copy->data(), from, from_size);
        op.call = [=]() {
            for (size_t r = 0; r < height; r++)
                memcpy((char *)to + r * to_pitch, copy->data() + r * from_pitch, width);
        };
    } else
        op.call = [=]() {
            for (size_t r = 0; r < height; r++)
                memmove((char *)to + r * to_pitch, (const char *)from + r * from_pitch, width);
        };
    if (!to_device && from_device && !is_pinned(to) && q->capture)
        return fail(cudaErrorStreamCaptureUnsupported); /* it would have to wait */
    cudaError_t e = take(q, std::move(op));
    if (!e && from_device && !to_device && !is_pinned(to)) {
        drain(q);
        e = fail(S().sticky);
    }
    return e;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t size, cudaMemcpyKind kind) {
    LOCK;
    NOT_WHILE_CAPTURING;
    cudaError_t e = emu_copy("cudaMemcpy", to, size, from, size, size, 1, kind, 0);
    return e;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    return emu_copy("cudaMemcpyAsync", to, size, from, size, size, 1, kind, stream);
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
    return emu_copy("cudaMemcpy2DAsync", to, to_pitch, from, from_pitch, width, height, kind, stream);
}
cudaError_t cudaMemsetAsync(void *memory, int value, size_t size, cudaStream_t stream) {
    ENTER("cudaMemsetAsync");
    CUstream_st *q = stream_of(stream);
    operation op;
    if (!q) return fail(cudaErrorInvalidResourceHandle);
    if (!size) return cudaSuccess;
    if (!in_arena(memory) || !allocated(memory, size)) return fail(cudaErrorInvalidValue);
    op.kind = operation::SET;
    op.bytes = size;
    op.call = [=]() { memset(memory, value, size); };
    return take(q, std::move(op));
}
cudaError_t cudaMemset(void *memory, int value, size_t size) {
    return cudaMemsetAsync(memory, value, size, 0);
}

/* ---- streams, events, graphs ------------------------------------------------------------------- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned) {
    ENTER("cudaStreamCreateWithFlags");
    *out = new CUstream_st;
    S().streams.insert(*out);
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t *out) { return cudaStreamCreateWithFlags(out, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    LOCK;
    state &s = S();
    int error = planned("cudaStreamDestroy");
    if (!s.streams.count(stream)) return fail(cudaErrorInvalidResourceHandle);
    if (!s.sticky && s.devices) drain(stream);
    s.streams.erase(stream);
    delete stream->capture;
    delete stream;
    return fail(s.sticky ? (int)s.sticky : error);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    ENTER("cudaStreamSynchronize");
    CUstream_st *q = stream_of(stream);
    if (!q) return fail(cudaErrorInvalidResourceHandle);
    NOT_WHILE_CAPTURING;
    if (q->capture) {
        q->invalid = true;
        return fail(cudaErrorStreamCaptureUnsupported);
    }
    if (q == &S().legacy) drain_all();
    else drain(q);
    return fail(S().sticky);
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    ENTER("cudaStreamQuery");
    CUstream_st *q = stream_of(stream);
    if (!q) return fail(cudaErrorInvalidResourceHandle);
    {
        opened o;
        advance();
    }
    if (S().sticky) return fail(S().sticky);
    return q->queue.empty() ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    ENTER("cudaStreamWaitEvent");
    CUstream_st *q = stream_of(stream);
    operation op;
    if (!q || !event) return fail(cudaErrorInvalidResourceHandle);
    if (event->capture) { /* the stream joins what is recorded */
        q->capture = event->capture;
        return cudaSuccess;
    }
    op.kind = operation::WAIT;
    op.event = event;
    op.mark = event->recorded;
    return take(q, std::move(op));
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned) {
    ENTER("cudaEventCreateWithFlags");
    *out = new CUevent_st;
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *out) { return cudaEventCreateWithFlags(out, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    LOCK;
    state &s = S();
    int error = planned("cudaEventDestroy");
    if (!event) return fail(cudaErrorInvalidResourceHandle);
    drain_all();
    for (cudaStream_t q : s.streams)
        for (operation &op : q->queue)
            if (op.event == event) found("an event destroyed while a stream waits for it for ever");
    delete event;
    return fail(s.sticky ? (int)s.sticky : error);
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    ENTER("cudaEventRecord");
    CUstream_st *q = stream_of(stream);
    operation op;
    if (!q || !event) return fail(cudaErrorInvalidResourceHandle);
    event->capture = q->capture;
    if (q->capture) return cudaSuccess;
    op.kind = operation::RECORD;
    op.event = event;
    op.mark = ++event->recorded;
    event->where = stream;
    return take(q, std::move(op));
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    ENTER("cudaEventSynchronize");
    if (!event) return fail(cudaErrorInvalidResourceHandle);
    if (event->capture && capturing()) NOT_WHILE_CAPTURING;
    opened o;
    while (event->reached < event->recorded && advance()) {}
    return fail(S().sticky);
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
    ENTER("cudaEventQuery");
    if (!event) return fail(cudaErrorInvalidResourceHandle);
    {
        opened o;
        if (event->reached < event->recorded) advance();
    }
    if (S().sticky) return fail(S().sticky);
    return event->reached < event->recorded ? cudaErrorNotReady : cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end) {
    ENTER("cudaEventElapsedTime");
    if (!begin || !end) return fail(cudaErrorInvalidResourceHandle);
    if (end->reached < end->recorded) return cudaErrorNotReady;
    *ms = std::chrono::duration<float, std::milli>(end->when - begin->when).count();
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status) {
    ENTER("cudaStreamIsCapturing");
    CUstream_st *q = stream_of(stream);
    if (!q) return fail(cudaErrorInvalidResourceHandle);
    *status = !q->capture ? cudaStreamCaptureStatusNone
            : q->invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    ENTER("cudaStreamBeginCapture");
    CUstream_st *q = stream_of(stream);
    if (!q) return fail(cudaErrorInvalidResourceHandle);
    if (q == &S().legacy || q->capture) return fail(cudaErrorStreamCaptureUnsupported);
    q->capture = new CUgraph_st;
    q->origin = true;
    q->invalid = false;
    q->mode = mode;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out) {
    LOCK;
    state &s = S();
    int error = planned("cudaStreamEndCapture");
    CUstream_st *q = stream_of(stream);
    cudaGraph_t graph;
    bool invalid;
    *out = nullptr;
    if (!q) return fail(cudaErrorInvalidResourceHandle);
    if (!q->capture || !q->origin) return fail(cudaErrorStreamCaptureUnmatched);
    graph = q->capture;
    invalid = q->invalid;
    for (cudaStream_t each : s.streams)
        if (each->capture == graph) {
            invalid = invalid || each->invalid;
            each->capture = nullptr;
            each->origin = each->invalid = false;
        }
    if (s.per_thread.capture == graph) {
        s.per_thread.capture = nullptr;
        s.per_thread.origin = s.per_thread.invalid = false;
    }
    if (s.sticky || error || invalid) {
        delete graph;
        return fail(s.sticky ? (int)s.sticky : error ? error : (int)cudaErrorStreamCaptureInvalidated);
    }
    *out = graph;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long) {
    ENTER("cudaGraphInstantiate");
    if (!graph) return fail(cudaErrorInvalidValue);
    *out = new CUgraphExec_st;
    (*out)->nodes = graph->nodes;
    return cudaSuccess;
}
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph,
                                cudaGraphExecUpdateResultInfo *info) {
    ENTER("cudaGraphExecUpdate");
    cudaGraphExecUpdateResult result = cudaGraphExecUpdateSuccess;
    if (!exec || !graph || !info) return fail(cudaErrorInvalidValue);
    if (exec->nodes.size() != graph->nodes.size()) result = cudaGraphExecUpdateErrorTopologyChanged;
    else
        for (size_t i = 0; i < graph->nodes.size(); i++) {
            const operation &a = exec->nodes[i], &b = graph->nodes[i];
            if (a.kind != b.kind) result = cudaGraphExecUpdateErrorNodeTypeChanged;
            else if (a.kernel != b.kernel) result = cudaGraphExecUpdateErrorFunctionChanged;
            else if (a.bytes != b.bytes) result = cudaGraphExecUpdateErrorParametersChanged;
        }
    info->result = result;
    info->errorNode = info->errorFromNode = nullptr;
    if (result != cudaGraphExecUpdateSuccess) return fail(cudaErrorGraphExecUpdateFailure);
    exec->nodes = graph->nodes;
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    ENTER("cudaGraphLaunch");
    CUstream_st *q = stream_of(stream);
    if (!q || !exec) return fail(cudaErrorInvalidResourceHandle);
    if (q->capture) return fail(cudaErrorNotSupported);
    for (const operation &node : exec->nodes) {
        operation op = node;
        if (node.kind == operation::KERNEL || node.kind == operation::PRODUCT)
            if ((op.fault_error = planned("launch", false))) op.fault = true;
        cudaError_t e = take(q, std::move(op));
        if (e) return e;
    }
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    LOCK;
    int error = planned("cudaGraphDestroy");
    delete graph;
    return fail(error);
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    LOCK;
    int error = planned("cudaGraphExecDestroy");
    delete exec;
    return fail(error);
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count) {
    ENTER("cudaGraphGetNodes");
    if (!graph || nodes) return fail(cudaErrorNotSupported); /* counts alone */
    *count = graph->nodes.size();
    return cudaSuccess;
}
} // extern "C"

cudaError_t emu_malloc(void **out, size_t size) {
    ENTER("cudaMalloc");
    NOT_WHILE_CAPTURING;
    *out = nullptr;
    if (!size) return cudaSuccess;
    return device_alloc(out, size);
}
cudaError_t emu_malloc_host(void **out, size_t size) {
    ENTER("cudaMallocHost");
    NOT_WHILE_CAPTURING;
    void *p = malloc(size ? size : 1);
    if (!p) return fail(cudaErrorMemoryAllocation);
    garbage(p, size);
    S().pinned[(unsigned char *)p] = size;
    *out = p;
    return cudaSuccess;
}
cudaError_t emu_set_dynamic(const void *kernel, int bytes) {
    ENTER("cudaFuncSetAttribute");
    if (bytes < 0 || bytes > 227 << 10) return fail(cudaErrorInvalidValue);
    S().dynamic[kernel] = bytes;
    return cudaSuccess;
}

cudaError_t emu_launch(const cudaLaunchConfig_t *c, const void *kernel, std::function<void()> call) {
    ENTER("cudaLaunchKernelEx");
    state &s = S();
    CUstream_st *q = stream_of(c->stream);
    uint64_t threads = (uint64_t)c->blockDim.x * c->blockDim.y * c->blockDim.z;
    size_t most = 48 << 10;
    operation op;
    if (!q) return fail(cudaErrorInvalidResourceHandle);
    if (s.dynamic.count(kernel)) most = (size_t)s.dynamic[kernel];
    if (!threads || threads > MOST_THREADS || c->blockDim.z > 64 || !c->gridDim.x || !c->gridDim.y
        || !c->gridDim.z || c->gridDim.x > 0x7FFFFFFF || c->gridDim.y > 65535
        || c->gridDim.z > 65535)
        return fail(cudaErrorInvalidConfiguration);
    if (c->dynamicSmemBytes > most) return fail(cudaErrorInvalidValue);
    op.kernel = kernel;
    op.grid = c->gridDim;
    op.block = c->blockDim;
    op.dynamic = c->dynamicSmemBytes;
    op.call = std::move(call);
    if (!q->capture && (op.fault_error = planned("launch", false))) op.fault = true;
    return take(q, std::move(op));
}

/* ---- cuBLASLt ---------------------------------------------------------------------------------- */

namespace {

typedef cublasLtMatrixLayoutOpaque_t layout;
typedef cublasLtMatmulDescOpaque_t product;

size_t size_of(cudaDataType type) { return type == CUDA_R_32F ? 4 : 2; }
float read_number(const void *from, cudaDataType type, size_t i) {
    if (type == CUDA_R_32F) return ((const float *)from)[i];
    if (type == CUDA_R_16F) return ((const __half *)from)[i];
    return ((const __nv_bfloat16 *)from)[i];
}
void write_number(void *to, cudaDataType type, size_t i, float x) {
    if (type == CUDA_R_32F) ((float *)to)[i] = x;
    else if (type == CUDA_R_16F) ((__half *)to)[i] = __half(x);
    else ((__nv_bfloat16 *)to)[i] = __nv_bfloat16(x);
}
size_t place_of(const layout &l, size_t row, size_t column) {
    return l.order == CUBLASLT_ORDER_ROW ? row * (size_t)l.ld + column : column * (size_t)l.ld + row;
}
size_t extent(const layout &l) { /* bytes from the first to behind the last number */
    size_t last = place_of(l, l.rows - 1, l.columns - 1) + (size_t)(l.batches - 1) * (size_t)l.offset;
    return (last + 1) * size_of(l.type);
}
/* [rows][k] floats of op(M); transposed: from M's columns. */
std::vector<float> gather(const void *from, const layout &l, size_t batch, bool transposed) {
    size_t rows = transposed ? l.columns : l.rows, k = transposed ? l.rows : l.columns;
    const char *start = (const char *)from + batch * (size_t)l.offset * size_of(l.type);
    std::vector<float> out(rows * k);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < k; c++)
            out[r * k + c] = read_number(start, l.type,
                                         transposed ? place_of(l, c, r) : place_of(l, r, c));
    return out;
}
cudaDataType bias_type(const product &p, const layout &d) {
    return p.bias_type ? (cudaDataType)(p.bias_type - 1) : d.type;
}
double unit_noise(uint64_t seed, uint64_t i) { /* in [-1, 1) */
    uint64_t z = (seed + i) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 29)) * 0xBF58476D1CE4E5B9ull;
    return (double)(int64_t)(z ^ (z >> 32)) / 9223372036854775808.0;
}
/* Tensor cores add about 16 products at a time to a float32 that they cut off, in an order of their own:
   every such step may err by 2^-23 of what is there, which is at most sum |a b|. */
void multiply(const product &p, float alpha, const void *A, const layout &a, const void *B,
              const layout &b, float beta, const void *C, const layout &c, void *D, const layout &d) {
    uint64_t seed = random_bits();
    cudaDataType bias = bias_type(p, d);
    for (size_t batch = 0; batch < (size_t)d.batches; batch++) {
        std::vector<float> x = gather(A, a, batch, p.transposed[0] != 0);
        std::vector<float> w = gather(B, b, batch, p.transposed[1] == 0); /* by columns of op(B) */
        size_t m = d.rows, n = d.columns, k = x.size() / m;
        char *out = (char *)D + batch * (size_t)d.offset * size_of(d.type);
        const char *in = (const char *)C + batch * (size_t)c.offset * size_of(c.type);
        double noise = (double)(k / 16 + 1) / 8388608;
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++) {
                double sum[4] = { 0 }, size[4] = { 0 }, all, most;
                for (size_t q = 0; q < k; q++) {
                    double t = (double)x[i * k + q] * (double)w[j * k + q];
                    sum[q & 3] += t;
                    size[q & 3] += fabs(t);
                }
                all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
                most = (size[0] + size[1]) + (size[2] + size[3]);
                all += unit_noise(seed, i * n + j) * noise * most;
                all *= (double)alpha;
                if (beta != 0) all += (double)beta * (double)read_number(in, c.type, place_of(c, i, j));
                if (p.epilogue & CUBLASLT_EPILOGUE_BIAS) all += (double)read_number(p.bias, bias, i);
                if ((p.epilogue & CUBLASLT_EPILOGUE_RELU) && all < 0) all = 0;
                write_number(out, d.type, place_of(d, i, j), (float)all);
            }
    }
}

cublasStatus_t blas(const char *name) { /* as enter(), with cuBLAS' codes */
    int error = planned(name);
    if (error) return (cublasStatus_t)error;
    return S().sticky || !S().devices ? CUBLAS_STATUS_INTERNAL_ERROR : CUBLAS_STATUS_SUCCESS;
}
#define BLAS(name)                                                                                 \
    LOCK;                                                                                          \
    do {                                                                                           \
        cublasStatus_t e_ = blas(name);                                                            \
        if (e_) return e_;                                                                         \
    } while (0)

bool types_known(const product &p, const layout &a, const layout &b, const layout &c,
                 const layout &d) {
    if (a.type != b.type || c.type != d.type) return false;
    if (p.compute == CUBLAS_COMPUTE_16F)
        return p.scale == CUDA_R_16F && a.type == CUDA_R_16F && c.type == CUDA_R_16F;
    if (p.scale != CUDA_R_32F) return false;
    return c.type == CUDA_R_32F || (a.type != CUDA_R_32F && c.type == a.type);
}
bool shapes_fit(const product &p, const layout &a, const layout &b, const layout &c,
                const layout &d) {
    uint64_t m = p.transposed[0] ? a.columns : a.rows, k = p.transposed[0] ? a.rows : a.columns;
    uint64_t n = p.transposed[1] ? b.rows : b.columns, l = p.transposed[1] ? b.columns : b.rows;
    const layout *all[] = { &a, &b, &c, &d };
    for (const layout *x : all) {
        uint64_t least = x->order == CUBLASLT_ORDER_ROW ? x->columns : x->rows;
        if (!x->rows || !x->columns || x->ld < (int64_t)least || x->batches != d.batches)
            return false;
    }
    return k == l && d.rows == m && d.columns == n && c.rows == m && c.columns == n;
}

} // namespace

extern "C" {

static const struct { cublasStatus_t status; const char *name; } emu_statuses[] = {
    { CUBLAS_STATUS_SUCCESS, "CUBLAS_STATUS_SUCCESS" },
    { CUBLAS_STATUS_NOT_INITIALIZED, "CUBLAS_STATUS_NOT_INITIALIZED" },
    { CUBLAS_STATUS_ALLOC_FAILED, "CUBLAS_STATUS_ALLOC_FAILED" },
    { CUBLAS_STATUS_INVALID_VALUE, "CUBLAS_STATUS_INVALID_VALUE" },
    { CUBLAS_STATUS_ARCH_MISMATCH, "CUBLAS_STATUS_ARCH_MISMATCH" },
    { CUBLAS_STATUS_EXECUTION_FAILED, "CUBLAS_STATUS_EXECUTION_FAILED" },
    { CUBLAS_STATUS_INTERNAL_ERROR, "CUBLAS_STATUS_INTERNAL_ERROR" },
    { CUBLAS_STATUS_NOT_SUPPORTED, "CUBLAS_STATUS_NOT_SUPPORTED" },
};
const char *cublasGetStatusName(cublasStatus_t status) {
    for (auto &e : emu_statuses)
        if (e.status == status) return e.name;
    return "CUBLAS_STATUS_UNKNOWN";
}
const char *cublasGetStatusString(cublasStatus_t status) { return cublasGetStatusName(status); }
const char *cublasLtGetStatusName(cublasStatus_t status) { return cublasGetStatusName(status); }
const char *cublasLtGetStatusString(cublasStatus_t status) { return cublasGetStatusName(status); }

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out) {
    BLAS("cublasLtCreate");
    *out = (cublasLtHandle_t)malloc(1);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    free((void *)handle);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t desc, cublasComputeType_t compute,
                                      cudaDataType_t scale) {
    memset(desc, 0, sizeof *desc);
    desc->compute = compute;
    desc->scale = scale;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
    BLAS("cublasLtMatmulDescCreate");
    *out = (cublasLtMatmulDesc_t)malloc(sizeof **out);
    return cublasLtMatmulDescInit(*out, compute, scale);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
    free(desc);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t size) {
    int32_t number = 0;
    BLAS("cublasLtMatmulDescSetAttribute");
    if (!desc || !value) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&number, value, size < 4 ? size : 4);
    if (attribute == CUBLASLT_MATMUL_DESC_FAST_ACCUM) return CUBLAS_STATUS_SUCCESS;
    if (size != (attribute == CUBLASLT_MATMUL_DESC_BIAS_POINTER ? sizeof desc->bias : 4))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (attribute == CUBLASLT_MATMUL_DESC_BIAS_POINTER) memcpy(&desc->bias, value, size);
    else if (attribute == CUBLASLT_MATMUL_DESC_EPILOGUE) desc->epilogue = number;
    else if (attribute == CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE) desc->bias_type = number + 1;
    else if (attribute == CUBLASLT_MATMUL_DESC_TRANSA) desc->transposed[0] = number != CUBLAS_OP_N;
    else if (attribute == CUBLASLT_MATMUL_DESC_TRANSB) desc->transposed[1] = number != CUBLAS_OP_N;
    else if (attribute != CUBLASLT_MATMUL_DESC_POINTER_MODE || number) /* the host's alpha alone */
        return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t l, cudaDataType type, uint64_t rows,
                                        uint64_t columns, int64_t ld) {
    memset(l, 0, sizeof *l);
    l->type = type;
    l->rows = rows;
    l->columns = columns;
    l->ld = ld;
    l->batches = 1;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t ld) {
    BLAS("cublasLtMatrixLayoutCreate");
    *out = (cublasLtMatrixLayout_t)malloc(sizeof **out);
    return cublasLtMatrixLayoutInit(*out, type, rows, columns, ld);
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
    free(l);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void *value, size_t size) {
    uint64_t number = 0;
    BLAS("cublasLtMatrixLayoutSetAttribute");
    if (!l || !value || (size != 4 && size != 8)) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&number, value, size);
    switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE: l->type = (cudaDataType)number; break;
    case CUBLASLT_MATRIX_LAYOUT_ORDER: l->order = (int)number; break;
    case CUBLASLT_MATRIX_LAYOUT_ROWS: l->rows = number; break;
    case CUBLASLT_MATRIX_LAYOUT_COLS: l->columns = number; break;
    case CUBLASLT_MATRIX_LAYOUT_LD: l->ld = (int64_t)number; break;
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: l->batches = (int)number; break;
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: l->offset = (int64_t)number; break;
    default: return CUBLAS_STATUS_INVALID_VALUE;
    }
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t preference) {
    memset(preference, 0, sizeof *preference);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out) {
    BLAS("cublasLtMatmulPreferenceCreate");
    *out = (cublasLtMatmulPreference_t)calloc(1, sizeof **out);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    free(preference);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t size) {
    BLAS("cublasLtMatmulPreferenceSetAttribute");
    if (!preference || !value || size > 8) return CUBLAS_STATUS_INVALID_VALUE;
    if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
        memcpy(&preference->workspace, value, size);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int *count) {
    BLAS("cublasLtMatmulAlgoGetHeuristic");
    *count = 0;
    if (wanted < 1 || !desc || !a || !b || !c || !d || !preference)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!types_known(*desc, *a, *b, *c, *d)
        || !shapes_fit(*desc, *a, *b, *c, *d))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    memset(&results[0], 0, sizeof results[0]);
    results[0].workspaceSize = preference->workspace < 4096 ? (size_t)preference->workspace : 4096;
    results[0].wavesCount = 1;
    *count = 1;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *A, cublasLtMatrixLayout_t al, const void *B,
                              cublasLtMatrixLayout_t bl, const void *beta, const void *C,
                              cublasLtMatrixLayout_t cl, void *D, cublasLtMatrixLayout_t dl,
                              const cublasLtMatmulAlgo_t *, void *workspace, size_t workspace_size,
                              cudaStream_t stream) {
    BLAS("cublasLtMatmul");
    CUstream_st *q = stream_of(stream);
    operation op;
    if (!handle || !desc || !alpha || !beta || !A || !B || !C || !D || !q)
        return CUBLAS_STATUS_INVALID_VALUE;
    product p = *desc;
    layout a = *al, b = *bl, c = *cl, d = *dl;
    if (!types_known(p, a, b, c, d)) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (!shapes_fit(p, a, b, c, d)) return CUBLAS_STATUS_INVALID_VALUE;
    float by = read_number(alpha, p.scale, 0), keep = read_number(beta, p.scale, 0);
    if ((p.epilogue & CUBLASLT_EPILOGUE_BIAS)
        && !allocated(p.bias, d.rows * size_of(bias_type(p, d)))) {
        found("cublasLtMatmul: the bias is not within one allocation of the device");
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (!allocated(A, extent(a)) || !allocated(B, extent(b)) || !allocated(D, extent(d))
        || (keep != 0 && !allocated(C, extent(c)))
        || (workspace_size && !allocated(workspace, workspace_size))) {
        found("cublasLtMatmul: a matrix is not within one allocation of the device");
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if ((uintptr_t)A % 16 || (uintptr_t)B % 16 || (uintptr_t)D % 16)
        found("cublasLtMatmul: a matrix is not aligned to 16 bytes, which is slow");
    op.kind = operation::PRODUCT;
    op.kernel = (const void *)handle;
    op.call = [=]() {
        if (workspace_size) garbage(workspace, workspace_size);
        multiply(p, by, A, a, B, b, keep, C, c, D, d);
    };
    if (!q->capture && (op.fault_error = planned("launch", false))) op.fault = true;
    return take(q, std::move(op)) ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}
} // extern "C"
