// Parts of cosine_nn that every instruction set shares as source, not as object code: each path's
// file includes this and compiles it with its own flags. Everything is local to that file.
#pragma once

#include <cstdint>
#include <cstring>

#include "cosine_nn_path.h"

#define ROBUSTAD_INLINE inline __attribute__((always_inline))

namespace robustad {
namespace {

// Vectors in the compiler's own notation, as wide as the registers that the flags allow: it lowers
// wider ones through memory.
#if defined(__AVX512F__)
constexpr int kRegister = 64;
#elif defined(__AVX__)
constexpr int kRegister = 32;
#else
constexpr int kRegister = 16;
#endif
constexpr int kFloats = kRegister / 4, kDoubles = kRegister / 8;
typedef float Floats __attribute__((vector_size(kRegister)));
typedef std::int32_t Ints __attribute__((vector_size(kRegister)));
typedef std::int64_t Longs __attribute__((vector_size(kRegister)));
typedef double Doubles __attribute__((vector_size(kRegister)));
typedef float HalfFloats __attribute__((vector_size(kRegister / 2)));  // as many as Doubles

template <typename V, typename T>
ROBUSTAD_INLINE V load(const T* at) {
    V value;
    std::memcpy(&value, at, sizeof(V));
    return value;
}

template <typename V>
ROBUSTAD_INLINE double sum(const V& value) {
    double total = 0;
#pragma GCC unroll 16
    for (unsigned i = 0; i < sizeof(V) / sizeof(value[0]); ++i) total += value[i];
    return total;
}

// A number known to the compiler.
template <int Value>
struct Count {
    static constexpr int value = Value;
};

// run(Count<count>()), for 1 <= count <= Most: one instance for each number of queries up to a full
// block, so that a lone query costs one, not six.
template <int Most, typename Run>
ROBUSTAD_INLINE void with_count(std::int64_t count, const Run& run) {
    if constexpr (Most > 0) {
        if (count == Most)
            run(Count<Most>());
        else
            with_count<Most - 1>(count, run);
    }
}

ROBUSTAD_INLINE double square_root(double value) { return __builtin_sqrt(value); }

// What paths that have nothing to do give.
[[maybe_unused]] void nothing() {}
[[maybe_unused]] std::int64_t no_bytes(std::int64_t) { return 0; }
[[maybe_unused]] bool never(std::int64_t, const float*) { return false; }

// For two vectors of length 1 that lost so much: |q.b - q'.b'| <= e_q |b| + |q'| e_b.
ROBUSTAD_INLINE CosineNnBounds unit_bound(double lost, double bank_error) {
    return {static_cast<float>((lost + (1 + lost) * bank_error) * 1.0000002), 0, 0};
}

// In double: no float's square overflows or vanishes there.
bool normalise(const float* row, std::int64_t dim, float* unit) {
    Doubles squares = {};
    std::int64_t i = 0;
    for (; i + kDoubles <= dim; i += kDoubles) {
        const Doubles x = __builtin_convertvector(load<HalfFloats>(row + i), Doubles);
        squares += x * x;
    }
    double square = sum(squares);
    for (; i < dim; ++i) square += static_cast<double>(row[i]) * row[i];
    if (!(square <= 1.7e308)) {  // also NaN
        std::memset(unit, 0, static_cast<std::size_t>(dim) * sizeof(float));
        return false;
    }
    const double inverse = square > 0 ? 1 / square_root(square) : 0;
    for (i = 0; i + kDoubles <= dim; i += kDoubles) {
        const Doubles x = __builtin_convertvector(load<HalfFloats>(row + i), Doubles) * inverse;
        const HalfFloats y = __builtin_convertvector(x, HalfFloats);
        std::memcpy(unit + i, &y, sizeof(y));
    }
    for (; i < dim; ++i) unit[i] = static_cast<float>(row[i] * inverse);
    return true;
}

// Sums of at most this many terms are kept in float32, in 16 partial sums, before they go to
// float64: 4 + 2 roundings of 2^-24 bound a dot product's error by 3.6e-7 for any length. (Twice
// that, and what normalising and the result's own rounding add, may decide between two rows.)
constexpr std::int64_t kRun = 64;
constexpr int kLanes = 16, kParts = kLanes / kFloats;

ROBUSTAD_INLINE Doubles widened(const Floats& value) {
    HalfFloats halves[2];
    std::memcpy(halves, &value, sizeof(value));
    return __builtin_convertvector(halves[0], Doubles) +
           __builtin_convertvector(halves[1], Doubles);
}

template <int Rows>
ROBUSTAD_INLINE void dots_of(const float* query, const float* unit, std::int64_t dim,
                             float* products) {
    Doubles wide[Rows] = {};
    std::int64_t start = 0;
    while (start + kLanes <= dim) {
        const std::int64_t end = start + kRun < dim ? start + kRun : dim;
        Floats partial[Rows][kParts] = {};
        for (; start + kLanes <= end; start += kLanes) {
#pragma GCC unroll 4
            for (int part = 0; part < kParts; ++part) {
                const Floats q = load<Floats>(query + start + part * kFloats);
#pragma GCC unroll 4
                for (int row = 0; row < Rows; ++row)
                    partial[row][part] +=
                        q * load<Floats>(unit + row * dim + start + part * kFloats);
            }
        }
#pragma GCC unroll 4
        for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 4
            for (int step = kParts / 2; step > 0; step /= 2)
#pragma GCC unroll 4
                for (int part = 0; part < step; ++part)
                    partial[row][part] += partial[row][part + step];
            wide[row] += widened(partial[row][0]);
        }
    }
    double totals[Rows];
#pragma GCC unroll 4
    for (int row = 0; row < Rows; ++row) totals[row] = sum(wide[row]);
    for (; start < dim; ++start)
        for (int row = 0; row < Rows; ++row)
            totals[row] += static_cast<double>(query[start]) * unit[row * dim + start];
    for (int row = 0; row < Rows; ++row) products[row] = static_cast<float>(totals[row]);
}

void dots(const float* query, const float* unit, std::int64_t rows, std::int64_t dim,
          float* products) {
    constexpr int kRows = kRegister > 16 ? 4 : 2;  // as many sums as there are registers for
    std::int64_t row = 0;
    for (; row + kRows <= rows; row += kRows)
        dots_of<kRows>(query, unit + row * dim, dim, products + row);
    for (; row < rows; ++row) dots_of<1>(query, unit + row * dim, dim, products + row);
}

std::int32_t largest(const std::int32_t* maxima, std::int64_t count) {
    std::int32_t best = INT32_MIN;
    std::int64_t i = 0;
    if (count >= kFloats) {
        Ints bests = load<Ints>(maxima);
        for (i = kFloats; i + kFloats <= count; i += kFloats) {
            const Ints others = load<Ints>(maxima + i);
            bests = bests > others ? bests : others;
        }
        for (int lane = 0; lane < kFloats; ++lane) best = bests[lane] > best ? bests[lane] : best;
    }
    for (; i < count; ++i) best = maxima[i] > best ? maxima[i] : best;
    return best;
}

std::int64_t at_least(const std::int32_t* maxima, std::int64_t count, std::int32_t threshold,
                      std::int32_t* places) {
    constexpr std::int64_t kStep = 4 * kFloats;
    std::int64_t found = 0, i = 0;
    const Ints bar = threshold - Ints{};
    for (; i + kStep <= count; i += kStep) {
        Ints above = {};
#pragma GCC unroll 4
        for (int part = 0; part < 4; ++part)
            above |= load<Ints>(maxima + i + part * kFloats) >= bar;
        const Longs any = reinterpret_cast<Longs>(above);
        std::int64_t some = 0;
        for (int lane = 0; lane < kDoubles; ++lane) some |= any[lane];
        if (some == 0) continue;
        for (std::int64_t at = i; at < i + kStep; ++at)
            if (maxima[at] >= threshold) places[found++] = static_cast<std::int32_t>(at);
    }
    for (; i < count; ++i)
        if (maxima[i] >= threshold) places[found++] = static_cast<std::int32_t>(i);
    return found;
}

}  // namespace
}  // namespace robustad
