/*  Proves: the emulation of CUDA (tests/emu) does what the CUDA documentation says of the calls it has,
    and that it sees what it is there to see: a barrier left out, threads at different barriers, results
    that depend on the order of threads or blocks, shared memory read before it is written or past its
    end, the host reading device memory, copies not waited for, errors that stay.
    Oracle: sums and tables made here on the host. Tolerance: none, but for matrix products, which the
    emulation errs on purpose: (k / 16 + 1) 2^-23 of the sum of |a b|. */
#include "sae.h"
#include "check.h"
#include "emu.h"
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <signal.h>
#include <sys/wait.h>

#define OK(call)                                                                                   \
    do {                                                                                           \
        cudaError_t e_ = (call);                                                                   \
        CHECK(e_ == cudaSuccess, "%s gives %s", #call, cudaGetErrorName(e_));                      \
    } while (0)

static cudaStream_t stream;
template <class... A, class... B>
static cudaError_t launch(void (*kernel)(A...), dim3 grid, dim3 block, size_t dynamic, B &&...args) {
    cudaLaunchConfig_t c = {};
    c.gridDim = grid;
    c.blockDim = block;
    c.dynamicSmemBytes = dynamic;
    c.stream = stream;
    return cudaLaunchKernelEx(&c, kernel, std::forward<B>(args)...);
}
template <class T> static T *device(size_t count) {
    T *p = nullptr;
    OK(cudaMalloc(&p, count * sizeof(T)));
    return p;
}
template <class T> static void down(T *to, const T *from, size_t count) {
    OK(cudaMemcpyAsync(to, from, count * sizeof(T), cudaMemcpyDeviceToHost, stream));
}
template <class T> static void up(T *to, const T *from, size_t count) {
    OK(cudaMemcpyAsync(to, from, count * sizeof(T), cudaMemcpyHostToDevice, stream));
}

/* ---- kernels, right ones and wrong ones -------------------------------------------------------- */

__global__ static void who_kernel(unsigned *out) {
    unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}
__global__ static void reverse_kernel(const int *in, int *out, int barrier) {
    __shared__ int s[64];
    s[threadIdx.x] = in[blockIdx.x * 64 + threadIdx.x];
    if (barrier) __syncthreads();
    out[blockIdx.x * 64 + threadIdx.x] = s[63 - threadIdx.x];
}
__global__ static void dynamic_kernel(const int *in, int *out) {
    SAEI_DYNAMIC_SHARED(saei_shared);
    int *s = (int *)(void *)saei_shared;
    s[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}
__global__ static void votes_kernel(const int *in, int *out) {
    int x = in[threadIdx.x], r = 0;
    r += __syncthreads_count(x & 1);
    r += 1000 * __syncthreads_or(x > 98);
    r += 10000 * __syncthreads_and(x >= 0);
    r += 100000 * __syncthreads_and(x > 50);
    out[threadIdx.x] = r;
}
__global__ static void warp_kernel(const int *in, int *out) {
    int x = in[threadIdx.x], *o = out + threadIdx.x * 12;
    o[0] = __shfl_sync(0xFFFFFFFFu, x, 5);
    o[1] = __shfl_xor_sync(0xFFFFFFFFu, x, 9);
    o[2] = __shfl_down_sync(0xFFFFFFFFu, x, 7);
    o[3] = __shfl_up_sync(0xFFFFFFFFu, x, 3);
    o[4] = (int)__ballot_sync(0xFFFFFFFFu, x & 1);
    o[5] = __any_sync(0xFFFFFFFFu, x == 77);
    o[6] = __all_sync(0xFFFFFFFFu, x >= 0);
    o[7] = __shfl_sync(0xFFFFFFFFu, x, 1, 8);
    o[8] = __shfl_down_sync(0xFFFFFFFFu, x, 3, 8);
    o[9] = (int)__match_any_sync(0xFFFFFFFFu, x % 3);
    o[10] = (int)__reduce_add_sync(0xFFFFFFFFu, (unsigned)x);
    double wide = __shfl_xor_sync(0xFFFFFFFFu, x + 0.5, 1);
    o[11] = (int)(2 * wide);
}
__global__ static void atomics_kernel(unsigned *at, unsigned long long *wide, int *max) {
    atomicAdd(at, 1u);
    atomicMax(max, (int)threadIdx.x);
    atomicAdd(wide, (unsigned long long)1 << 33);
    atomicOr(at + 1, 1u << (threadIdx.x & 31));
    for (;;) { /* a counter by compare and swap */
        unsigned seen = at[2];
        if (atomicCAS(at + 2, seen, seen + 2) == seen) break;
    }
}
__global__ static void left_out_kernel(int *out) { /* a thread ends, the others wait */
    if (threadIdx.x == 40) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}
__global__ static void two_places_kernel(int *out) {
    if (threadIdx.x < 32) __syncthreads();
    else __syncthreads();
    out[threadIdx.x] = 1;
}
__global__ static void lanes_apart_kernel(int *out) {
    int x = (int)threadIdx.x;
    if (x & 1) x = __shfl_xor_sync(0xFFFFFFFFu, x, 2);
    out[threadIdx.x] = x;
}
__global__ static void half_mask_kernel(int *out) {
    out[threadIdx.x] = (int)__ballot_sync(0xFFFFu, 1);
}
__global__ static void order_kernel(int *last) { *last = (int)(blockIdx.x * blockDim.x + threadIdx.x); }
__global__ static void add_kernel(int *x, int by) { x[threadIdx.x] += by; }
__global__ static void double_kernel(int *x) { x[threadIdx.x] *= 2; }
__global__ static void past_end_kernel(int *out, int by) { /* static, shared */
    __shared__ int s[33];
    s[threadIdx.x + (unsigned)by] = 1;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}
__global__ static void past_dynamic_kernel(int *out, int by) {
    SAEI_DYNAMIC_SHARED(saei_shared);
    int *s = (int *)(void *)saei_shared;
    s[threadIdx.x + (unsigned)by] = 1;
    out[threadIdx.x] = s[threadIdx.x];
}

/* ---- threads ----------------------------------------------------------------------------------- */

static void threads() {
    enum { BLOCKS = 12, THREADS = 96 };
    unsigned *who = device<unsigned>(BLOCKS * THREADS), got[BLOCKS * THREADS];
    int *in = device<int>(256), *out = device<int>(64 * 12), host[256], back[64 * 12], wrong = 0;
    for (int i = 0; i < 256; i++) host[i] = i * 37 % 101;
    up(in, host, 256);
    OK(launch(who_kernel, dim3(2, 3, 2), dim3(8, 4, 3), 0, who));
    down(got, who, BLOCKS * THREADS);
    for (unsigned i = 0; i < BLOCKS * THREADS; i++) wrong += got[i] != i / THREADS * 1000 + i % THREADS;
    CHECK(!wrong, "%d threads have the wrong index", wrong);

    OK(launch(reverse_kernel, dim3(3), dim3(64), 0, in, out, 1));
    down(back, out, 192);
    for (int i = 0; i < 192; i++) wrong += back[i] != host[i / 64 * 64 + 63 - i % 64];
    CHECK(!wrong, "a block reversed: %d wrong", wrong);
    OK(launch(dynamic_kernel, dim3(1), dim3(256), 1024, in, out));
    down(back, out, 256);
    for (int i = 0; i < 256; i++) wrong += back[i] != host[255 - i];
    CHECK(!wrong, "in dynamic memory: %d wrong", wrong);

    OK(launch(votes_kernel, dim3(1), dim3(128), 0, in, out));
    down(back, out, 128);
    int odd = 0, large = 0;
    for (int i = 0; i < 128; i++) odd += host[i] & 1, large |= host[i] > 98;
    for (int i = 0; i < 128; i++) wrong += back[i] != odd + 1000 * large + 10000;
    CHECK(!wrong, "votes of a block: %d wrong", wrong);

    OK(launch(warp_kernel, dim3(1), dim3(64), 0, in, out));
    down(back, out, 64 * 12);
    for (int t = 0; t < 64; t++) {
        const int *w = host + t / 32 * 32, *o = back + t * 12;
        int l = t % 32, want[12] = { 0 }, any = 0, all = 1, sum = 0;
        unsigned ballot = 0, same = 0;
        for (int i = 0; i < 32; i++) {
            ballot |= (unsigned)(w[i] & 1) << i;
            same |= (unsigned)(w[i] % 3 == w[l] % 3) << i;
            any |= w[i] == 77;
            all &= w[i] >= 0;
            sum += w[i];
        }
        want[0] = w[5], want[1] = w[l ^ 9], want[2] = w[l + 7 < 32 ? l + 7 : l];
        want[3] = w[l >= 3 ? l - 3 : l], want[4] = (int)ballot, want[5] = any, want[6] = all;
        want[7] = w[l / 8 * 8 + 1], want[8] = w[l % 8 + 3 < 8 ? l + 3 : l], want[9] = (int)same;
        want[10] = sum, want[11] = 2 * w[l ^ 1] + 1;
        for (int i = 0; i < 12; i++)
            CHECK(o[i] == want[i], "warp call %d, thread %d: %d, want %d", i, t, o[i], want[i]);
    }

    unsigned counts[3], zeros[3] = { 0, 0, 0 }, *at = device<unsigned>(3);
    unsigned long long wide = 5, *dwide = device<unsigned long long>(1);
    int most = -1, *dmost = device<int>(1);
    up(at, zeros, 3), up(dwide, &wide, 1), up(dmost, &most, 1);
    OK(launch(atomics_kernel, dim3(7), dim3(96), 0, at, dwide, dmost));
    down(counts, at, 3), down(&wide, dwide, 1), down(&most, dmost, 1);
    CHECK(counts[0] == 672 && counts[1] == 0xFFFFFFFFu && counts[2] == 1344 && most == 95
              && wide == 5 + (672ull << 33), "atomics: %u %x %u %d %llu", counts[0], counts[1],
          counts[2], most, wide);
    cudaFree(who), cudaFree(in), cudaFree(out), cudaFree(at), cudaFree(dwide), cudaFree(dmost);
    CHECK(emu_fault()[0] == 0, "found %s", emu_fault());
}

/* Different seeds, different orders: what depends on the order shows. */
static void orders() {
    int *in = device<int>(64), *out = device<int>(64), *last = device<int>(1), host[64], back[64], lasts[8];
    int races = 0, others = 0;
    for (int i = 0; i < 64; i++) host[i] = i;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        int wrong = 0;
        emu_seed(seed);
        up(in, host, 64);
        OK(launch(reverse_kernel, dim3(1), dim3(64), 0, in, out, 0));
        OK(launch(order_kernel, dim3(5), dim3(32), 0, last));
        down(back, out, 64);
        down(&lasts[seed - 1], last, 1);
        for (int i = 0; i < 64; i++) wrong += back[i] != 63 - i;
        races += wrong > 0;
        others += lasts[seed - 1] != lasts[0];
    }
    CHECK(races == 8, "a missing barrier showed in %d of 8 orders", races);
    CHECK(others > 4, "the last of all threads was %d in most orders", lasts[0]);
    cudaFree(in), cudaFree(out), cudaFree(last);
}

static void faults() {
    void (*const kernels[])(int *) = { left_out_kernel, two_places_kernel, lanes_apart_kernel,
                                       half_mask_kernel };
    const char *const what[] = { "has ended", "__syncthreads of line", "warp", "part of a warp" };
    for (int i = 0; i < 4; i++) {
        int *out = device<int>(64), x;
        emu_quiet(1);
        OK(launch(kernels[i], dim3(2), dim3(64), 0, out));
        CHECK(cudaStreamSynchronize(stream) == cudaErrorLaunchFailure, "wrong kernel %d ran", i);
        CHECK(strstr(emu_fault(), what[i]) != NULL, "wrong kernel %d: %s", i, emu_fault());
        CHECK(cudaMemcpy(&x, out, 4, cudaMemcpyDeviceToHost) == cudaErrorLaunchFailure
                  && cudaGetLastError() == cudaErrorLaunchFailure
                  && cudaGetLastError() == cudaErrorLaunchFailure, "the error did not stay");
        cudaFree(out);
        emu_reset();
    }
}

/* What must end the process, in one of its own. */
static bool dies(void (*what)()) {
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        if (!freopen("/dev/null", "w", stderr)) _exit(9);
        signal(SIGSEGV, SIG_DFL);
        what();
        _exit(0);
    }
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) || WEXITSTATUS(status) != 0;
}
static int *some;
static void reads_device() {
    volatile int *p = some;
    int x = *p;
    (void)x;
}
static void past_static() {
    launch(past_end_kernel, dim3(1), dim3(32), 0, some, 2);
    cudaDeviceSynchronize();
}
static void past_dynamic() {
    launch(past_dynamic_kernel, dim3(1), dim3(32), 128, some, 1);
    cudaDeviceSynchronize();
}
static void within() {
    launch(past_end_kernel, dim3(1), dim3(32), 0, some, 1);
    launch(past_dynamic_kernel, dim3(1), dim3(32), 128, some, 0);
    cudaDeviceSynchronize();
}
static void past_device() {
    launch(add_kernel, dim3(1), dim3(33), 0, some, 1);
    cudaDeviceSynchronize();
}
static void borders() {
    some = device<int>(32);
    CHECK(dies(reads_device), "the host read device memory");
    CHECK(!dies(within), "a kernel within its bounds died");
#ifdef __SANITIZE_ADDRESS__
    CHECK(dies(past_static), "static shared memory was written past its end");
    CHECK(dies(past_dynamic), "dynamic shared memory was written past its end");
    CHECK(dies(past_device), "device memory was written past its end");
#else
    (void)past_static, (void)past_dynamic, (void)past_device;
#endif
    cudaFree(some);
}

