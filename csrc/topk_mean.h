// Mean of the k largest values of each row, and its gradient; nothing is sorted. No torch in here.
#pragma once

#include <cstdint>

namespace robustad {

enum class Dtype { f32, bf16, f16 };

// What the backward pass needs of a row, in this order: the smallest value that counts; the last
// column where a value equal to it counts; how much each of those counts (1 unless ties share);
// 1 / the sum of the weights that count, or 0 where nothing does.
constexpr int kState = 4;

struct TopkMean {
    const void* scores;    // [rows, columns], contiguous, of `dtype`; NaN is the largest value
    const float* weights;  // [rows, columns] or null: entries of weight 0 do not count
    std::int64_t rows, columns;
    std::int64_t k;    // how many count, or all valid ones where they are fewer
    double fraction;   // if > 0, instead of k: of a row's valid entries, one at least
    bool shared;       // values equal to the smallest that counts all count, for a part each;
                       // otherwise the first of them do
    Dtype dtype;       // of scores, means, grad and out
    int threads;
};

// means: [rows], NaN where nothing counts. state: [rows, kState], or null.
// Throws std::invalid_argument if ROBUSTAD_TOPK_MEAN names no path of this CPU, std::bad_alloc.
void topk_mean(const TopkMean& task, void* means, double* state);

// grad: [rows]. state: as topk_mean left it. out: [rows, columns], the gradient of the scores.
void topk_mean_backward(const TopkMean& task, const void* grad, const double* state, void* out);

// Names of the paths this CPU has, slowest first; `count` receives how many.
const char* const* topk_mean_paths(int* count);

// One instruction set's implementation.
struct TopkMeanPath {
    // Bytes of scratch memory one thread needs for rows of so many columns.
    std::int64_t (*scratch)(std::int64_t columns);
    // Rows begin..end-1, with scratch memory aligned to 64 bytes.
    void (*forward)(const TopkMean& task, std::int64_t begin, std::int64_t end, void* means,
                    double* state, void* scratch);
    void (*backward)(const TopkMean& task, std::int64_t begin, std::int64_t end, const void* grad,
                     const double* state, void* out);
};

// Null where the compiler had no such instructions.
const TopkMeanPath* topk_mean_portable();
const TopkMeanPath* topk_mean_avx2();
const TopkMeanPath* topk_mean_avx512();

}  // namespace robustad
