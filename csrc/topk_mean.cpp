#include "topk_mean.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace robustad {
namespace {

struct Entry {
    float score;
    std::int64_t column;
};

// Falling by score, then rising by column; NaN first.
inline bool before(const Entry& a, const Entry& b) {
    const bool a_nan = std::isnan(a.score), b_nan = std::isnan(b.score);
    if (a_nan != b_nan) return a_nan;
    if (a_nan || a.score == b.score) return a.column < b.column;
    return a.score > b.score;
}

// Columns compared to the threshold at once: one vectorised pass decides to skip them all.
constexpr std::int64_t kBlock = 32;

inline bool any_beats(const float* scores, float threshold) {
    int beats = 0;
    for (std::int64_t i = 0; i < kBlock; ++i) beats |= !(scores[i] <= threshold);  // NaN beats
    return beats != 0;
}

// Keeps a heap of the k best whose front is the weakest: once it is full, most columns fail the
// comparison with that one value and cost no more than the comparison.
void select(const float* scores, std::int64_t columns, std::int64_t k, std::vector<Entry>& heap) {
    heap.clear();
    for (std::int64_t column = 0; column < k; ++column) heap.push_back({scores[column], column});
    std::make_heap(heap.begin(), heap.end(), before);
    std::int64_t column = k;
    while (column < columns) {
        const float weakest = heap.front().score;
        if (column + kBlock <= columns && !std::isnan(weakest) &&
            !any_beats(scores + column, weakest)) {
            column += kBlock;
            continue;
        }
        const std::int64_t end = std::min(column + kBlock, columns);
        for (; column < end; ++column) {
            const Entry entry{scores[column], column};
            if (before(entry, heap.front())) {
                std::pop_heap(heap.begin(), heap.end(), before);
                heap.back() = entry;
                std::push_heap(heap.begin(), heap.end(), before);
            }
        }
    }
    std::sort_heap(heap.begin(), heap.end(), before);
}

}  // namespace

void topk_mean(const float* scores, std::int64_t rows, std::int64_t columns, std::int64_t k,
               float* means, std::int64_t* indices) {
    std::vector<Entry> heap;
    heap.reserve(static_cast<std::size_t>(k));
    for (std::int64_t row = 0; row < rows; ++row) {
        select(scores + row * columns, columns, k, heap);
        double sum = 0.0;
        for (std::int64_t i = 0; i < k; ++i) {
            sum += heap[static_cast<std::size_t>(i)].score;
            indices[row * k + i] = heap[static_cast<std::size_t>(i)].column;
        }
        means[row] = static_cast<float>(sum / static_cast<double>(k));
    }
}

}  // namespace robustad
