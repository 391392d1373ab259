// Rows and queries in float32 as rounding takes them; see cosine_nn_int8_levels.h.
#pragma once

#include "cosine_nn_axes.h"
#include "cosine_nn_int8_levels.h"

namespace robustad {
namespace {

// Numbers of one vector, as many as it has.
class Numbers {
  public:
    explicit Numbers(std::int64_t size) : at_(new float[static_cast<unsigned long>(size)]) {}
    ~Numbers() { delete[] at_; }
    Numbers(const Numbers&) = delete;
    Numbers& operator=(const Numbers&) = delete;
    operator float*() const { return at_; }

  private:
    float* at_;
};

void centre(const float* row, std::int64_t dim, std::int64_t padded, const float* mean,
            float* out) {
    for (std::int64_t i = 0; i < dim; ++i) out[i] = row[i] - mean[i];
    std::memset(out + dim, 0, static_cast<std::size_t>(padded - dim) * sizeof(float));
}

// Turned in place: numbers that lie size / 32 apart are mixed, `stride` floats each.
void turn(float* at, std::int64_t size, std::int64_t stride) {
    constexpr float kLength = 0.17677669529663687f;  // 1 / sqrt(32)
    const std::int64_t all = size * stride;
    for (std::int64_t i = 0; i < all; ++i) at[i] *= kLength;
    for (std::int64_t span = all / kTurned; span < all; span *= 2)
        for (std::int64_t start = 0; start < all; start += 2 * span) {
            float *low = at + start, *high = low + span;
            for (std::int64_t i = 0; i < span; ++i) {
                const float sum = low[i] + high[i], difference = low[i] - high[i];
                low[i] = sum;
                high[i] = difference;
            }
        }
}

// out[i, axis] = axes[axis] . x[i] for `Rows` vectors.
template <int Rows>
ROBUSTAD_INLINE void project_rows(const float* x, std::int64_t padded, const float* axes,
                                  std::int64_t count, float* out) {
    constexpr int kAxes = 4;  // divides `count`
    for (std::int64_t axis = 0; axis < count; axis += kAxes) {
        const float* along = axes + axis * padded;
        Floats sums[kAxes][Rows] = {};
        for (std::int64_t i = 0; i < padded; i += kFloats) {
            Floats values[Rows];
#pragma GCC unroll 4
            for (int row = 0; row < Rows; ++row) values[row] = load<Floats>(x + row * padded + i);
#pragma GCC unroll 4
            for (int j = 0; j < kAxes; ++j) {
                const Floats direction = load<Floats>(along + j * padded + i);
#pragma GCC unroll 4
                for (int row = 0; row < Rows; ++row) sums[j][row] += values[row] * direction;
            }
        }
#pragma GCC unroll 4
        for (int row = 0; row < Rows; ++row)
#pragma GCC unroll 4
            for (int j = 0; j < kAxes; ++j)
                out[row * count + axis + j] = static_cast<float>(sum(sums[j][row]));
    }
}

void project(const float* x, std::int64_t rows, std::int64_t padded, const float* axes,
             std::int64_t count, float* out) {
    constexpr int kRows = 3;  // twelve sums
    std::int64_t row = 0;
    for (; row + kRows <= rows; row += kRows)
        project_rows<kRows>(x + row * padded, padded, axes, count, out + row * count);
    for (; row < rows; ++row)
        project_rows<1>(x + row * padded, padded, axes, count, out + row * count);
}

// Squares of the lengths of a chunk's halves: of four numbers the first two are in one, the others
// in the other.
ROBUSTAD_INLINE void halves_of(const float* at, std::int64_t size, double* halves) {
    Floats squares = {};
    for (std::int64_t i = 0; i < size; i += kFloats) {
        const Floats x = load<Floats>(at + i);
        squares += x * x;
    }
    halves[0] = halves[1] = 0;
    for (int i = 0; i < kFloats; ++i) halves[i / 2 % 2] += squares[i] * 1.00001;
}

ROBUSTAD_INLINE std::int64_t chunk_size(std::int64_t at, std::int64_t padded) {
    return padded - at < kChunk ? padded - at : kChunk;
}

ROBUSTAD_INLINE float largest_number(const float* at, std::int64_t padded) {
    Floats most = {};
    for (std::int64_t i = 0; i < padded; i += kFloats) {
        const Floats x = load<Floats>(at + i), size = x < 0.0f ? -x : x;
        most = size > most ? size : most;
    }
    float found = 0;
    for (int i = 0; i < kFloats; ++i) found = most[i] > found ? most[i] : found;
    return found;
}

ROBUSTAD_INLINE double product(const float* a, const float* b, std::int64_t dim) {
    Doubles sums = {};
    std::int64_t i = 0;
    for (; i + kDoubles <= dim; i += kDoubles)
        sums += __builtin_convertvector(load<HalfFloats>(a + i), Doubles) *
                __builtin_convertvector(load<HalfFloats>(b + i), Doubles);
    double total = sum(sums);
    for (; i < dim; ++i) total += static_cast<double>(a[i]) * b[i];
    return total;
}

// A little more than the square root, as a float.
ROBUSTAD_INLINE float length_of(double square) {
    return static_cast<float>(square_root(square) * 1.000001);
}

// What float32 may take from a head, in lengths of its vector: each of its numbers is a sum of
// products along a unit vector, in kFloats parts.
ROBUSTAD_INLINE double head_rounding(std::int64_t padded) {
    const auto roundings = static_cast<double>(padded / kFloats + kFloats);
    return square_root(static_cast<double>(head_size(padded))) * roundings * 6e-8;
}

// Squares of lengths: of a vector, of its numbers (all, or its head's), of the rest; and what
// float32 took from a head, in lengths of the vector.
struct Extent {
    double all, numbers, tail, rounding;
};

// Vectors without the mean, [kPanel, padded], and their heads: of rows, or of a block of queries.
class Parts {
  public:
    explicit Parts(std::int64_t padded)
        : centred(kPanel * padded), head(kPanel * head_size(padded)), bytes_(padded / 4) {}

    void take(const float* unit, std::int64_t rows, std::int64_t dim, std::int64_t padded,
              const float* frame) {
        for (std::int64_t row = 0; row < rows; ++row)
            centre(unit + row * dim, dim, padded, frame, centred + row * padded);
        if (int8_by_heads(padded, frame))
            project(centred, rows, padded, axes_in(frame, padded), head_size(padded), head);
        for (std::int64_t row = 0; row < rows; ++row) {
            squares[row] = product(centred + row * padded, centred + row * padded, padded);
            turn(centred + row * padded, padded, 1);
        }
    }

    Extent whole(std::int64_t row) const { return {squares[row], squares[row], 0, 0}; }

    // As |P x| <= |x|, what two heads leave out of a product is bounded by that of the tails.
    Extent of_head(std::int64_t row, std::int64_t padded) const {
        const std::int64_t size = head_size(padded);
        const double square = product(head + row * size, head + row * size, size);
        const double rest = squares[row] - square, rounding = head_rounding(padded);
        return {squares[row], square, (rest > 0 ? rest : 0) + 2.1 * rounding * squares[row],
                rounding};
    }

    unsigned char* rounded() {
        return reinterpret_cast<unsigned char*>(static_cast<float*>(bytes_));
    }

    Numbers centred, head;  // turned
    double squares[kPanel];

  private:
    Numbers bytes_;
};

}  // namespace
}  // namespace robustad
