// How rows and queries become 8-bit integers; see cosine_nn_int8_levels.h.
#pragma once

#include "cosine_nn_int8_parts.h"

namespace robustad {
namespace {

// Levels a unit of a row's numbers. Where these are as good as equal, they do not need them all, and
// a row that is long in levels would leave queries few.
ROBUSTAD_INLINE float row_scale(const float* x, std::int64_t size) {
    const float most = largest_number(x, size);
    double square = 0, halves[2];
    for (std::int64_t at = 0; at < size; at += kChunk) {
        halves_of(x + at, chunk_size(at, size), halves);
        for (const double half : halves) square = half > square ? half : square;
    }
    const float length = length_of(square);
    if (most <= 1e-30f) return 1.0f;
    return length * kBankLevels > kHalf * most ? kHalf / length : kBankLevels / most;
}

ROBUSTAD_INLINE void raise_level(const float* x, std::int64_t size, float* most) {
    const float scale = row_scale(x, size);
    double halves[2];
    for (std::int64_t at = 0; at < size; at += kChunk) {
        halves_of(x + at, chunk_size(at, size), halves);
        for (int half = 0; half < 2; ++half, ++most) {
            const float length = scale * length_of(halves[half]);
            *most = length > *most ? length : *most;
        }
    }
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

void int8_survey(const float* unit, std::int64_t rows, std::int64_t dim, std::int64_t padded,
                 float* frame) {
    Parts parts(padded);
    const std::int64_t size = head_size(padded);
    float* found = frame + int8_learnt_floats(padded);
    for (std::int64_t first = 0; first < rows; first += kPanel) {
        const std::int64_t count = rows - first < kPanel ? rows - first : kPanel;
        parts.take(unit + first * dim, count, dim, padded, frame);
        for (std::int64_t row = 0; row < count; ++row) {
            raise_level(parts.centred + row * padded, padded, found);
            if (int8_by_heads(padded, frame))
                raise_level(parts.head + row * size, size, found + level_floats(padded));
        }
    }
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

// Rounding takes from q.b at most e_q |b| + (|q| + e_q) e_b: two products of a row's number and a
// query's, which reaches make one by the Cauchy-Schwarz inequality, and so again with the tails'.
// What one side gets more of, the other gets less of: these shares loosen the bound the least.
constexpr double kOfLength = 0.01, kOfTail = 12.0;

ROBUSTAD_INLINE float row_reach(const Extent& x, double lost) {
    const double length = kOfLength * kOfLength * x.numbers;
    const double off = lost + 2.1 * x.rounding * square_root(x.all);
    return length_of(1.0001 * (x.tail + kOfTail * kOfTail * (length + off * off)));
}

ROBUSTAD_INLINE float query_reach(const Extent& x, double lost) {
    const double length = lost / kOfLength, off = (1 + x.rounding) * square_root(x.all) + lost;
    return length_of(1.0001 * (x.tail + (length * length + off * off) / (kOfTail * kOfTail)));
}

// Row `lane` of a panel. Returns its reach.
float pack_row(const float* x, std::int64_t size, const Extent& extent, std::int64_t lane,
               float base, unsigned char* rounded, unsigned char* panel) {
    const float scale = row_scale(x, size), unit = 1.0f / scale;
    const double lost = square_root(round_to(x, size, scale, kBankLevels, 0, rounded));
    const float reach = row_reach(extent, lost);
    std::memcpy(panel + kBase + lane * 4, &base, 4);
    std::memcpy(panel + kReach + lane * 4, &reach, 4);
    std::memcpy(panel + kUnit + lane * 4, &unit, 4);
    unsigned char* to = panel + kNumbers;
    for (std::int64_t at = 0; at < size; at += kChunk) {
        const std::int64_t end = at + chunk_size(at, size);
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
    return reach;
}

// errors: raised to the longest reaches.
void int8_pack_panel(const float* unit, std::int64_t rows, std::int64_t dim, std::int64_t padded,
                     const float* frame, unsigned char* panel, unsigned char* head,
                     double* errors) {
    Parts parts(padded);
    parts.take(unit, rows, dim, padded, frame);
    const bool by_heads = int8_by_heads(padded, frame);
    const std::int64_t size = head_size(padded);
    if (!by_heads) std::memset(head, 0, static_cast<std::size_t>(int8_head_bytes(padded)));
    for (std::int64_t lane = 0; lane < kPanel; ++lane) {
        const std::int64_t row = lane < rows ? lane : rows - 1;
        const auto base = static_cast<float>(product(unit + row * dim, frame, dim) * kInt8One);
        double reach = pack_row(parts.centred + row * padded, padded, parts.whole(row), lane, base,
                                parts.rounded(), panel);
        errors[0] = reach > errors[0] ? reach : errors[0];
        if (!by_heads) continue;
        reach = pack_row(parts.head + row * size, size, parts.of_head(row, padded), lane, base,
                         parts.rounded(), head);
        errors[1] = reach > errors[1] ? reach : errors[1];
    }
}

// The finest scale at which a turned query's numbers fit their bits, and its sums theirs.
ROBUSTAD_INLINE float query_scale(const float* x, const Level& level) {
    const float most = largest_number(x, level.size);
    double scale = most > 1e-30f ? static_cast<double>(kQueryLevels) / most : 1.0;
    double halves[2];
    const float* longest = level.most;
    for (std::int64_t at = 0; at < level.size; at += kChunk) {
        halves_of(x + at, chunk_size(at, level.size), halves);
        for (int half = 0; half < 2; ++half) {
            const double row = *longest++ + kHalfRounding;
            const double fits = (kSum - kHalfRounding * row) / row;
            const double length = square_root(halves[half]);
            if (length * scale > fits) scale = fits / length;
        }
    }
    return static_cast<float>(scale * 0.99999);
}

// Query `query` of `count`: its steps, and the unit of its sums. Returns its reach.
float pack_query(const float* x, const Level& level, const Extent& extent, std::int64_t count,
                 std::int64_t query, unsigned char* rounded, unsigned char* steps, float& unit) {
    const float scale = query_scale(x, level);
    const double lost =
        square_root(round_to(x, level.size, scale, kQueryLevels, kShift, rounded));
    for (std::int64_t i = 0; i < level.size; i += kStep)
        std::memcpy(steps + i * count + query * kStep, rounded + i, kStep);
    unit = static_cast<float>(static_cast<double>(kInt8One) / scale);
    return query_reach(extent, lost);
}

void int8_pack_queries(const float* unit, std::int64_t count, std::int64_t dim,
                       std::int64_t padded, const float* frame, const double* longest,
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
        float reach = pack_query(parts.centred + query * padded, all, parts.whole(query), count,
                                 query, parts.rounded(), block, numbers.unit);
        numbers.reach = reach * kInt8One;
        double both = 2 * reach * longest[0];
        if (int8_by_heads(padded, frame)) {
            reach = pack_query(parts.head + query * some.size, some, parts.of_head(query, padded),
                               count, query, parts.rounded(), head, numbers.head_unit);
            numbers.head_reach = reach * kInt8One;
            both = 2 * reach * longest[1];
        }
        // Scores hold their bounds, but for what summing adds.
        bounds[query] = {0, static_cast<float>(both * 1.00001), 0};
        std::memcpy(numbers_at + query * static_cast<std::int64_t>(sizeof(numbers)), &numbers,
                    sizeof(numbers));
    }
}

}  // namespace
}  // namespace robustad
