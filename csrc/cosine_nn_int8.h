// The coarse pass in 8-bit integers. A pair of their products is added up in 16 bits, which every
// x86 processor since SSSE3 does for twice as many numbers as in cosine_nn_int16.h, but 8 bits of a
// vector are few and 16 bits of a sum are soon full. So:
//
// - The bank's mean m is taken off, as patch features have much in common: with q' = q - m and
//   b' = b - m, q.b = q'.b' + m.b + q'.m. The second term is kept for each row, the third goes to
//   the maxima of a query.
// - Vectors are turned, both alike, by a Hadamard matrix in blocks of 32 numbers: what few numbers
//   held is spread over many, so the largest is small and rounding loses less.
// - Rows have 8 bits on one scale, queries 7 and each its own. Sums over a chunk's halves fit 16 bits
//   by the Cauchy-Schwarz inequality: the longest row there is known, the query is scaled by it.
//   Since they fit in the end, additions may run over on the way. The unsigned factor that the
//   instruction wants is the query plus 64; each sum begins with what that adds, taken away.
#pragma once

#include "cosine_nn_kernels.h"

namespace robustad {
namespace {

constexpr std::int64_t kTurned = 32;  // numbers that one Hadamard matrix mixes; divides `padded`
constexpr std::int64_t kChunk = 64;   // dimensions whose products are summed in 16 bits
constexpr std::int64_t kStep = 4;     // of them, those of an instruction: two for each half
constexpr float kBankLevels = 127.0f, kQueryLevels = 63.0f;
constexpr int kShift = 64;
constexpr float kInt8One = 2097152.0f;  // 2^21
constexpr double kSum = 32767.0, kHalfRounding = 2.83;  // >= .5 sqrt(kChunk / 2)
static_assert(kTurned == kDimPad, "whole matrices");

// [16 float: m.b] and for each chunk [16 rows][2 int16: what its halves begin with],
// [steps][16 rows][4 int8].
std::int64_t int8_panel_bytes(std::int64_t padded) {
    return (64 + (padded + kChunk - 1) / kChunk * 64) + padded * kPanel;
}

// For a block of n queries: [steps][n][4 uint8] and [n][2 float: unit of the sums, q'.m].
std::int64_t int8_query_bytes(std::int64_t padded) { return padded + 8; }

// The frame: mean row, largest number, longest row, longest half of a row in each chunk; of turned
// rows.
std::int64_t int8_frame_floats(std::int64_t padded) {
    return padded + 2 + (padded + kChunk - 1) / kChunk * 2;
}

// Taking off the mean and five additions round a number six times, by 2^-24 each, and neither vector
// is longer than 2: less than 3e-6 of a score. The rest is for the score itself, summed up in float32.
double int8_accumulation(std::int64_t) { return 4e-6; }

// Numbers of one vector, as many as it has.
class Numbers {
  public:
    explicit Numbers(std::int64_t size) : at_(new float[static_cast<unsigned long>(size)]) {}
    ~Numbers() { delete[] at_; }
    Numbers(const Numbers&) = delete;
    Numbers& operator=(const Numbers&) = delete;
    operator float*() { return at_; }