/* ---- streams, memory, graphs ------------------------------------------------------------------- */

static void copies() {
    int *x = device<int>(4), host[4] = { 1, 2, 3, 4 }, back[4] = { 0, 0, 0, 0 }, *pinned;
    int rows[6] = { 1, 2, 9, 3, 4, 9 };
    cudaStream_t other;
    cudaEvent_t event;
    int before = 0, seen[2] = { 0, 0 };
    OK(cudaMallocHost(&pinned, 4 * sizeof *pinned));
    up(x, host, 4);
    host[0] = 99; /* pageable: the call took what was there */
    down(back, x, 4);
    CHECK(back[0] == 1 && back[3] == 4, "pageable memory read late");
    memcpy(pinned, back, sizeof back);
    up(x, pinned, 4);
    pinned[0] = 77; /* pinned: read when the copy runs */
    down(back, x, 4);
    CHECK(back[0] == 77, "pinned memory read early");
    pinned[1] = 0;
    down(pinned, x, 4);
    CHECK(pinned[1] == 0, "a copy to pinned memory was waited for");
    OK(cudaStreamSynchronize(stream));
    CHECK(pinned[1] == 2, "a copy to pinned memory is missing");
    OK(cudaMemcpy2DAsync(x, 8, rows, 12, 8, 2, cudaMemcpyHostToDevice, stream));
    down(back, x, 4);
    CHECK(back[0] == 1 && back[1] == 2 && back[2] == 3 && back[3] == 4, "rows with a stride");
    OK(cudaMemsetAsync(x, 0, 12, stream));
    down(back, x, 4);
    CHECK(back[0] == 0 && back[2] == 0 && back[3] == 4, "cudaMemsetAsync");
    CHECK(cudaMemcpyAsync(x + 1, back, 16, cudaMemcpyHostToDevice, stream) == cudaErrorInvalidValue
              && cudaMemcpyAsync(back, host, 16, cudaMemcpyDeviceToHost, stream)
                     == cudaErrorInvalidValue, "a copy past the end, or the wrong way");
    cudaGetLastError();

    OK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    for (uint64_t seed = 1; seed <= 16; seed++) { /* without, then with an event between them */
        emu_seed(seed);
        for (int with = 0; with < 2; with++) {
            cudaStream_t mine = stream;
            OK(cudaMemsetAsync(x, 0, 16, stream));
            OK(launch(add_kernel, dim3(1), dim3(1), 0, x, 1));
            OK(cudaEventRecord(event, stream));
            if (with) OK(cudaStreamWaitEvent(other, event));
            stream = other;
            OK(launch(double_kernel, dim3(1), dim3(1), 0, x));
            stream = mine;
            OK(cudaDeviceSynchronize());
            down(&before, x, 1);
            seen[with] += before == 2;
        }
    }
    CHECK(seen[1] == 16 && seen[0] < 16, "streams: in order %d of 16, %d with an event", seen[0],
          seen[1]);
    OK(cudaEventDestroy(event));
    OK(cudaStreamDestroy(other));
    OK(cudaFreeHost(pinned));
    OK(cudaFree(x));
}

