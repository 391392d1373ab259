// The algorithm, over an instruction set's vectors of keys; included once by each path's file.
//
// A row is read twice. The first pass keeps the maxima of groups of 16 scores: whatever value k
// groups' maxima exceed, k scores exceed, so halving an interval on the maxima alone finds a lower
// bound of the threshold. The second pass collects the few scores above the bound, and halving on
// these finds the threshold itself. All steps are counts, so their number has a bound for any data.
//
// Internal linkage and no standard library templates: see SUFFIX_FLAGS in setup.py.
#pragma once

#include "topk_mean.h"
#include "topk_mean_keys.h"

namespace robustad {
namespace {

// Vectors whose maximum is taken lane by lane: scores of a group.
constexpr int kGroup = 16;
// Maxima per selected score that make the bound worth its pass.
constexpr std::int64_t kMaximaPerScore = 4;
// How many more scores than k may lie above the bound: k / kSlack.
constexpr std::int64_t kSlack = 4;
// Entries counted in 32 bits at a time.
constexpr std::int64_t kCounted = 1 << 30;

// Keys of a row, vector by vector; lanes beyond its end and of weight 0 are kNone.
template <class V, class T, bool kWeighted>
struct Row {
    const T* scores;
    const float* weights;
    std::int64_t columns;

    std::int64_t full() const { return columns / V::kWidth; }

    V at(std::int64_t vector) const {
        const std::int64_t start = vector * V::kWidth;
        V keys = V::of(scores + start);
        if (kWeighted) keys = keys.where_positive(weights + start);
        return keys;
    }

    V tail() const {
        alignas(64) std::int32_t keys[V::kWidth];
        const std::int64_t start = full() * V::kWidth;
        for (int lane = 0; lane < V::kWidth; ++lane) {
            keys[lane] = kNone;
            if (start + lane < columns && (!kWeighted || weights[start + lane] > 0))
                keys[lane] = key_of(widen(scores[start + lane]));
        }
        return V::load(keys);
    }

    // Maxima of groups of kGroup vectors, the last group what remains; returns how many.
    std::int64_t maxima(std::int32_t* out) const {
        std::int32_t* const begin = out;
        std::int64_t vector = 0;
        const std::int64_t end = full();
        for (; vector + kGroup <= end; vector += kGroup, out += V::kWidth) {
            V even = at(vector), odd = at(vector + 1);
            for (int i = 2; i < kGroup; i += 2) {
                even = V::max(even, at(vector + i));
                odd = V::max(odd, at(vector + i + 1));
            }
            V::max(even, odd).store(out);
        }
        V rest = tail();
        for (; vector < end; ++vector) rest = V::max(rest, at(vector));
        rest.store(out);
        return out + V::kWidth - begin;
    }

    // Keys above `low`, in the order of their columns, then a vector of kNone; returns how many.
    std::int64_t collect(std::int32_t low, std::int32_t* out) const {
        std::int32_t* const begin = out;
        const V bound = V::all(low);
        const std::int64_t end = full();
        for (std::int64_t vector = 0; vector < end; ++vector) {
            const V keys = at(vector);
            const unsigned above = keys.above(bound);
            if (above) out = keys.append(out, above);
        }
        const V rest = tail();
        out = rest.append(out, rest.above(bound));
        V::all(kNone).store(out);
        return out - begin;
    }
};

// Keys in memory, a whole number of vectors with kNone at the end.
template <class V>
struct Keys {
    const std::int32_t* keys;
    std::int64_t n;

    std::int64_t count_above(std::int32_t pivot) const {
        const V bound = V::all(pivot);
        std::int64_t count = 0;
        for (std::int64_t i = 0; i < n; i += V::kWidth)
            count += V::load(keys + i).how_many_above(bound);
        return count;
    }

    std::int32_t largest() const {
        V most = V::load(keys);
        for (std::int64_t i = V::kWidth; i < n; i += V::kWidth)
            most = V::max(most, V::load(keys + i));
        std::int32_t lanes[V::kWidth], largest = kNone;
        most.store(lanes);
        for (const std::int32_t lane : lanes) largest = lane > largest ? lane : largest;
        return largest;
    }

    // kNan if none is above.
    std::int32_t smallest_above(std::int32_t low) const {
        const V bound = V::all(low);
        V least = V::all(kNan);
        for (std::int64_t i = 0; i < n; i += V::kWidth)
            least = V::min(least, V::load(keys + i).or_nan_below(bound));
        std::int32_t lanes[V::kWidth], smallest = kNan;
        least.store(lanes);
        for (const std::int32_t lane : lanes) smallest = lane < smallest ? lane : smallest;
        return smallest;
    }

