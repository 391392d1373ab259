// Parts of cosine_nn that every instruction set shares as source, not as object code: each path's
// file includes this and compiles it with its own flags. Everything is local to that file.
#pragma once

#include <cstdint>
#include <cstring>

#include "cosine_nn_path.h"

#define ROBUSTAD_INLINE inline __attribute__((always_inline))

namespace robustad {
namespace {

// Vectors in the compiler's own notation: it lowers them to whatever registers the flags allow.
typedef float Float16 __attribute__((vector_size(64)));
typedef float Float8 __attribute__((vector_size(32)));
typedef double Double8 __attribute__((vector_size(64)));
typedef std::int32_t Int16x __attribute__((vector_size(64)));  // sixteen int32
typedef std::int64_t Long8 __attribute__((vector_size(64)));

template <typename V, typename T>
ROBUSTAD_INLINE V load(const T* at) {
    V value;
    std::memcpy(&value, at, sizeof(V));
    return value;
}

template <typename V>
ROBUSTAD_INLINE double sum(const V& value) {
    double total = 0;
    for (unsigned i = 0; i < sizeof(V) / sizeof(value[0]); ++i) total += value[i];
    return total;
}

ROBUSTAD_INLINE double square_root(double value) { return __builtin_sqrt(value); }

// In double: no float's square overflows or vanishes there.
bool normalise(const float* row, std::int64_t dim, float* unit) {
    Double8 squares = {};
    std::int64_t i = 0;
    for (; i + 8 <= dim; i += 8) {
        const Double8 x = __builtin_convertvector(load<Float8>(row + i), Double8);
        squares += x * x;
    }
    double square = sum(squares);
    for (; i < dim; ++i) square += static_cast<double>(row[i]) * row[i];
    const bool finite = square <= 1.7e308;  // false for NaN
    const double inverse = finite && square > 0 ? 1 / square_root(square) : 0;
    if (!finite) {
        std::memset(unit, 0, static_cast<std::size_t>(dim) * sizeof(float));
        return false;
    }
    for (i = 0; i + 8 <= dim; i += 8) {
        const Double8 x = __builtin_convertvector(load<Float8>(row + i), Double8) * inverse;
        const Float8 y = __builtin_convertvector(x, Float8);
        std::memcpy(unit + i, &y, sizeof(y));
    }
    for (; i < dim; ++i) unit[i] = static_cast<float>(row[i] * inverse);
    return true;
}

// Sums of at most this many terms are kept in float32, in 16 partial sums, before they go to
// float64: 16 + 4 roundings of 2^-24 bound a dot product's error by 1.2e-6 for any length.
constexpr std::int64_t kRun = 256;

template <int Rows>
ROBUSTAD_INLINE void dots_of(const float* query, const float* unit, std::int64_t dim,
                             float* products) {
    double totals[Rows] = {};
    std::int64_t start = 0;
    while (start + 16 <= dim) {
        const std::int64_t end = start + kRun < dim ? start + kRun : dim;
        Float16 partial[Rows] = {};
        for (; start + 16 <= end; start += 16) {
            const Float16 q = load<Float16>(query + start);
            for (int row = 0; row < Rows; ++row)
                partial[row] += q * load<Float16>(unit + row * dim + start);
        }
        for (int row = 0; row < Rows; ++row) {
            Float8 low, high;
            std::memcpy(&low, &partial[row], sizeof(low));
            std::memcpy(&high, reinterpret_cast<const char*>(&partial[row]) + sizeof(low),
                        sizeof(high));
            low += high;
            totals[row] += static_cast<double>((low[0] + low[4]) + (low[1] + low[5])) +
                           static_cast<double>((low[2] + low[6]) + (low[3] + low[7]));
        }
    }
    for (; start < dim; ++start)
        for (int row = 0; row < Rows; ++row)
            totals[row] += static_cast<double>(query[start]) * unit[row * dim + start];
    for (int row = 0; row < Rows; ++row) products[row] = static_cast<float>(totals[row]);
}

void dots(const float* query, const float* unit, std::int64_t rows, std::int64_t dim,
          float* products) {
    std::int64_t row = 0;
    for (; row + 4 <= rows; row += 4) dots_of<4>(query, unit + row * dim, dim, products + row);
    for (; row < rows; ++row) dots_of<1>(query, unit + row * dim, dim, products + row);
}

ROBUSTAD_INLINE Int16x larger(const Int16x& a, const Int16x& b) { return a > b ? a : b; }

std::int32_t largest(const std::int32_t* maxima, std::int64_t count) {
    std::int32_t best = INT32_MIN;
    std::int64_t i = 0;
    if (count >= 16) {
        Int16x bests = load<Int16x>(maxima);
        for (i = 16; i + 16 <= count; i += 16) bests = larger(bests, load<Int16x>(maxima + i));
        for (int lane = 0; lane < 16; ++lane) best = bests[lane] > best ? bests[lane] : best;
    }
    for (; i < count; ++i) best = maxima[i] > best ? maxima[i] : best;
    return best;
}

std::int64_t at_least(const std::int32_t* maxima, std::int64_t count, std::int32_t threshold,
                      std::int32_t* places) {
    std::int64_t found = 0, i = 0;
    const Int16x bar = threshold - Int16x{};
    for (; i + 16 <= count; i += 16) {
        const Long8 above = reinterpret_cast<Long8>(load<Int16x>(maxima + i) >= bar);
        std::int64_t any = 0;
        for (int lane = 0; lane < 8; ++lane) any |= above[lane];
        if (any == 0) continue;
        for (std::int64_t at = i; at < i + 16; ++at)
            if (maxima[at] >= threshold) places[found++] = static_cast<std::int32_t>(at);
    }
    for (; i < count; ++i)
        if (maxima[i] >= threshold) places[found++] = static_cast<std::int32_t>(i);
    return found;
}

}  // namespace
}  // namespace robustad