static void memory() {
    size_t available, total;
    char *a, *b = nullptr;
    emu_memory(1000);
    OK(cudaMalloc(&a, 600));
    OK(cudaMemGetInfo(&available, &total));
    CHECK(available == 400 && total == 1000, "%zu of %zu", available, total);
    CHECK(cudaMalloc(&b, 600) == cudaErrorMemoryAllocation && !b, "more than there is");
    CHECK(cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess,
          "the last error");
    CHECK(cudaFree(a + 1) == cudaErrorInvalidValue, "half an allocation freed");
    OK(cudaFree(a));
    CHECK(emu_in_use() == 0, "%zu bytes in use", emu_in_use());
    emu_reset();
}

static void graphs() {
    int *x = device<int>(1), got = 0, zero = 0;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaGraphExecUpdateResultInfo info;
    cudaStreamCaptureStatus status;
    up(x, &zero, 1);
    for (int by = 3; by <= 10; by += 7) { /* the second time other numbers */
        OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        OK(launch(add_kernel, dim3(1), dim3(1), 0, x, by));
        OK(launch(double_kernel, dim3(1), dim3(1), 0, x));
        OK(cudaStreamIsCapturing(stream, &status));
        CHECK(status == cudaStreamCaptureStatusActive, "not recording");
        OK(cudaStreamEndCapture(stream, &graph));
        if (by == 3) OK(cudaGraphInstantiate(&exec, graph));
        else OK(cudaGraphExecUpdate(exec, graph, &info));
        OK(cudaGraphDestroy(graph));
        for (int i = 0; i < 2; i++) OK(cudaGraphLaunch(exec, stream));
    }
    down(&got, x, 1);
    CHECK(got == ((((0 + 3) * 2 + 3) * 2 + 10) * 2 + 10) * 2, "graphs: %d", got);
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    OK(launch(double_kernel, dim3(1), dim3(1), 0, x));
    OK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphExecUpdate(exec, graph, &info) == cudaErrorGraphExecUpdateFailure
              && info.result == cudaGraphExecUpdateErrorTopologyChanged, "another graph");
    OK(cudaGraphDestroy(graph));
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    CHECK(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported, "waited in a graph");
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated && !graph,
          "a broken recording");
    cudaGetLastError();
    OK(launch(double_kernel, dim3(1), dim3(1), 0, x)); /* the stream lives on */
    OK(cudaGraphExecDestroy(exec));
    OK(cudaFree(x));
}

