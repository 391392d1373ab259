// How rows and queries become 8-bit integers; see cosine_nn_int8_levels.h.
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

// The length of what a head leaves out, at least: as |P x| <= |x|, the products of what two vectors
// leave out are bounded by those of these lengths.
ROBUSTAD_INLINE float tail_of(double square, double head_square, std::int64_t padded) {
    const double rest = square - head_square;
    return length_of((rest > 0 ? rest : 0) + 2.1 * head_rounding(padded) * square);
}

ROBUSTAD_INLINE void raise(float& most, float value) { most = value > most ? value : most; }

ROBUSTAD_INLINE void raise_level(const float* x, std::int64_t size, float* most) {
    raise(most[0], largest_number(x, size));
    double square = 0, halves[2];
    for (std::int64_t at = 0; at < size; at += kChunk) {
        halves_of(x + at, chunk_size(at, size), halves);
        square += halves[0] + halves[1];
        for (int half = 0; half < 2; ++half)
            raise(most[2 + at / kChunk * 2 + half], length_of(halves[half]));
    }
    raise(most[1], length_of(square));
}

void int8_learn(const float* unit, std::int64_t rows, std::int64_t dim, std::int64_t padded,
                float* frame) {
    const std::int64_t count = head_size(padded);
    if (count == 0 || rows < kHeadRows) return;
    float* axes = frame + padded;
    const double left = principal_axes(unit, rows, dim, padded, frame, count, axes);
    turn(axes, count, padded);  // as for whole vectors: no number of a head is much larger
    axes[count * padded] = left < kHeadLeaves ? 1.0f : 0.0f;
}

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

    float tail(std::int64_t row, std::int64_t padded) const {
        const std::int64_t size = head_size(padded);
        const double head_square = product(head + row * size, head + row * size, size);
        return tail_of(squares[row], head_square, padded);
    }

    unsigned char* rounded() {
        return reinterpret_cast<unsigned char*>(static_cast<float*>(bytes_));
    }

    Numbers centred, head;  // turned
    double squares[kPanel];

  private:
    Numbers bytes_;
};

void int8_survey(const float* unit, std::int64_t rows, std::int64_t dim, std::int64_t padded,
                 float* frame) {
    Parts parts(padded);
    const std::int64_t size = head_size(padded);
    float* found = frame + int8_learnt_floats(padded);
    for (std::int64_t first = 0; first < rows; first += kPanel) {
        const std::int64_t count = rows - first < kPanel ? rows - first : kPanel;
        parts.take(unit + first * dim, count, dim, padded, frame);
        for (std::int64_t row = 0; row < count; ++row) {
            raise_level(parts.centred + row * padded, padded, found + 1);
            if (!int8_by_heads(padded, frame)) continue;
            raise(found[0], parts.tail(row, padded));
            raise_level(parts.head + row * size, size, found + 1 + level_floats(padded));
        }
    }
}

// Levels a unit of the bank's numbers.
ROBUSTAD_INLINE float bank_scale(const Level& level) {
    return level.most[0] > 1e-30f ? kBankLevels / level.most[0] : 1.0f;
}

// round(x * scale) within +-levels, plus `shift`. Returns the square of what was lost.
ROBUSTAD_INLINE double round_to(const float* x, std::int64_t padded, float scale, float levels,
                                int shift, unsigned char* out) {
    typedef unsigned char Bytes __attribute__((vector_size(kDoubles)));
    typedef std::int32_t HalfInts __attribute__((vector_size(kRegister / 2)));
    constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const double inverse = 1.0 / static_cast<double>(scale);
    Doubles lost = {};
    for (std::int64_t i = 0; i < padded; i += kDoubles) {
        HalfFloats value = load<HalfFloats>(x + i);
        value = value == value ? value : HalfFloats{};  // a conversion of NaN is not defined
        HalfFloats scaled = value * scale;
        scaled = scaled > levels ? levels - HalfFloats{} : scaled;
        scaled = scaled < -levels ? -levels - HalfFloats{} : scaled;
        const HalfFloats rounded = (scaled + kMagic) - kMagic;
        const Bytes bytes = __builtin_convertvector(
            __builtin_convertvector(rounded, HalfInts) + shift, Bytes);
        std::memcpy(out + i, &bytes, sizeof(bytes));
        const Doubles off = __builtin_convertvector(value, Doubles) -
                            __builtin_convertvector(rounded, Doubles) * inverse;
        lost += off * off;
    }
    return sum(lost);
}

// Row `lane` of a panel. Returns the square of what was lost.
double pack_row(const float* x, const Level& level, std::int64_t lane, float base, float tail,
                unsigned char* rounded, unsigned char* panel) {
    const double lost = round_to(x, level.size, bank_scale(level), kBankLevels, 0, rounded);
    std::memcpy(panel + lane * 4, &base, 4);
    std::memcpy(panel + 64 + lane * 4, &tail, 4);
    unsigned char* to = panel + 2 * 64;
    for (std::int64_t at = 0; at < level.size; at += kChunk) {
        const std::int64_t end = at + chunk_size(at, level.size);
        unsigned char* begin = to;
        to += 64;
        int sums[2] = {};
        for (std::int64_t i = at; i < end; i += kStep, to += kStep * kPanel) {
            std::memcpy(to + lane * kStep, rounded + i, kStep);
            for (int j = 0; j < kStep; ++j) sums[j / 2] += static_cast<signed char>(rounded[i + j]);
        }
        for (int half = 0; half < 2; ++half) {
            const auto shifted = static_cast<std::uint16_t>(-kShift * sums[half]);
            std::memcpy(begin + (lane * 2 + half) * 2, &shifted, 2);
        }
    }
    return lost;
}

