#include "topk_mean.h"

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include "topk_mean_row.h"

namespace robustad::cuda {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAll = 0xffffffffu;
// Keys of a row in shared memory, 32 KiB: six blocks of short rows find room on a multiprocessor.
constexpr int kCapacity = 8192;
// Threads a row: few for short rows, so that more rows run at once.
constexpr int kFew = 256, kMany = 1024;
constexpr int kBackward = 256, kPerThread = 4;

// The threads of a block. All of them call the same functions in the same order with the same
// arguments, and get the same results.
template <int kThreads>
class Threads {
   public:
    __device__ explicit Threads(double* scratch) : scratch_(scratch) {}

    __device__ bool leads() const { return threadIdx.x == 0; }

    template <class Work>
    __device__ void each(std::int64_t n, Work work) {
        for (std::int64_t i = threadIdx.x; i < n; i += kThreads) work(i);
        __syncthreads();
    }

    template <class Predicate>
    __device__ std::int64_t count(std::int64_t n, Predicate holds) {
        int own = 0;
        scan(n, holds, [&](bool one) { own += one; });
        return combine(own, [](int a, int b) { return a + b; });
    }

    template <class Value>
    __device__ double sum(std::int64_t n, Value value) {
        double own = 0.0;
        scan(n, value, [&](double one) { own += one; });
        return combine(own, [](double a, double b) { return a + b; });
    }

    template <class Key>
    __device__ std::int32_t most(std::int64_t n, Key key) {
        std::int32_t own = kNone;
        scan(n, key, [&](std::int32_t one) { own = max(own, one); });
        return combine(own, [](std::int32_t a, std::int32_t b) { return max(a, b); });
    }

    // The smallest key but kNone.
    template <class Key>
    __device__ std::int32_t least(std::int64_t n, Key key) {
        std::int32_t own = kNan;
        scan(n, key, [&](std::int32_t one) { own = min(own, one == kNone ? kNan : one); });
        return combine(own, [](std::int32_t a, std::int32_t b) { return min(a, b); });
    }

    // Puts keys above `low` into the buffer, in no order; returns how many there are, though no more
    // than fit are written.
    template <class Key>
    __device__ std::int64_t collect(std::int64_t n, Key key, std::int32_t low, std::int32_t* buffer,
                                    std::int64_t capacity) {
        int* total = reinterpret_cast<int*>(scratch_);
        if (threadIdx.x == 0) *total = 0;
        __syncthreads();
        scan(n, key, [&](std::int32_t one) {
            if (one <= low) return;
            const int place = atomicAdd(total, 1);
            if (place < capacity) buffer[place] = one;
        });
        __syncthreads();
        const int found = *total;
        __syncthreads();
        return found;
    }

    // Index of the wanted-th entry that the predicate holds for.
    template <class Predicate>
    __device__ std::int64_t place(std::int64_t n, std::int64_t wanted, Predicate holds) {
        std::int64_t* found = reinterpret_cast<std::int64_t*>(scratch_) + kWarp;
        std::int64_t before = 0;
        for (std::int64_t start = 0; start < n; start += kThreads) {
            const std::int64_t i = start + threadIdx.x;
            const bool own = i < n && holds(i);
            const unsigned lanes = __ballot_sync(kAll, own);
            const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
            int* warps = reinterpret_cast<int*>(scratch_);
            if (lane == 0) warps[warp] = __popc(lanes);
            __syncthreads();
            std::int64_t rank = before + __popc(lanes & ((1u << lane) - 1u)) + 1, after = before;
            for (int w = 0; w < kThreads / kWarp; ++w) {
                if (w < warp) rank += warps[w];
                after += warps[w];
            }
            if (own && rank == wanted) *found = i;
            __syncthreads();
            if (after >= wanted) break;
            before = after;
        }
        const std::int64_t index = *found;
        __syncthreads();
        return index;
    }

   private:
    // This thread's share of the values; four are on their way from memory at a time.
    template <class Value, class Use>
    __device__ static void scan(std::int64_t n, Value value, Use use) {
        std::int64_t i = threadIdx.x;
        for (; i + 3 * kThreads < n; i += 4 * kThreads) {
            const auto a = value(i), b = value(i + kThreads);
            const auto c = value(i + 2 * kThreads), d = value(i + 3 * kThreads);
            use(a), use(b), use(c), use(d);
        }
        for (; i < n; i += kThreads) use(value(i));
    }