static void errors() {
    int *x = nullptr, count;
    emu_fail("cudaMalloc", 2, cudaErrorMemoryAllocation);
    OK(cudaMalloc(&x, 4));
    int *y = nullptr;
    CHECK(cudaMalloc(&y, 4) == cudaErrorMemoryAllocation, "the second one");
    OK(cudaMalloc(&y, 4));
    emu_fail("launch", 2, cudaErrorIllegalAddress);
    OK(launch(add_kernel, dim3(1), dim3(1), 0, x, 1));
    OK(launch(add_kernel, dim3(1), dim3(1), 0, x, 1)); /* it succeeds, its kernel faults */
    CHECK(cudaStreamSynchronize(stream) == cudaErrorIllegalAddress
              && cudaMemsetAsync(x, 0, 4, stream) == cudaErrorIllegalAddress, "a fault that stays");
    cudaFree(x), cudaFree(y);
    emu_reset();
    emu_devices(0, 13000);
    CHECK(cudaGetDeviceCount(&count) == cudaErrorNoDevice && count == 0, "a device where is none");
    emu_devices(1, 12000);
    CHECK(cudaGetDeviceCount(&count) == cudaErrorInsufficientDriver, "an old driver");
    emu_reset();
    CHECK(launch(add_kernel, dim3(1), dim3(2048), 0, x, 1) == cudaErrorInvalidConfiguration
              && launch(add_kernel, dim3(0), dim3(32), 0, x, 1) == cudaErrorInvalidConfiguration
              && launch(add_kernel, dim3(1), dim3(32), 50000, x, 1) == cudaErrorInvalidValue,
          "impossible launches");
    OK(cudaFuncSetAttribute(add_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 60000));
    x = device<int>(32);
    OK(launch(add_kernel, dim3(1), dim3(32), 50000, x, 1));
    OK(cudaFree(x));
    emu_reset();
}

