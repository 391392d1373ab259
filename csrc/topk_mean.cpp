#include "topk_mean.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#include "topk_mean_impl.h"

namespace robustad {
namespace {

// Eight lanes that the compiler may put into registers of whatever size it has.
struct Portable {
    static constexpr int kWidth = 8;
    struct Floats {
        float lanes[kWidth];
    };
    std::int32_t lanes[kWidth];

    template <class T>
    static Floats floats(const T* scores) {
        Floats values;
        for (int i = 0; i < kWidth; ++i) values.lanes[i] = widen(scores[i]);
        return values;
    }
    static Floats all_floats(float value) {
        Floats values;
        for (float& lane : values.lanes) lane = value;
        return values;
    }
    // The first where the second is NaN.
    static Floats larger(Floats a, const Floats& b) {
        for (int i = 0; i < kWidth; ++i)
            a.lanes[i] = b.lanes[i] > a.lanes[i] ? b.lanes[i] : a.lanes[i];
        return a;
    }
    // -infinity where a weight is not above 0.
    static Floats where_positive(Floats values, const float* weights) {
        for (int i = 0; i < kWidth; ++i)
            values.lanes[i] = weights[i] > 0 ? values.lanes[i] : -__builtin_inff();
        return values;
    }
    // Bits of the lanes above a bound, and of NaN.
    static unsigned not_at_most(const Floats& values, const Floats& bound) {
        unsigned mask = 0;
        for (int i = 0; i < kWidth; ++i)
            mask |= static_cast<unsigned>(!(values.lanes[i] <= bound.lanes[i])) << i;
        return mask;
    }
    static unsigned positive(const float* weights) {
        unsigned mask = 0;
        for (int i = 0; i < kWidth; ++i) mask |= static_cast<unsigned>(weights[i] > 0) << i;
        return mask;
    }
    // `whole` above a bound and for NaN, `tied` where they are equal, zero below.
    template <class T>
    static void choose(const Floats& values, const Floats& bound, T whole, T tied, T* out) {
        for (int i = 0; i < kWidth; ++i) {
            const T at_least = values.lanes[i] == bound.lanes[i] ? tied : whole;
            out[i] = values.lanes[i] < bound.lanes[i] ? T{} : at_least;
        }
    }
    static Portable of_floats(const Floats& values) {
        Portable keys;
        for (int i = 0; i < kWidth; ++i) keys.lanes[i] = key_of(values.lanes[i]);
        return keys;
    }
    static Portable load(const std::int32_t* from) {
        Portable keys;
        std::memcpy(keys.lanes, from, sizeof keys.lanes);
        return keys;
    }
    static Portable all(std::int32_t key) {
        Portable keys;
        for (std::int32_t& lane : keys.lanes) lane = key;
        return keys;
    }
    static Portable max(Portable a, const Portable& b) {
        for (int i = 0; i < kWidth; ++i)
            a.lanes[i] = a.lanes[i] > b.lanes[i] ? a.lanes[i] : b.lanes[i];
        return a;
    }
    static Portable min(Portable a, const Portable& b) {
        for (int i = 0; i < kWidth; ++i)
            a.lanes[i] = a.lanes[i] < b.lanes[i] ? a.lanes[i] : b.lanes[i];
        return a;
    }
    // Keys above a bound, kNan for the others.
    Portable or_nan_below(const Portable& bound) const {
        Portable keys;
        for (int i = 0; i < kWidth; ++i) keys.lanes[i] = lanes[i] > bound.lanes[i] ? lanes[i] : kNan;
        return keys;
    }
    void store(std::int32_t* out) const { std::memcpy(out, lanes, sizeof lanes); }
    unsigned above(const Portable& bound) const {
        unsigned mask = 0;
        for (int i = 0; i < kWidth; ++i)
            mask |= static_cast<unsigned>(lanes[i] > bound.lanes[i]) << i;
        return mask;
    }
    int how_many_above(const Portable& bound) const {
        int count = 0;
        for (int i = 0; i < kWidth; ++i) count += lanes[i] > bound.lanes[i];
        return count;
    }
    std::int32_t* append(std::int32_t* out, unsigned mask) const {
        for (int i = 0; i < kWidth; ++i) {
            *out = lanes[i];
            out += (mask >> i) & 1u;
        }
        return out;
    }
    struct Sums {
        double of[kWidth];
        double total() const {
            double sum = 0.0;
            for (double one : of) sum += one;
            return sum;
        }
    };
    void add_above(const Portable& bound, Sums& sums) const {
        for (int i = 0; i < kWidth; ++i) {
            const std::int32_t bits = lanes[i] ^ ((lanes[i] >> 31) & kNan);
            sums.of[i] += static_cast<double>(from_bits(lanes[i] > bound.lanes[i] ? bits : 0));
        }
    }
};

constexpr const char* kVariable = "ROBUSTAD_TOPK_MEAN";
// Scores one thread works on at least: below, starting another costs more than it saves.
constexpr std::int64_t kGrain = 1 << 15;
// Bytes of a result above which huge pages are asked for: fresh memory costs a fault a page.
constexpr std::int64_t kHuge = 8 << 20;

bool has_avx2() {
#if defined(__x86_64__)
    return topk_mean_avx2() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
#else
    return false;
#endif
}

bool has_avx512() {
#if defined(__x86_64__)
    return topk_mean_avx512() && has_avx2() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
#else
    return false;
#endif
}

constexpr const char* kNames[] = {"portable", "avx2", "avx512"};

int paths_here() {
    static const int count = has_avx512() ? 3 : has_avx2() ? 2 : 1;
    return count;
}

const TopkMeanPath& path_number(int number) {
    return *(number == 2 ? topk_mean_avx512() : number == 1 ? topk_mean_avx2()
                                                             : topk_mean_portable());
}

const TopkMeanPath& chosen_path() {
    const char* name = std::getenv(kVariable);
    if (!name || !*name) return path_number(paths_here() - 1);
    for (int i = 0; i < 3; ++i) {
        if (std::strcmp(name, kNames[i]) != 0) continue;
        if (i < paths_here()) return path_number(i);
        throw std::invalid_argument(std::string(kVariable) + ": this CPU has no " + name);
    }
    throw std::invalid_argument(std::string(kVariable) +
                                ": expected portable, avx2 or avx512, got " + name);
}

std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

std::int64_t threads_for(const TopkMean& task) {
    const std::int64_t useful = least(task.rows, task.rows * task.columns / kGrain);
    const std::int64_t threads = least(useful, task.threads);
    return threads < 1 ? 1 : threads;
}

// Rows begin..end-1 of each thread's turn.
template <class Work>
void over_rows(std::int64_t rows, std::int64_t threads, const Work& work) {
    if (threads == 1) {
        work(0, 0, rows);
        return;
    }
#pragma omp parallel for num_threads(static_cast<int>(threads)) schedule(static, 1)
    for (std::int64_t thread = 0; thread < threads; ++thread)
        work(thread, rows * thread / threads, rows * (thread + 1) / threads);
}

struct Scratch {
    explicit Scratch(std::int64_t bytes) {
        if (posix_memalign(&memory, 64, static_cast<std::size_t>(bytes))) throw std::bad_alloc();
    }
    ~Scratch() { std::free(memory); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    void* memory = nullptr;
};

void ask_for_huge_pages(void* memory, std::int64_t bytes) {
#ifdef MADV_HUGEPAGE
    constexpr std::uintptr_t kPage = 2 << 20;
    const std::uintptr_t start = reinterpret_cast<std::uintptr_t>(memory);
    const std::uintptr_t first = (start + kPage - 1) / kPage * kPage;
    const std::uintptr_t end = (start + static_cast<std::uintptr_t>(bytes)) / kPage * kPage;
    // a wish: without it everything works as well, only slower
    if (bytes >= kHuge)
        (void)madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

}  // namespace

const TopkMeanPath* topk_mean_portable() {
    static constexpr TopkMeanPath path = path_of<Portable>();
    return &path;
}

const char* const* topk_mean_paths(int* count) {
    *count = paths_here();
    return kNames;
}

void topk_mean(const TopkMean& task, void* means, double* state) {
    const TopkMeanPath& path = chosen_path();
    const std::int64_t threads = threads_for(task);
    const std::int64_t room = (path.scratch(task.columns) + 63) / 64 * 64;
    const Scratch scratch(room * threads);
    over_rows(task.rows, threads, [&](std::int64_t thread, std::int64_t begin, std::int64_t end) {
        char* own = static_cast<char*>(scratch.memory) + room * thread;
        path.forward(task, begin, end, means, state, own);
    });
}

void topk_mean_backward(const TopkMean& task, const void* grad, const double* state, void* out) {
    const TopkMeanPath& path = chosen_path();
    const std::int64_t size = task.dtype == Dtype::f32 ? 4 : 2;
    ask_for_huge_pages(out, task.rows * task.columns * size);
    over_rows(task.rows, threads_for(task),
              [&](std::int64_t, std::int64_t begin, std::int64_t end) {
                  path.backward(task, begin, end, grad, state, out);
              });
}

}  // namespace robustad
