// One row of topk_mean, in the words of a block of threads that work on it together. On a GPU they
// are those of topk_mean.cu; a plain loop stands for them in csrc/tests, so that this runs there.
//
// The scheme is that of csrc/topk_mean_impl.h: maxima of groups give a lower bound, the scores
// above it fit fast memory, and halving an interval finds the threshold among them.
#pragma once

#include "../topk_mean_keys.h"

#ifdef __CUDACC__
#define ROBUSTAD_BLOCK static __device__
#define ROBUSTAD_UNROLL _Pragma("unroll 4")
#else
#define ROBUSTAD_BLOCK static
#define ROBUSTAD_UNROLL
#endif

namespace robustad {

// Where the k-th largest of n keys lies; key(i) may be kNone.
template <class Block, class Key>
ROBUSTAD_BLOCK std::int32_t find_threshold(Block& block, std::int64_t n, std::int64_t k, Key key) {
    Interval interval{block.least(n, key) - 1, block.most(n, key)};
    while (is_open(interval)) {
        const std::int32_t pivot = pivot_of(interval);
        const std::int64_t above = block.count(n, [&](std::int64_t i) { return key(i) > pivot; });
        narrow_to(interval, pivot, above >= k);
        if (above == k) break;
    }
    if (!is_open(interval)) return interval.high;
    const std::int32_t low = interval.low;
    return block.least(n, [&](std::int64_t i) { return key(i) > low ? key(i) : kNan; });
}

// A key that k keys at least are above, from the maxima of groups; kNone where none is known.
// Fills the buffer.
template <class Block, class Key>
ROBUSTAD_BLOCK std::int32_t find_bound(Block& block, std::int64_t columns, std::int64_t k,
                                       std::int32_t* buffer, std::int64_t capacity, Key key) {
    block.each(capacity, [&](std::int64_t slot) {
        std::int32_t most = kNone;
        ROBUSTAD_UNROLL
        for (std::int64_t i = slot; i < columns; i += capacity) {
            const std::int32_t one = key(i);
            most = one > most ? one : most;
        }
        buffer[slot] = most;
    });
    const auto maximum = [&](std::int64_t slot) { return buffer[slot]; };
    Interval bound{kNone, block.most(capacity, maximum)};
    if (block.count(capacity, [&](std::int64_t slot) { return buffer[slot] > kNone; }) < k)
        return kNone;
    while (is_open(bound)) {
        const std::int32_t pivot = pivot_of(bound);
        const std::int64_t above =
            block.count(capacity, [&](std::int64_t slot) { return buffer[slot] > pivot; });
        narrow_to(bound, pivot, above >= k);
        if (above >= k && above <= k + k / 4) break;
    }
    return bound.low;
}

// Writes a row's mean and state. `buffer` holds `capacity` keys that all threads see.
template <class Block, class T>
ROBUSTAD_BLOCK void topk_mean_row(Block& block, const T* scores, const float* weights,
                                  std::int64_t columns, std::int64_t k, double fraction,
                                  bool shared, std::int32_t* buffer, std::int64_t capacity, T* mean,
                                  double* state) {
    const auto key = [&](std::int64_t i) {
        return weights && !(weights[i] > 0) ? kNone : key_of(widen(scores[i]));
    };
    std::int64_t valid = columns;
    if (weights) valid = block.count(columns, [&](std::int64_t i) { return weights[i] > 0; });
    k = count_of(k, fraction, valid);
    if (k == 0) {
        if (block.leads()) {
            narrow(value_of(kNan), *mean);
            state[0] = state[2] = state[3] = 0.0;
            state[1] = -1.0;
        }
        return;
    }

    std::int64_t held = -1;  // keys in the buffer; none if they do not fit
    if (columns <= capacity) {
        held = columns;
        block.each(columns, [&](std::int64_t i) { buffer[i] = key(i); });
    } else if (k <= capacity / 2) {
        const std::int32_t bound = find_bound(block, columns, k, buffer, capacity, key);
        held = block.collect(columns, key, bound, buffer, capacity);
        if (held > capacity) held = -1;
    }
    const auto of_buffer = [&](std::int64_t i) { return buffer[i]; };
    const std::int32_t threshold = held >= 0 ? find_threshold(block, held, k, of_buffer)
                                             : find_threshold(block, columns, k, key);

    std::int64_t above, ties;
    if (held >= 0) {
        above = block.count(held, [&](std::int64_t i) { return buffer[i] > threshold; });
        ties = block.count(held, [&](std::int64_t i) { return buffer[i] == threshold; });
    } else {
        above = block.count(columns, [&](std::int64_t i) { return key(i) > threshold; });
        ties = block.count(columns, [&](std::int64_t i) { return key(i) == threshold; });
    }
    const std::int64_t wanted = k - above;  // of the ties
    const double share = shared ? static_cast<double>(wanted) / static_cast<double>(ties) : 1.0;
    std::int64_t last = columns - 1;
    if (!shared && wanted < ties)
        last = block.place(columns, wanted, [&](std::int64_t i) { return key(i) == threshold; });

    const auto part = [&](std::int64_t i) {
        const std::int32_t own = key(i);
        if (own < threshold || (own == threshold && i > last)) return 0.0;
        return (own == threshold ? share : 1.0) * (weights ? static_cast<double>(weights[i]) : 1.0);
    };
    const double total = weights ? block.sum(columns, part) : static_cast<double>(k);
    const double sum = block.sum(columns, [&](std::int64_t i) {
        const double own = part(i);
        return own > 0 ? own * static_cast<double>(value_of(key(i))) : 0.0;
    });
    if (block.leads()) {
        narrow(static_cast<float>(sum / total), *mean);
        state[0] = static_cast<double>(value_of(threshold));
        state[1] = static_cast<double>(last);
        state[2] = share;
        state[3] = 1.0 / total;
    }
}

// The gradient of one score, from the gradient of its row's mean.
template <class T>
ROBUSTAD_HD T gradient_of(T score, float weight, std::int64_t column, double grad,
                          const double* state) {
    T out{};
    if (state[3] == 0.0 || !(weight > 0)) return out;
    const std::int32_t own = key_of(widen(score));
    const std::int32_t threshold = key_of(static_cast<float>(state[0]));
    if (own < threshold || (own == threshold && static_cast<double>(column) > state[1])) return out;
    const double part = own == threshold ? state[2] : 1.0;
    narrow(static_cast<float>(grad * state[3] * part * weight), out);
    return out;
}

}  // namespace robustad