/* ---- numbers ----------------------------------------------------------------------------------- */

static void halves() {
    int wrong = 0;
    for (unsigned i = 0; i < 65536; i++) { /* each half; the middle to the next; beside the middle */
        __half h = __ushort_as_half((unsigned short)i);
        float x = __half2float(h), next, middle;
        if (x != x) continue;
        wrong += __half_as_ushort(__float2half_rn(x)) != i;
        if ((i & 0x7FFF) >= 0x7BFF) continue;
        next = __half2float(__ushort_as_half((unsigned short)(i + 1)));
        middle = x + (next - x) / 2;
        wrong += __half_as_ushort(__float2half_rn(middle)) != i + (i & 1);
        wrong += __half_as_ushort(__float2half_rn(nextafterf(middle, next))) != i + 1;
        wrong += __half_as_ushort(__float2half_rn(nextafterf(middle, x))) != i;
        wrong += __half_as_ushort(__float2half_rz(middle)) != i;
        wrong += __half_as_ushort(__float2half_ru(middle)) != i + (i < 0x8000);
    }
    wrong += __half_as_ushort(__float2half_rn(65519)) != 0x7BFF;
    wrong += __half_as_ushort(__float2half_rn(65520)) != 0x7C00;
    wrong += __half_as_ushort(__float2half_rn(1)) != 0x3C00;
    wrong += __half_as_ushort(__float2half_rn(-2)) != 0xC000;
    CHECK(!wrong, "halves: %d wrong", wrong);
    for (unsigned i = 0; i < 65536; i++) {
        float x = __bfloat162float(__ushort_as_bfloat16((unsigned short)i));
        if (x == x) wrong += __bfloat16_as_ushort(__float2bfloat16_rn(x)) != i;
    }
    wrong += __bfloat16_as_ushort(__float2bfloat16_rn(__uint_as_float(0x3F808000u))) != 0x3F80;
    wrong += __bfloat16_as_ushort(__float2bfloat16_rn(__uint_as_float(0x3F818000u))) != 0x3F82;
    CHECK(!wrong, "bfloat16: %d wrong", wrong);
}

