/*  cuda_runtime.h - the part of CUDA's runtime that sae_cuda.cuh uses, on the host.

    Kernels are plain functions. The threads of a block are fibers of one host thread, run in a random
    order from barrier to barrier; blocks run one after the other in a random order. What streams are
    given waits until the host waits for it. emu.h steers it, README.md says what it cannot see.
    Written from the documentation of the CUDA runtime API; only names and meanings are NVIDIA's. */
#ifndef EMU_CUDA_RUNTIME_H
#define EMU_CUDA_RUNTIME_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <type_traits>
#include <utility>

#define SAE_EMU 1 /* "this is the emulation", for tests */

/* ---- words of the language -------------------------------------------------------------------- */

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
/* One copy serves every block, as they run one by one. Its own section lets emu.cpp fill it with garbage;
   as static data it gets AddressSanitizer's borders (-fsanitize-sections=emu_shared). */
#define __shared__ static __attribute__((section("emu_shared")))
/* The dynamic array, exactly as long as the launch says. */
#define SAEI_DYNAMIC_SHARED(name) unsigned char *const name = emu_dynamic_shared()

/* ---- types ------------------------------------------------------------------------------------ */

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
#define EMU_VECTORS(T, name, a2, a4)                                                               \
    struct __attribute__((aligned(a2))) name##2 { T x, y; };                                       \
    struct name##3 { T x, y, z; };                                                                 \
    struct __attribute__((aligned(a4))) name##4 { T x, y, z, w; };                                 \
    inline name##2 make_##name##2(T x, T y) { return name##2{ x, y }; }                            \
    inline name##3 make_##name##3(T x, T y, T z) { return name##3{ x, y, z }; }                    \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return name##4{ x, y, z, w }; }
struct __attribute__((aligned(8))) uint2 { unsigned x, y; };
struct __attribute__((aligned(16))) uint4 { unsigned x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return uint2{ x, y }; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return uint3{ x, y, z }; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return uint4{ x, y, z, w };
}
EMU_VECTORS(float, float, 8, 16)
EMU_VECTORS(int, int, 8, 16)
EMU_VECTORS(double, double, 16, 16)
EMU_VECTORS(unsigned short, ushort, 4, 8)
EMU_VECTORS(unsigned long long, ulonglong, 16, 16)
EMU_VECTORS(long long, longlong, 16, 16)
#undef EMU_VECTORS

typedef enum cudaError {
    cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2,
    cudaErrorInitializationError = 3, cudaErrorInvalidConfiguration = 9,
    cudaErrorInvalidDevicePointer = 17, cudaErrorInvalidMemcpyDirection = 21,
    cudaErrorInsufficientDriver = 35, cudaErrorDevicesUnavailable = 46,
    cudaErrorInvalidDeviceFunction = 98, cudaErrorNoDevice = 100, cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209, cudaErrorECCUncorrectable = 214,
    cudaErrorInvalidResourceHandle = 400, cudaErrorNotReady = 600, cudaErrorIllegalAddress = 700,
    cudaErrorLaunchOutOfResources = 701, cudaErrorLaunchTimeout = 702, cudaErrorAssert = 710,
    cudaErrorHardwareStackError = 714, cudaErrorIllegalInstruction = 715,
    cudaErrorMisalignedAddress = 716, cudaErrorLaunchFailure = 719, cudaErrorNotSupported = 801,
    cudaErrorStreamCaptureUnsupported = 900, cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorStreamCaptureUnmatched = 903, cudaErrorGraphExecUpdateFailure = 910,
    cudaErrorUnknown = 999
} cudaError_t;

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
typedef struct CUgraph_st *cudaGraph_t;
typedef struct CUgraphExec_st *cudaGraphExec_t;
typedef struct CUgraphNode_st *cudaGraphNode_t;
#define cudaStreamLegacy ((cudaStream_t)0x1)
#define cudaStreamPerThread ((cudaStream_t)0x2)

enum cudaMemcpyKind {
    cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};
enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1 };
enum { cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };
enum { cudaHostAllocDefault = 0, cudaHostAllocPortable = 1, cudaHostAllocMapped = 2 };
enum { cudaHostRegisterDefault = 0, cudaHostRegisterPortable = 1 };
typedef enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed
} cudaStreamCaptureMode;
typedef enum cudaStreamCaptureStatus {
    cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive, cudaStreamCaptureStatusInvalidated
} cudaStreamCaptureStatus;
enum cudaGraphExecUpdateResult {
    cudaGraphExecUpdateSuccess, cudaGraphExecUpdateError, cudaGraphExecUpdateErrorTopologyChanged,
    cudaGraphExecUpdateErrorNodeTypeChanged, cudaGraphExecUpdateErrorFunctionChanged,
    cudaGraphExecUpdateErrorParametersChanged
};
typedef struct cudaGraphExecUpdateResultInfo_st {
    cudaGraphExecUpdateResult result;
    cudaGraphNode_t errorNode, errorFromNode;
} cudaGraphExecUpdateResultInfo;

enum cudaDeviceAttr {
    cudaDevAttrMaxThreadsPerBlock = 1, cudaDevAttrMaxSharedMemoryPerBlock = 8,
    cudaDevAttrWarpSize = 10, cudaDevAttrMultiProcessorCount = 16, cudaDevAttrIntegrated = 18,
    cudaDevAttrL2CacheSize = 38, cudaDevAttrMaxThreadsPerMultiProcessor = 39,
    cudaDevAttrComputeCapabilityMajor = 75, cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97, cudaDevAttrMaxPersistingL2CacheSize = 108
};
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin;
    int major, minor, multiProcessorCount, warpSize, l2CacheSize, maxThreadsPerBlock;
    int maxThreadsPerMultiProcessor, memoryBusWidth, integrated;
};
enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9
};
enum cudaMemoryType {
    cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice, cudaMemoryTypeManaged
};
struct cudaPointerAttributes {
    cudaMemoryType type;
    int device;
    void *devicePointer, *hostPointer;
};
typedef enum cudaLaunchAttributeID {
    cudaLaunchAttributeIgnore = 0, cudaLaunchAttributeProgrammaticStreamSerialization = 6
} cudaLaunchAttributeID;
typedef struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    union { char pad[64]; int programmaticStreamSerializationAllowed; } val;
} cudaLaunchAttribute;
typedef struct cudaLaunchConfig_st {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
} cudaLaunchConfig_t;

typedef enum cudaDataType_t {
    CUDA_R_32F = 0, CUDA_R_64F = 1, CUDA_R_16F = 2, CUDA_R_8I = 3, CUDA_R_16BF = 14
} cudaDataType;

/* ---- calls of the host ------------------------------------------------------------------------ */

extern "C" {
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
const char *cudaGetErrorName(cudaError_t error);
const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaDeviceReset(void);
cudaError_t cudaMemGetInfo(size_t *available, size_t *total);
cudaError_t cudaFree(void *memory);
cudaError_t cudaFreeAsync(void *memory, cudaStream_t stream);
cudaError_t cudaFreeHost(void *memory);
cudaError_t cudaHostRegister(void *memory, size_t size, unsigned flags);
cudaError_t cudaHostUnregister(void *memory);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *a, const void *memory);
cudaError_t cudaMemcpy(void *to, const void *from, size_t size, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, cudaMemcpyKind kind,
                            cudaStream_t stream = 0);
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream = 0);
cudaError_t cudaMemset(void *memory, int value, size_t size);
cudaError_t cudaMemsetAsync(void *memory, int value, size_t size, cudaStream_t stream = 0);
cudaError_t cudaStreamCreate(cudaStream_t *out);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out);
cudaError_t cudaEventCreate(cudaEvent_t *out);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = 0);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph,
                                 unsigned long long flags = 0);
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph,
                                cudaGraphExecUpdateResultInfo *info);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count);
}
cudaError_t emu_malloc(void **out, size_t size);
cudaError_t emu_malloc_host(void **out, size_t size);
template <class T> cudaError_t cudaMalloc(T **out, size_t size) {
    return emu_malloc((void **)(void *)out, size);
}
template <class T> cudaError_t cudaMallocAsync(T **out, size_t size, cudaStream_t) {
    return emu_malloc((void **)(void *)out, size);
}
template <class T> cudaError_t cudaMallocHost(T **out, size_t size, unsigned = 0) {
    return emu_malloc_host((void **)(void *)out, size);
}
template <class T> cudaError_t cudaHostAlloc(T **out, size_t size, unsigned) {
    return emu_malloc_host((void **)(void *)out, size);
}