  private:
    float* at_;
};

// row - mean, turned: numbers that lie padded / 32 apart are mixed.
void turn(const float* row, std::int64_t dim, std::int64_t padded, const float* mean, float* out) {
    constexpr float kLength = 0.17677669529663687f;  // 1 / sqrt(32)
    for (std::int64_t i = 0; i < dim; ++i) out[i] = (row[i] - mean[i]) * kLength;
    std::memset(out + dim, 0, static_cast<std::size_t>(padded - dim) * sizeof(float));
    for (std::int64_t span = padded / kTurned; span < padded; span *= 2)
        for (std::int64_t start = 0; start < padded; start += 2 * span) {
            float *low = out + start, *high = low + span;
            for (std::int64_t i = 0; i < span; ++i) {
                const float sum = low[i] + high[i], difference = low[i] - high[i];
                low[i] = sum;
                high[i] = difference;
            }
        }
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

ROBUSTAD_INLINE void raise(float& most, float value) { most = value > most ? value : most; }

void int8_survey(const float* unit, std::int64_t rows, std::int64_t dim, std::int64_t padded,
                 float* frame) {
    Numbers turned(padded);
    float* found = frame + padded;
    for (std::int64_t row = 0; row < rows; ++row) {
        turn(unit + row * dim, dim, padded, frame, turned);
        raise(found[0], largest_number(turned, padded));
        double square = 0, halves[2];
        for (std::int64_t at = 0; at < padded; at += kChunk) {
            halves_of(turned + at, chunk_size(at, padded), halves);
            square += halves[0] + halves[1];
            for (int half = 0; half < 2; ++half)
                raise(found[2 + at / kChunk * 2 + half], length_of(halves[half]));
        }
        raise(found[1], length_of(square));
    }
}

// Levels a unit of the bank's numbers.
ROBUSTAD_INLINE float bank_scale(const float* frame, std::int64_t padded) {
    const float most = frame[padded];
    return most > 1e-30f ? kBankLevels / most : 1.0f;
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

double int8_pack_panel(const float* unit, std::int64_t rows, std::int64_t dim, std::int64_t padded,
                       const float* frame, unsigned char* panel) {
    Numbers turned(padded), space(padded / 4);
    auto* rounded = reinterpret_cast<unsigned char*>(static_cast<float*>(space));
    const float scale = bank_scale(frame, padded);
    double worst = 0;
    for (std::int64_t lane = 0; lane < kPanel; ++lane) {
        const float* row = unit + (lane < rows ? lane : rows - 1) * dim;
        turn(row, dim, padded, frame, turned);
        const double lost = round_to(turned, padded, scale, kBankLevels, 0, rounded);
        worst = lost > worst ? lost : worst;
        const auto base = static_cast<float>(product(row, frame, dim) * kInt8One);
        std::memcpy(panel + lane * 4, &base, 4);
        unsigned char* to = panel + 64;
        for (std::int64_t at = 0; at < padded; at += kChunk) {
            const std::int64_t end = at + chunk_size(at, padded);
            unsigned char* begin = to;
            to += 64;
            int sums[2] = {};
            for (std::int64_t i = at; i < end; i += kStep, to += kStep * kPanel) {
                std::memcpy(to + lane * kStep, rounded + i, kStep);
                for (int j = 0; j < kStep; ++j)
                    sums[j / 2] += static_cast<signed char>(rounded[i + j]);
            }
            for (int half = 0; half < 2; ++half) {
                const auto shifted = static_cast<std::uint16_t>(-kShift * sums[half]);
                std::memcpy(begin + (lane * 2 + half) * 2, &shifted, 2);
            }
        }
    }
    return square_root(worst) * 1.000001;
}

// The finest scale at which a turned query's numbers fit their bits, and its sums theirs.
ROBUSTAD_INLINE float query_scale(const float* turned, std::int64_t padded, const float* frame,
                                  double& square) {
    const float most = largest_number(turned, padded);
    double scale = most > 1e-30f ? static_cast<double>(kQueryLevels) / most : 1.0;
    const double levels = static_cast<double>(bank_scale(frame, padded));
    double halves[2];
    square = 0;
    for (std::int64_t at = 0; at < padded; at += kChunk) {
        halves_of(turned + at, chunk_size(at, padded), halves);
        for (int half = 0; half < 2; ++half) {
            square += halves[half];
            const double row = frame[padded + 2 + at / kChunk * 2 + half] * levels + kHalfRounding;
            const double fits = (kSum - kHalfRounding * row) / row;
            const double long_ = square_root(halves[half]);
            if (long_ * scale > fits) scale = fits / long_;
        }
    }
    return static_cast<float>(scale * 0.99999);
}

void int8_pack_queries(const float* unit, std::int64_t count, std::int64_t dim,
                       std::int64_t padded, const float* frame, double bank_error,
                       unsigned char* block, float* errors) {
    Numbers turned(padded), space(padded / 4);
    auto* rounded = reinterpret_cast<unsigned char*>(static_cast<float*>(space));
    const float levels = bank_scale(frame, padded);
    const double longest = frame[padded + 1], of_mean = product(frame, frame, dim);
    for (std::int64_t query = 0; query < count; ++query) {
        const float* row = unit + query * dim;
        turn(row, dim, padded, frame, turned);
        double square;
        const float scale = query_scale(turned, padded, frame, square);
        const double lost =
            square_root(round_to(turned, padded, scale, kQueryLevels, kShift, rounded));
        for (std::int64_t i = 0; i < padded; i += kStep)
            std::memcpy(block + i * count + query * kStep, rounded + i, kStep);
        const double common = product(row, frame, dim) - of_mean;
        const float numbers[2] = {
            static_cast<float>(static_cast<double>(kInt8One) / scale / levels),
            static_cast<float>(common * kInt8One)};
        std::memcpy(block + padded * count + query * 8, numbers, 8);
        // |q'.b' - q^.b^| <= e_q |b'| + |q^| e_b
        const double reach = square_root(square) + lost;
        errors[query] = static_cast<float>((lost * longest + reach * bank_error) * 1.00001);
    }
}

// Sums of one panel for `Queries` queries whose steps lie `stride` bytes apart.
template <typename Isa, int Queries>
ROBUSTAD_INLINE void int8_sums(const unsigned char* value_at, std::int64_t stride,
                               const unsigned char* panel, std::int64_t padded,
                               typename Isa::Vector (&sums)[Queries][Isa::vectors]) {
    using Vector = typename Isa::Vector;
    constexpr int kColumns = Isa::vectors;
    constexpr int kBytes = static_cast<int>(sizeof(Vector));
#pragma GCC unroll 16
    for (int query = 0; query < Queries; ++query)
#pragma GCC unroll 16
        for (int column = 0; column < kColumns; ++column) sums[query][column] = Isa::zero();
    const unsigned char* at = panel + 64;
    for (std::int64_t chunk = 0; chunk < padded; chunk += kChunk) {
        Vector halves[Queries][kColumns];
#pragma GCC unroll 16
        for (int column = 0; column < kColumns; ++column) {
            const Vector begin = Isa::load(at + column * kBytes);
#pragma GCC unroll 16
            for (int query = 0; query < Queries; ++query) halves[query][column] = begin;
        }
        at += 64;
        const unsigned char* end = at + chunk_size(chunk, padded) * kPanel;
        for (; at < end; at += kStep * kPanel, value_at += stride) {
            Vector rows[kColumns];
#pragma GCC unroll 16
            for (int column = 0; column < kColumns; ++column)
                rows[column] = Isa::load(at + column * kBytes);
#pragma GCC unroll 16
            for (int query = 0; query < Queries; ++query) {
                const Vector value = Isa::broadcast(value_at + query * kStep);
#pragma GCC unroll 16
                for (int column = 0; column < kColumns; ++column)
                    Isa::add_products(halves[query][column], value, rows[column]);
            }
        }
#pragma GCC unroll 16
        for (int query = 0; query < Queries; ++query)
#pragma GCC unroll 16
            for (int column = 0; column < kColumns; ++column)
                sums[query][column] = Isa::add_halves(sums[query][column], halves[query][column]);
    }
}

// The scores of a panel's rows but for the query's own term.
template <typename Isa>
ROBUSTAD_INLINE typename Isa::Floats int8_score(typename Isa::Vector sums,
                                                typename Isa::Floats unit,
                                                const unsigned char* panel, int column) {
    const int bytes = static_cast<int>(sizeof(sums));
    return Isa::scaled(sums, unit, Isa::load_floats(panel + column * bytes));
}

template <typename Isa>
void int8_panel_scores(const unsigned char* block, std::int64_t count, std::int64_t query,
                       const unsigned char* panel, std::int64_t padded, std::int32_t* scores) {
    float numbers[2], found[kPanel];
    std::memcpy(numbers, block + padded * count + query * 8, sizeof(numbers));
    typename Isa::Vector sums[1][Isa::vectors];
    int8_sums<Isa, 1>(block + query * kStep, count * kStep, panel, padded, sums);
    const typename Isa::Floats unit = Isa::same(numbers[0]);
    for (int column = 0; column < Isa::vectors; ++column) {
        const auto score = int8_score<Isa>(sums[0][column], unit, panel, column);
        std::memcpy(found + column * static_cast<int>(sizeof(score) / 4), &score, sizeof(score));
    }
    for (std::int64_t row = 0; row < kPanel; ++row)
        scores[row] = static_cast<std::int32_t>(found[row] + numbers[1]);
}

// The largest of a panel's scores joins what `best` held.
template <typename Isa, int Queries>
ROBUSTAD_INLINE void int8_join(const unsigned char* block, const unsigned char* panel,
                               std::int64_t padded, const typename Isa::Floats* units,
                               typename Isa::Floats* best) {
    typename Isa::Vector sums[Queries][Isa::vectors];
    int8_sums<Isa, Queries>(block, Queries * kStep, panel, padded, sums);
#pragma GCC unroll 16
    for (int query = 0; query < Queries; ++query)
#pragma GCC unroll 16
        for (int column = 0; column < Isa::vectors; ++column)
            best[query] = Isa::larger(
                best[query], int8_score<Isa>(sums[query][column], units[query], panel, column));
}

template <typename Isa, int Queries>
void int8_coarse_block(const unsigned char* block, const unsigned char* panels_at,
                       std::int64_t panels, std::int64_t group_panels, std::int64_t padded,
                       std::int32_t* maxima, std::int64_t stride) {
    const std::int64_t panel_bytes = int8_panel_bytes(padded);
    float numbers[Queries][2];
    std::memcpy(numbers, block + padded * Queries, sizeof(numbers));
    typename Isa::Floats units[Queries], best[Queries];
    for (int query = 0; query < Queries; ++query) units[query] = Isa::same(numbers[query][0]);
    std::int64_t group = 0;
    for (std::int64_t first = 0; first < panels; first += group_panels, ++group) {
        const std::int64_t end = first + group_panels < panels ? first + group_panels : panels;
        for (int query = 0; query < Queries; ++query) best[query] = Isa::same(-1e9f);
        for (std::int64_t panel = first; panel < end; ++panel)
            int8_join<Isa, Queries>(block, panels_at + panel * panel_bytes, padded, units, best);
        for (int query = 0; query < Queries; ++query)
            maxima[query * stride + group] =
                static_cast<std::int32_t>(Isa::largest(best[query]) + numbers[query][1]);
    }
}

// One instance for each number of queries up to a full block: a lone query costs one, not six.
template <typename Isa, int Queries>
ROBUSTAD_INLINE void int8_coarse_dispatch(const unsigned char* block, std::int64_t count,
                                          const unsigned char* panels_at, std::int64_t panels,
                                          std::int64_t group_panels, std::int64_t padded,
                                          std::int32_t* maxima, std::int64_t stride) {
    if constexpr (Queries > 0) {
        if (count == Queries)
            int8_coarse_block<Isa, Queries>(block, panels_at, panels, group_panels, padded, maxima,
                                            stride);
        else
            int8_coarse_dispatch<Isa, Queries - 1>(block, count, panels_at, panels, group_panels,
                                                   padded, maxima, stride);
    }
}

template <typename Isa>
void int8_coarse(const unsigned char* block, std::int64_t count, const unsigned char* panels_at,
                 std::int64_t panels, std::int64_t group_panels, std::int64_t padded,
                 std::int32_t* maxima, std::int64_t stride) {
    int8_coarse_dispatch<Isa, Isa::queries>(block, count, panels_at, panels, group_panels, padded,
                                            maxima, stride);
}

template <typename Isa>
constexpr CosineNnPath int8_path(const char* name) {
    return {name,
            CosineNnLayout::kInt8,
            static_cast<double>(kInt8One),
            Isa::queries,
            1,
            int8_accumulation,
            int8_panel_bytes,
            int8_query_bytes,
            normalise,
            int8_frame_floats,
            int8_survey,
            int8_pack_panel,
            int8_pack_queries,
            nothing,
            nothing,
            int8_coarse<Isa>,
            int8_panel_scores<Isa>,
            dots,
            largest,
            at_least};
}

}  // namespace
}  // namespace robustad