void int8_pack_panel(const float* unit, std::int64_t rows, std::int64_t dim, std::int64_t padded,
                     const float* frame, unsigned char* panel, unsigned char* head,
                     double* errors) {
    Parts parts(padded);
    parts.take(unit, rows, dim, padded, frame);
    const bool by_heads = int8_by_heads(padded, frame);
    if (!by_heads) std::memset(head, 0, static_cast<std::size_t>(int8_head_bytes(padded)));
    const Level all = whole(frame, padded), some = heads(frame, padded);
    double worst[2] = {};
    for (std::int64_t lane = 0; lane < kPanel; ++lane) {
        const std::int64_t row = lane < rows ? lane : rows - 1;
        const auto base = static_cast<float>(product(unit + row * dim, frame, dim) * kInt8One);
        double lost = pack_row(parts.centred + row * padded, all, lane, base, 0.0f,
                               parts.rounded(), panel);
        worst[0] = lost > worst[0] ? lost : worst[0];
        if (!by_heads) continue;
        lost = pack_row(parts.head + row * some.size, some, lane, base, parts.tail(row, padded),
                        parts.rounded(), head);
        worst[1] = lost > worst[1] ? lost : worst[1];
    }
    for (int i = 0; i < 2; ++i) {
        const double error = square_root(worst[i]) * 1.000001;
        errors[i] = error > errors[i] ? error : errors[i];
    }
}

// The finest scale at which a turned query's numbers fit their bits, and its sums theirs.
ROBUSTAD_INLINE float query_scale(const float* x, const Level& level, double& square) {
    const float most = largest_number(x, level.size);
    double scale = most > 1e-30f ? static_cast<double>(kQueryLevels) / most : 1.0;
    const double levels = static_cast<double>(bank_scale(level));
    double halves[2];
    square = 0;
    for (std::int64_t at = 0; at < level.size; at += kChunk) {
        halves_of(x + at, chunk_size(at, level.size), halves);
        for (int half = 0; half < 2; ++half) {
            square += halves[half];
            const double row = level.most[2 + at / kChunk * 2 + half] * levels + kHalfRounding;
            const double fits = (kSum - kHalfRounding * row) / row;
            const double long_ = square_root(halves[half]);
            if (long_ * scale > fits) scale = fits / long_;
        }
    }
    return static_cast<float>(scale * 0.99999);
}

// Query `query` of `count`: its steps, and the unit of its sums. Returns the bound of what rounding
// does to a score.
float pack_query(const float* x, const Level& level, std::int64_t count, std::int64_t query,
                 double bank_error, unsigned char* rounded, unsigned char* steps, float& unit) {
    double square;
    const float scale = query_scale(x, level, square);
    const double lost =
        square_root(round_to(x, level.size, scale, kQueryLevels, kShift, rounded));
    for (std::int64_t i = 0; i < level.size; i += kStep)
        std::memcpy(steps + i * count + query * kStep, rounded + i, kStep);
    unit = static_cast<float>(static_cast<double>(kInt8One) / scale / bank_scale(level));
    // |q'.b' - q^.b^| <= e_q |b'| + |q^| e_b
    const double reach = square_root(square) + lost;
    return static_cast<float>((lost * level.most[1] + reach * bank_error) * 1.00001);
}

void int8_pack_queries(const float* unit, std::int64_t count, std::int64_t dim,
                       std::int64_t padded, const float* frame, const double* bank_errors,
                       unsigned char* block, CosineNnBounds* bounds) {
    Parts parts(padded);
    parts.take(unit, count, dim, padded, frame);
    const Level all = whole(frame, padded), some = heads(frame, padded);
    const double of_mean = product(frame, frame, dim);
    unsigned char* head = block + count * padded;
    unsigned char* numbers_at = head + count * some.size;
    for (std::int64_t query = 0; query < count; ++query) {
        QueryNumbers numbers = {};
        const double common = product(unit + query * dim, frame, dim) - of_mean;
        numbers.own = static_cast<float>(common * kInt8One);
        CosineNnBounds& own = bounds[query];
        own.panel = pack_query(parts.centred + query * padded, all, count, query, bank_errors[0],
                               parts.rounded(), block, numbers.unit);
        own.coarse = own.panel;
        own.slack = 0;
        if (int8_by_heads(padded, frame)) {
            own.coarse = pack_query(parts.head + query * some.size, some, count, query,
                                    bank_errors[1], parts.rounded(), head, numbers.head_unit);
            const double both = square_root(parts.squares[query]) * all.most[1];
            own.coarse += static_cast<float>(2.1 * head_rounding(padded) * both);
            const float tail = parts.tail(query, padded);
            numbers.tail = tail * kInt8One;
            own.slack = 2 * tail * *tail_in(frame, padded);
        }
        std::memcpy(numbers_at + query * static_cast<std::int64_t>(sizeof(numbers)), &numbers,
                    sizeof(numbers));
    }
}

}  // namespace
}  // namespace robustad