    // Narrows an interval around the k-th largest key until it is found, or until no more than
    // k + slack keys are above its lower end.
    void narrow(std::int64_t k, std::int64_t slack, Interval& interval) const {
        while (is_open(interval)) {
            const std::int32_t pivot = pivot_of(interval);
            const std::int64_t above = count_above(pivot);
            narrow_to(interval, pivot, above >= k);
            if (above >= k && above <= k + slack) return;
        }
    }

    // Sum of the values above a key, none of which is NaN, in an order that the keys alone decide.
    double sum_above(std::int32_t low) const {
        const V bound = V::all(low);
        typename V::Sums sums{};
        for (std::int64_t i = 0; i < n; i += V::kWidth) V::load(keys + i).add_above(bound, sums);
        return sums.total();
    }
};

// Scratch memory for a row: maxima, then what was collected; both may be written a vector beyond.
template <class V>
std::int64_t maxima_room(std::int64_t columns) {
    return (columns / (kGroup * V::kWidth) + 2) * V::kWidth;
}

template <class V>
std::int64_t scratch_bytes(std::int64_t columns) {
    return (maxima_room<V>(columns) + columns + 2 * V::kWidth) *
           static_cast<std::int64_t>(sizeof(std::int32_t));
}

template <class V, class T, bool kWeighted>
void forward_row(const TopkMean& task, std::int64_t row, T* mean, double* state,
                 std::int32_t* scratch) {
    const std::int64_t n = task.columns;
    const T* scores = static_cast<const T*>(task.scores) + row * n;
    const float* weights = kWeighted ? task.weights + row * n : nullptr;
    const Row<V, T, kWeighted> keys{scores, weights, n};

    std::int64_t valid = n;
    if (kWeighted) {
        valid = 0;
        // 32-bit counts fill registers better, for as long as they cannot overflow
        for (std::int64_t start = 0; start < n; start += kCounted) {
            const std::int64_t end = n - start < kCounted ? n : start + kCounted;
            std::int32_t positive = 0;
            for (std::int64_t i = start; i < end; ++i) positive += weights[i] > 0;
            valid += positive;
        }
    }
    const std::int64_t k = count_of(task.k, task.fraction, valid);
    if (k == 0) {
        narrow(value_of(kNan), *mean);
        state[0] = state[2] = state[3] = 0.0;
        state[1] = -1.0;
        return;
    }

    std::int32_t low = kNone;
    if (k * kMaximaPerScore * kGroup <= n) {
        const Keys<V> maxima{scratch, keys.maxima(scratch)};
        // with weights, fewer than k groups may have a valid entry: then no bound is known
        if (!kWeighted || maxima.count_above(kNone) >= k) {
            Interval bound{maxima.smallest_above(kNone) - 1, maxima.largest()};
            maxima.narrow(k, k / kSlack, bound);
            low = bound.low;
        }
    }
    std::int32_t* room = scratch + maxima_room<V>(n);
    const std::int64_t found = keys.collect(low, room);
    const Keys<V> collected{room, (found + V::kWidth - 1) / V::kWidth * V::kWidth};
    const std::int32_t largest = collected.largest();
    Interval interval{collected.smallest_above(low) - 1, largest};
    collected.narrow(k, 0, interval);
    // the interval holds one key, or just k keys are above its lower end
    const std::int32_t threshold =
        is_open(interval) ? collected.smallest_above(interval.low) : interval.high;

    const std::int64_t above = collected.count_above(threshold);
    const std::int64_t ties = collected.count_above(threshold - 1) - above;
    const std::int64_t wanted = k - above;  // of the ties
    const double share = task.shared ? static_cast<double>(wanted) / static_cast<double>(ties) : 1.0;
    std::int64_t last = n - 1;
    if (!task.shared && wanted < ties) {
        std::int64_t left = wanted;
        for (std::int64_t i = 0; left > 0; ++i)
            if (key_of(widen(scores[i])) == threshold && (!kWeighted || weights[i] > 0)) {
                last = i;
                --left;
            }
    }

    double total = static_cast<double>(k), sum;
    if (kWeighted) {
        total = sum = 0.0;
        for (std::int64_t i = 0; i < n; ++i) {
            const std::int32_t key = key_of(widen(scores[i]));
            if (key < threshold || !(weights[i] > 0) || (key == threshold && i > last)) continue;
            const double weight = weights[i] * (key == threshold ? share : 1.0);
            total += weight;
            sum += weight * static_cast<double>(value_of(key));
        }
    } else {
        sum = static_cast<double>(value_of(largest));
        if (largest != kNan)
            sum = collected.sum_above(threshold) +
                  static_cast<double>(wanted) * static_cast<double>(value_of(threshold));
    }
    narrow(static_cast<float>(sum / total), *mean);
    state[0] = static_cast<double>(value_of(threshold));
    state[1] = static_cast<double>(last);
    state[2] = share;
    state[3] = 1.0 / total;
}

template <class V, class T>
void forward_rows(const TopkMean& task, std::int64_t begin, std::int64_t end, void* means,
                  double* state, void* scratch) {
    T* mean = static_cast<T*>(means);
    std::int32_t* memory = static_cast<std::int32_t*>(scratch);
    for (std::int64_t row = begin; row < end; ++row) {
        if (task.weights)
            forward_row<V, T, true>(task, row, mean + row, state + row * kState, memory);
        else
            forward_row<V, T, false>(task, row, mean + row, state + row * kState, memory);
    }
}

template <class V>
void forward(const TopkMean& task, std::int64_t begin, std::int64_t end, void* means, double* state,
             void* scratch) {
    if (task.dtype == Dtype::f32)
        forward_rows<V, float>(task, begin, end, means, state, scratch);
    else if (task.dtype == Dtype::bf16)
        forward_rows<V, Bf16>(task, begin, end, means, state, scratch);
    else
        forward_rows<V, F16>(task, begin, end, means, state, scratch);
}

// Writes `whole` where a key is above the threshold, `tied` where it is equal, else zero.
template <class V, class T>
void write_row(const T* scores, std::int64_t begin, std::int64_t end, std::int32_t threshold,
               T whole, T tied, T* out) {
    const V bound = V::all(threshold);
    std::int64_t i = begin;
    for (; i + V::kWidth <= end; i += V::kWidth)
        V::of(scores + i).choose(bound, whole, tied, out + i);
    for (; i < end; ++i) {
        const std::int32_t key = key_of(widen(scores[i]));
        out[i] = key > threshold ? whole : key == threshold ? tied : T{};
    }
}

template <class V, class T>
void backward_rows(const TopkMean& task, std::int64_t begin, std::int64_t end, const void* grad,
                   const double* state, void* out) {
    const std::int64_t n = task.columns;
    for (std::int64_t row = begin; row < end; ++row) {
        const double* of_row = state + row * kState;
        const T* scores = static_cast<const T*>(task.scores) + row * n;
        T* to = static_cast<T*>(out) + row * n;
        const std::int64_t last = static_cast<std::int64_t>(of_row[1]);
        const double whole = of_row[3] * static_cast<double>(widen(static_cast<const T*>(grad)[row]));
        const double tied = whole * of_row[2];
        const std::int32_t threshold = key_of(static_cast<float>(of_row[0]));
        if (of_row[3] == 0.0) {
            for (std::int64_t i = 0; i < n; ++i) to[i] = T{};
        } else if (!task.weights) {
            T narrow_whole, narrow_tied;
            narrow(static_cast<float>(whole), narrow_whole);
            narrow(static_cast<float>(tied), narrow_tied);
            write_row<V>(scores, 0, last + 1, threshold, narrow_whole, narrow_tied, to);
            write_row<V>(scores, last + 1, n, threshold, narrow_whole, T{}, to);
        } else {
            const float* weights = task.weights + row * n;
            for (std::int64_t i = 0; i < n; ++i) {
                const std::int32_t key = key_of(widen(scores[i]));
                const bool counts = key > threshold || (key == threshold && i <= last);
                const double of_entry = (key > threshold ? whole : tied) * weights[i];
                narrow(counts && weights[i] > 0 ? static_cast<float>(of_entry) : 0.0f, to[i]);
            }
        }
    }
}

template <class V>
void backward(const TopkMean& task, std::int64_t begin, std::int64_t end, const void* grad,
              const double* state, void* out) {
    if (task.dtype == Dtype::f32)
        backward_rows<V, float>(task, begin, end, grad, state, out);
    else if (task.dtype == Dtype::bf16)
        backward_rows<V, Bf16>(task, begin, end, grad, state, out);
    else
        backward_rows<V, F16>(task, begin, end, grad, state, out);
}

template <class V>
constexpr TopkMeanPath path_of() {
    return {&scratch_bytes<V>, &forward<V>, &backward<V>};
}

}  // namespace
}  // namespace robustad