cudaError_t emu_launch(const cudaLaunchConfig_t *config, const void *kernel,
                       std::function<void()> call);
cudaError_t emu_set_dynamic(const void *kernel, int bytes);
template <class T> cudaError_t cudaFuncSetAttribute(T *kernel, cudaFuncAttribute what, int value) {
    if (what != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    return emu_set_dynamic((const void *)kernel, value);
}
template <class T> cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, T *, int size,
                                                                            size_t) {
    *blocks = size > 1024 ? 1 : 2048 / (size < 64 ? 64 : size);
    return cudaSuccess;
}
/* Arguments become the kernel's own types here, as they do at a real launch, and live until it ran. */
template <typename... Expected, typename... Actual>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Expected...),
                               Actual &&...args) {
    return [&](Expected... a) {
        return emu_launch(config, (const void *)kernel, [kernel, a...]() { kernel(a...); });
    }(std::forward<Actual>(args)...);
}

/* ---- inside a kernel: who am I, barriers, warps ----------------------------------------------- */

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
static const int warpSize = 32;

unsigned char *emu_dynamic_shared();
enum { EMU_PLAIN, EMU_COUNT, EMU_AND, EMU_OR }; /* of __syncthreads */
int emu_syncthreads(int kind, int line, int predicate);
/* Waits for the warp's 32 threads; `line` must agree. Returns what each of them brought. */
const uint64_t *emu_warp(unsigned mask, int line, uint64_t mine);
unsigned emu_lane();

/* The default argument is the line of the call. */
inline void __syncthreads(int line = __builtin_LINE()) { emu_syncthreads(EMU_PLAIN, line, 0); }
inline int __syncthreads_count(int p, int line = __builtin_LINE()) {
    return emu_syncthreads(EMU_COUNT, line, p != 0);
}
inline int __syncthreads_and(int p, int line = __builtin_LINE()) {
    return emu_syncthreads(EMU_AND, line, p != 0);
}
inline int __syncthreads_or(int p, int line = __builtin_LINE()) {
    return emu_syncthreads(EMU_OR, line, p != 0);
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, int line = __builtin_LINE()) {
    emu_warp(mask, line, 0);
}