/* D [m][n] row-major = A [m][k] times the transpose of B [n][k]: as column-major D' = B'' A'. */
static void products() {
    enum { M = 5, N = 7, K = 40 };
    static float a[M * K], b[N * K], d[M * N], other[M * N];
    static __half ha[M * K], hb[N * K];
    __half *da = device<__half>(M * K), *db = device<__half>(N * K);
    float *dd = device<float>(M * N), one = 1, zero = 0;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t la, lb, ld;
    cublasOperation_t t = CUBLAS_OP_T;
    check_rng rng = { 7 };
    for (int i = 0; i < M * K; i++) ha[i] = __half(a[i] = (float)check_normal(&rng)), a[i] = ha[i];
    for (int i = 0; i < N * K; i++) hb[i] = __half(b[i] = (float)check_normal(&rng)), b[i] = hb[i];
    up(da, ha, M * K), up(db, hb, N * K);
    cublasLtCreate(&handle);
    cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &t, sizeof t);
    cublasLtMatrixLayoutCreate(&lb, CUDA_R_16F, K, N, K);
    cublasLtMatrixLayoutCreate(&la, CUDA_R_16F, K, M, K);
    cublasLtMatrixLayoutCreate(&ld, CUDA_R_32F, N, M, N);
    for (int i = 0; i < 2; i++) {
        int status = (int)cublasLtMatmul(handle, desc, &one, db, lb, da, la, &zero, dd, ld, dd, ld,
                                         NULL, NULL, 0, stream);
        CHECK(!status, "cublasLtMatmul gives %d", status);
        down(i ? other : d, dd, M * N);
    }
    for (int r = 0; r < M; r++)
        for (int c = 0; c < N; c++) {
            double sum = 0, size = 0;
            for (int i = 0; i < K; i++) {
                double p = (double)a[r * K + i] * (double)b[c * K + i];
                sum += p, size += fabs(p);
            }
            CHECK(fabs((double)d[r * N + c] - sum) <= 1.01 * (K / 16 + 1) / 8388608 * size + 1e-12,
                  "product %d %d: %g, want %g", r, c, (double)d[r * N + c], sum);
        }
    CHECK(memcmp(d, other, sizeof d) != 0, "the same bits twice");
    cublasLtMatrixLayoutDestroy(la), cublasLtMatrixLayoutDestroy(lb), cublasLtMatrixLayoutDestroy(ld);
    cublasLtMatmulDescDestroy(desc);
    cublasLtDestroy(handle);
    cudaFree(da), cudaFree(db), cudaFree(dd);
}

int main() {
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    threads();
    orders();
    faults();
    borders();
    copies();
    memory();
    graphs();
    errors();
    halves();
    products();
    OK(cudaStreamDestroy(stream));
    CHECK(emu_in_use() == 0, "%zu bytes of device memory are left", emu_in_use());
    return check_end();
}
