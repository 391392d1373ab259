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
// Vectors compared at a time: bits of a mask have room for no more of the widest.
constexpr int kStep = 4;
// Maxima per selected score that make the bound worth its pass.
constexpr std::int64_t kMaximaPerScore = 4;
// How many more scores than k may lie above the bound: k / kSlack.
constexpr std::int64_t kSlack = 4;
// Keys of -infinity and of the largest negative normal number.
constexpr std::int32_t kLowest = -0x7f800001, kTiny = -0x00800001;
// Entries counted in 32 bits at a time.
constexpr std::int64_t kCounted = 1 << 30;

// A row, vector by vector. The two passes compare floats, which takes an instruction where a key
// takes seven, and make keys of the few they keep.
template <class V, class T, bool kWeighted>
struct Row {
    const T* scores;
    const float* weights;
    std::int64_t columns;

    using Floats = typename V::Floats;

    std::int64_t full() const { return columns / V::kWidth; }

    // Larger of each lane; NaN, and scores of weight 0, are left out.
    Floats larger(Floats largest, std::int64_t vector) const {
        const std::int64_t start = vector * V::kWidth;
        Floats values = V::floats(scores + start);
        if (kWeighted) values = V::where_positive(values, weights + start);
        return V::larger(largest, values);
    }

    // Keys beyond the last full vector; lanes beyond the row's end and of weight 0 are kNone.
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

    // Maxima of groups of kGroup vectors, the last group what remains; returns how many. None is
    // larger than it should be; those that are kLowest say nothing.
    std::int64_t maxima(std::int32_t* out) const {
        std::int32_t* const begin = out;
        const Floats lowest = V::all_floats(-__builtin_inff());
        std::int64_t vector = 0;
        const std::int64_t end = full();
        for (; vector + kGroup <= end; vector += kGroup, out += V::kWidth) {
            Floats even = lowest, odd = lowest;
            for (int i = 0; i < kGroup; i += 2) {
                even = larger(even, vector + i);
                odd = larger(odd, vector + i + 1);
            }
            V::of_floats(V::larger(even, odd)).store(out);
        }
        Floats rest = lowest;
        for (; vector < end; ++vector) rest = larger(rest, vector);
        V::max(V::of_floats(rest), tail()).store(out);
        return out + V::kWidth - begin;
    }

    // Bits of the scores of a vector that are above a bound, or NaN, and have a weight above 0.
    std::uint64_t above(std::int64_t vector, Floats bound) const {
        const std::int64_t start = vector * V::kWidth;
        std::uint64_t mask = V::not_at_most(V::floats(scores + start), bound);
        if (kWeighted && mask) mask &= V::positive(weights + start);
        return mask;
    }

    // Keys above `low`, in the order of their columns, then a vector of kNone; returns how many.
    std::int64_t collect(std::int32_t low, std::int32_t* out) const {
        std::int32_t* const begin = out;
        // NaN where no score is as low: nothing is at most that
        const Floats bound = V::all_floats(value_of(low));
        const std::int64_t end = full();
        std::int64_t vector = 0;
        // where a bound is known, few scores are above it
        for (; low != kNone && vector + kStep <= end; vector += kStep) {
            std::uint64_t mask = 0;
            for (int i = 0; i < kStep; ++i) mask |= above(vector + i, bound) << (i * V::kWidth);
            for (; mask; mask &= mask - 1) {
                const std::int64_t at = vector * V::kWidth + __builtin_ctzll(mask);
                *out++ = key_of(widen(scores[at]));
            }
        }
        for (; vector < end; ++vector) {
            const V keys = V::of_floats(V::floats(scores + vector * V::kWidth));
            out = keys.append(out, static_cast<unsigned>(above(vector, bound)));
        }
        const V rest = tail();
        out = rest.append(out, rest.above(V::all(low)));
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
        // with weights or NaN, fewer than k groups may have a maximum: then no bound is known
        if (maxima.count_above(kLowest) >= k) {
            Interval bound{maxima.smallest_above(kLowest) - 1, maxima.largest()};
            maxima.narrow(k, k / kSlack, bound);
            // -1 is no float's key, and a CPU may be set to take subnormal numbers for zero
            low = bound.low < 0 && bound.low > kTiny ? kTiny : bound.low;
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
    double unwanted[kState];
    for (std::int64_t row = begin; row < end; ++row) {
        double* of_row = state ? state + row * kState : unwanted;
        if (task.weights)
            forward_row<V, T, true>(task, row, mean + row, of_row, memory);
        else
            forward_row<V, T, false>(task, row, mean + row, of_row, memory);
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
    const typename V::Floats bound = V::all_floats(value_of(threshold));
    std::int64_t i = begin;
    const auto choose = [&](std::int64_t at) {
        V::choose(V::floats(scores + at), bound, whole, tied, out + at);
    };
    if (threshold != kNan && end - begin >= V::kWidth) {  // floats have no order at NaN
        for (; i + kStep * V::kWidth <= end; i += kStep * V::kWidth)
            for (int j = 0; j < kStep; ++j) choose(i + j * V::kWidth);
        for (; i + V::kWidth <= end; i += V::kWidth) choose(i);
        choose(end - V::kWidth);  // again what is written already, and the rest
        return;
    }
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