template <class T> uint64_t emu_to_bits(T x) {
    uint64_t bits = 0;
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "a shuffle of numbers");
    memcpy(&bits, &x, sizeof x);
    return bits;
}
template <class T> T emu_of_bits(uint64_t bits) {
    T x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
template <class T>
T __shfl_sync(unsigned mask, T x, int from, int width = 32, int line = __builtin_LINE()) {
    const uint64_t *all = emu_warp(mask, line, emu_to_bits(x));
    int lane = (int)emu_lane();
    return emu_of_bits<T>(all[(lane & ~(width - 1)) + (from & (width - 1))]);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T x, int apart, int width = 32, int line = __builtin_LINE()) {
    const uint64_t *all = emu_warp(mask, line, emu_to_bits(x));
    int lane = (int)emu_lane(), from = lane ^ apart;
    return emu_of_bits<T>(all[from >= (lane & ~(width - 1)) + width ? lane : from & 31]);
}
template <class T>
T __shfl_down_sync(unsigned mask, T x, unsigned by, int width = 32, int line = __builtin_LINE()) {
    const uint64_t *all = emu_warp(mask, line, emu_to_bits(x));
    int lane = (int)emu_lane(), from = lane + (int)by;
    return emu_of_bits<T>(all[from >= (lane & ~(width - 1)) + width ? lane : from]);
}
template <class T>
T __shfl_up_sync(unsigned mask, T x, unsigned by, int width = 32, int line = __builtin_LINE()) {
    const uint64_t *all = emu_warp(mask, line, emu_to_bits(x));
    int lane = (int)emu_lane(), from = lane - (int)by;
    return emu_of_bits<T>(all[from < (lane & ~(width - 1)) ? lane : from]);
}
inline unsigned __ballot_sync(unsigned mask, int p, int line = __builtin_LINE()) {
    const uint64_t *all = emu_warp(mask, line, p != 0);
    unsigned bits = 0;
    for (int i = 0; i < 32; i++) bits |= (unsigned)all[i] << i;
    return bits;
}
inline int __any_sync(unsigned mask, int p, int line = __builtin_LINE()) {
    return __ballot_sync(mask, p, line) != 0;
}
inline int __all_sync(unsigned mask, int p, int line = __builtin_LINE()) {
    return __ballot_sync(mask, p, line) == 0xFFFFFFFFu;
}
template <class T> unsigned __match_any_sync(unsigned mask, T x, int line = __builtin_LINE()) {
    const uint64_t *all = emu_warp(mask, line, emu_to_bits(x));
    unsigned bits = 0;
    for (int i = 0; i < 32; i++) bits |= (unsigned)(all[i] == emu_to_bits(x)) << i;
    return bits;
}
#define EMU_REDUCE(name, T, join)                                                                  \
    inline T name(unsigned mask, T x, int line = __builtin_LINE()) {                               \
        const uint64_t *all = emu_warp(mask, line, emu_to_bits(x));                                \
        T a = emu_of_bits<T>(all[0]);                                                              \
        for (int i = 1; i < 32; i++) {                                                             \
            T b = emu_of_bits<T>(all[i]);                                                          \
            a = (join);                                                                            \
        }                                                                                          \
        return a;                                                                                  \
    }
EMU_REDUCE(__reduce_add_sync, unsigned, a + b)
EMU_REDUCE(__reduce_min_sync, unsigned, b < a ? b : a)
EMU_REDUCE(__reduce_max_sync, unsigned, b > a ? b : a)
EMU_REDUCE(__reduce_add_sync, int, (int)((unsigned)a + (unsigned)b))
EMU_REDUCE(__reduce_min_sync, int, b < a ? b : a)
EMU_REDUCE(__reduce_max_sync, int, b > a ? b : a)
EMU_REDUCE(__reduce_and_sync, unsigned, a & b)
EMU_REDUCE(__reduce_or_sync, unsigned, a | b)
EMU_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
#undef EMU_REDUCE

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void cudaGridDependencySynchronize() {}
inline void cudaTriggerProgrammaticLaunchCompletion() {}

/* ---- integer atomics; none on floats: their order would show ------------------------------------ */

void emu_atomic(); /* a place where another thread may come first */
#define EMU_ATOMIC(name, T, result)                                                                \
    inline T name(T *at, T b) {                                                                    \
        T a;                                                                                       \
        emu_atomic();                                                                              \
        a = *at;                                                                                   \
        *at = (result);                                                                            \
        return a;                                                                                  \
    }
#define EMU_ATOMICS(T, U)                                                                          \
    EMU_ATOMIC(atomicAdd, T, (T)((U)a + (U)b))                                                     \
    EMU_ATOMIC(atomicMin, T, b < a ? b : a)                                                        \
    EMU_ATOMIC(atomicMax, T, b > a ? b : a)                                                        \
    EMU_ATOMIC(atomicAnd, T, (T)(a & b))                                                           \
    EMU_ATOMIC(atomicOr, T, (T)(a | b))                                                            \
    EMU_ATOMIC(atomicXor, T, (T)(a ^ b))                                                           \
    EMU_ATOMIC(atomicExch, T, b)                                                                   \
    inline T atomicCAS(T *at, T expected, T b) {                                                   \
        T a;                                                                                       \
        emu_atomic();                                                                              \
        a = *at;                                                                                   \
        if (a == expected) *at = b;                                                                \
        return a;                                                                                  \
    }
EMU_ATOMICS(unsigned, unsigned)
EMU_ATOMICS(int, unsigned)
EMU_ATOMICS(unsigned long long, unsigned long long)
EMU_ATOMIC(atomicSub, unsigned, a - b)
EMU_ATOMIC(atomicSub, int, (int)((unsigned)a - (unsigned)b))
void atomicAdd(float *, float) = delete;
void atomicAdd(double *, double) = delete;
#undef EMU_ATOMICS
#undef EMU_ATOMIC

/* ---- arithmetic of fixed rounding (compile with -ffp-contract=off) ------------------------------ */

inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __drcp_rn(double a) { return 1.0 / a; }
inline double __dsqrt_rn(double a) { return sqrt(a); }
inline float __double2float_rn(double a) { return (float)a; }
/* One step past where rounding to nearest went the wrong way. */
inline float emu_toward(float r, double error, bool up) {
    if (up ? error > 0 : error < 0) return nextafterf(r, up ? INFINITY : -INFINITY);
    return r;
}
inline float __double2float_ru(double a) { return emu_toward((float)a, a - (double)(float)a, true); }
inline float __double2float_rd(double a) { return emu_toward((float)a, a - (double)(float)a, false); }
inline float __fadd_ru(float a, float b) { /* two-sum: the exact error of a + b */
    float s = a + b, t = s - a;
    return emu_toward(s, (double)((a - (s - t)) + (b - t)), true);
}
inline float __fmul_ru(float a, float b) {
    return emu_toward(a * b, (double)a * (double)b - (double)(a * b), true);
}
inline float __fmaf_ru(float a, float b, float c) {
    float r = fmaf(a, b, c);
    return (double)r < (double)a * (double)b + (double)c ? nextafterf(r, INFINITY) : r;
}
inline float __fsqrt_ru(float a) {
    return emu_toward(sqrtf(a), (double)a - (double)sqrtf(a) * (double)sqrtf(a), true);
}
inline float __fdiv_ru(float a, float b) {
    double r = (double)(a / b), error = fma(-r, (double)b, (double)a);
    return emu_toward(a / b, b < 0 ? -error : error, true);
}
inline int __float2int_rn(float a) { return (int)rintf(a); }
inline int __float2int_rz(float a) { return (int)a; }
inline int __float2int_rd(float a) { return (int)floorf(a); }
inline int __double2int_rn(double a) { return (int)rint(a); }
inline int __double2int_rz(double a) { return (int)a; }
inline int __double2int_rd(double a) { return (int)floor(a); }
inline float __int2float_rn(int a) { return (float)a; }
inline float __uint2float_rn(unsigned a) { return (float)a; }
inline double __int2double_rn(int a) { return (double)a; }
inline double __uint2double_rn(unsigned a) { return (double)a; }
inline double __ull2double_rn(unsigned long long a) { return (double)a; }
inline double __ll2double_rn(long long a) { return (double)a; }

inline unsigned __float_as_uint(float a) { return (unsigned)emu_to_bits(a); }
inline int __float_as_int(float a) { return emu_of_bits<int>(emu_to_bits(a)); }
inline float __uint_as_float(unsigned a) { return emu_of_bits<float>(a); }
inline float __int_as_float(int a) { return emu_of_bits<float>(emu_to_bits(a)); }
inline long long __double_as_longlong(double a) { return (long long)emu_to_bits(a); }
inline double __longlong_as_double(long long a) { return emu_of_bits<double>((uint64_t)a); }
inline int __double2hiint(double a) { return (int)(emu_to_bits(a) >> 32); }
inline int __double2loint(double a) { return (int)emu_to_bits(a); }

inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
inline int __clz(int a) { return a ? __builtin_clz((unsigned)a) : 32; }
inline int __clzll(long long a) { return a ? __builtin_clzll((unsigned long long)a) : 64; }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __ffsll(long long a) { return __builtin_ffsll(a); }
inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((unsigned long long)a * b >> 32);
}
inline unsigned __brev(unsigned a) {
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= (a >> i & 1u) << (31 - i);
    return r;
}
inline float __saturatef(float a) { return a > 0 ? a < 1 ? a : 1 : 0; }
inline float rsqrtf(float) = delete; /* not exact on a GPU */

#define EMU_MINMAX(T)                                                                              \
    inline T min(T a, T b) { return b < a ? b : a; }                                               \
    inline T max(T a, T b) { return a < b ? b : a; }
EMU_MINMAX(int)
EMU_MINMAX(unsigned)
EMU_MINMAX(long)
EMU_MINMAX(unsigned long)
EMU_MINMAX(long long)
EMU_MINMAX(unsigned long long)
#undef EMU_MINMAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

template <class T> T __ldg(const T *p) { return *p; }
template <class T> T __ldca(const T *p) { return *p; }
template <class T> T __ldcg(const T *p) { return *p; }
template <class T> T __ldcs(const T *p) { return *p; }
template <class T> T __ldlu(const T *p) { return *p; }
template <class T> T __ldcv(const T *p) { return *p; }
template <class T> void __stcg(T *p, T x) { *p = x; }
template <class T> void __stcs(T *p, T x) { *p = x; }
template <class T> void __stwb(T *p, T x) { *p = x; }
template <class T> void __stwt(T *p, T x) { *p = x; }

#endif /* EMU_CUDA_RUNTIME_H */