    // All threads' values in one; always in the same order.
    template <class Value, class Join>
    __device__ Value combine(Value own, Join join) {
        for (int step = kWarp / 2; step > 0; step /= 2)
            own = join(own, __shfl_xor_sync(kAll, own, step));
        Value* warps = reinterpret_cast<Value*>(scratch_);
        if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = own;
        __syncthreads();
        Value all = warps[0];
        for (int warp = 1; warp < kThreads / kWarp; ++warp) all = join(all, warps[warp]);
        __syncthreads();
        return all;
    }

    double* scratch_;
};

template <int kThreads, class T>
__global__ void __launch_bounds__(kThreads)
    forward(const T* scores, const float* weights, std::int64_t columns, std::int64_t k,
            double fraction, bool shared, T* means, double* state) {
    __shared__ std::int32_t buffer[kCapacity];
    __shared__ double scratch[kWarp + 1];
    Threads<kThreads> threads(scratch);
    const std::int64_t row = blockIdx.x;
    topk_mean_row(threads, scores + row * columns, weights ? weights + row * columns : nullptr,
                  columns, k, fraction, shared, buffer, kCapacity, means + row,
                  state + row * 4);
}

template <class T>
__global__ void __launch_bounds__(kBackward)
    backward(const T* scores, const float* weights, std::int64_t columns, std::int64_t chunks,
             const T* grad, const double* state, T* out) {
    const std::int64_t row = blockIdx.x / chunks, chunk = blockIdx.x % chunks;
    const double of_row = static_cast<double>(widen(grad[row]));
    for (int step = 0; step < kPerThread; ++step) {
        const std::int64_t column = (chunk * kPerThread + step) * kBackward + threadIdx.x;
        if (column >= columns) break;
        const std::int64_t at = row * columns + column;
        out[at] = gradient_of(scores[at], weights ? weights[at] : 1.0f, column, of_row,
                              state + row * 4);
    }
}

void check(cudaError_t error) {
    if (error != cudaSuccess)
        throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

// Makes a device current, and the one before again at the end.
class OnDevice {
   public:
    explicit OnDevice(int device) {
        check(cudaGetDevice(&before_));
        if (device != before_) check(cudaSetDevice(device));
    }
    ~OnDevice() { (void)cudaSetDevice(before_); }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

   private:
    int before_ = 0;
};

template <class T>
void start_forward(const TopkMean& task, void* means, double* state) {
    const auto kernel = task.columns <= kCapacity ? forward<kFew, T> : forward<kMany, T>;
    const int threads = task.columns <= kCapacity ? kFew : kMany;
    kernel<<<static_cast<unsigned>(task.rows), threads, 0,
             reinterpret_cast<cudaStream_t>(task.stream)>>>(
        static_cast<const T*>(task.scores), task.weights, task.columns, task.k, task.fraction,
        task.shared, static_cast<T*>(means), state);
}

template <class T>
void start_backward(const TopkMean& task, const void* grad, const double* state, void* out) {
    constexpr std::int64_t kChunk = kBackward * kPerThread;
    const std::int64_t chunks = (task.columns + kChunk - 1) / kChunk;
    backward<<<static_cast<unsigned>(task.rows * chunks), kBackward, 0,
               reinterpret_cast<cudaStream_t>(task.stream)>>>(
        static_cast<const T*>(task.scores), task.weights, task.columns, chunks,
        static_cast<const T*>(grad), state, static_cast<T*>(out));
}

}  // namespace

int device_count() {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

void topk_mean(const TopkMean& task, void* means, double* state) {
    if (task.rows == 0) return;
    const OnDevice guard(task.device);
    const auto start = task.dtype == 0   ? start_forward<float>
                       : task.dtype == 1 ? start_forward<Bf16>
                                         : start_forward<F16>;
    start(task, means, state);
    check(cudaGetLastError());
}

void topk_mean_backward(const TopkMean& task, const void* grad, const double* state, void* out) {
    if (task.rows == 0) return;
    const OnDevice guard(task.device);
    const auto start = task.dtype == 0   ? start_backward<float>
                       : task.dtype == 1 ? start_backward<Bf16>
                                         : start_backward<F16>;
    start(task, grad, state, out);
    check(cudaGetLastError());
}

}  // namespace robustad::cuda
