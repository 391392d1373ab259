// The coarse pass in 8-bit integers. A pair of their products is added up in 16 bits, which every
// x86 processor since SSSE3 does for twice as many numbers as in cosine_nn_int16.h, but 8 bits of a
// vector are few and 16 bits of a sum are soon full. So:
//
// - The bank's mean m is taken off, as patch features have much in common: with q' = q - m and
//   b' = b - m, q.b = q'.b' + m.b + q'.m. The second term is kept for each row, the third goes to
//   the maxima of a query.
// - Vectors are turned, both alike, by a Hadamard matrix in blocks of 32 numbers: what few numbers
//   held is spread over many, so the largest is small and rounding loses less.
// - Rows have 8 bits, queries 7, each on a scale of its own, as the rows nearest to a crowded mean
//   are short. Sums over a chunk's halves fit 16 bits by the Cauchy-Schwarz inequality: the longest
//   row there is known, the query is scaled by it. Since they fit in the end, additions may run over
//   on the way. The unsigned factor that the instruction wants is the query plus 64; each sum begins
//   with what that adds, taken away.
// - Scores bound products from above: to each is added the row's reach times the query's, which
//   bound what rounding may have taken. Short rows lose less, so few rows stay open where many are
//   alike.
// - Large banks have heads, a quarter of the numbers along the axes in which rows differ most (see
//   cosine_nn_axes.h). Reaches of heads bound what they leave out as well, by the lengths of two
//   vectors' tails. Only panels whose bound reaches the best score known are multiplied whole.
#pragma once

#include "cosine_nn_kernels.h"

namespace robustad {
namespace {

constexpr std::int64_t kTurned = 32;  // numbers that one Hadamard matrix mixes; divides `padded`
constexpr std::int64_t kChunk = 64;   // dimensions whose products are summed in 16 bits
constexpr std::int64_t kStep = 4;     // of them, those of an instruction: two for each half
constexpr float kBankLevels = 127.0f, kQueryLevels = 63.0f;
constexpr float kHalf = 300.0f;  // levels that half a chunk of a row is long, at most
constexpr int kShift = 64;
constexpr float kInt8One = 2097152.0f;  // 2^21
constexpr double kSum = 32767.0, kHalfRounding = 2.83;  // >= .5 sqrt(kChunk / 2)
static_assert(kTurned == kDimPad, "whole matrices");

// Heads are used where they spare work: for banks large enough for what a query's costs, of rows
// that leave their principal axes by less than this part of their variance.
constexpr std::int64_t kHeadRows = 4096;
constexpr double kHeadLeaves = 0.15;

// Numbers of a head.
ROBUSTAD_INLINE std::int64_t head_size(std::int64_t padded) {
    return padded < 128 ? 0 : padded / 4 / kTurned * kTurned;
}

ROBUSTAD_INLINE std::int64_t chunks_of(std::int64_t size) { return (size + kChunk - 1) / kChunk; }

// Of vectors with `size` numbers, turned whole or heads:
// [16 float: m.b][16 float: reach][16 float: what a level is] and for each chunk [16 rows][2 int16:
// what its halves begin with], [steps][16 rows][4 int8].
constexpr std::int64_t kBase = 0, kReach = 64, kUnit = 2 * 64, kNumbers = 3 * 64;  // bytes
ROBUSTAD_INLINE std::int64_t level_bytes(std::int64_t size) {
    return kNumbers + chunks_of(size) * 64 + size * kPanel;
}
std::int64_t int8_panel_bytes(std::int64_t padded) { return level_bytes(padded); }
std::int64_t int8_head_bytes(std::int64_t padded) {
    return head_size(padded) == 0 ? 0 : level_bytes(head_size(padded));
}

// What one query adds to the sums of rows.
struct QueryNumbers {
    float unit, head_unit;    // of sums in the rows' units
    float reach, head_reach;  // factors of the rows' reaches
    float own;                // q'.m
};

// For a block of n queries: [steps][n][4 uint8] of whole ones, the same of heads, [n] QueryNumbers.
std::int64_t int8_query_bytes(std::int64_t padded) {
    return padded + head_size(padded) + static_cast<std::int64_t>(sizeof(QueryNumbers));
}

// The frame: mean row, axes, 1 if heads are used; then of whole rows and of heads the greatest
// lengths of the chunks' halves, in levels.
ROBUSTAD_INLINE std::int64_t level_floats(std::int64_t size) { return 2 * chunks_of(size); }
std::int64_t int8_learnt_floats(std::int64_t padded) {
    return padded + head_size(padded) * padded + 1;
}
std::int64_t int8_frame_floats(std::int64_t padded) {
    return int8_learnt_floats(padded) + level_floats(padded) + level_floats(head_size(padded));
}
ROBUSTAD_INLINE const float* axes_in(const float* frame, std::int64_t padded) {
    return frame + padded;
}
bool int8_by_heads(std::int64_t padded, const float* frame) {
    return frame[int8_learnt_floats(padded) - 1] > 0;
}

// Whole rows or heads, and what the frame holds of them.
struct Level {
    std::int64_t size;
    const float* most;
};
ROBUSTAD_INLINE Level whole(const float* frame, std::int64_t padded) {
    return {padded, frame + int8_learnt_floats(padded)};
}
ROBUSTAD_INLINE Level heads(const float* frame, std::int64_t padded) {
    return {head_size(padded), frame + int8_learnt_floats(padded) + level_floats(padded)};
}

// Taking off the mean and five additions round a number six times, by 2^-24 each of what is added
// up: less than 1.9e-6 of a vector's length, which is 2 at most. The rest is for the score itself,
// summed up in float32.
double int8_accumulation(std::int64_t) { return 2e-5; }

}  // namespace
}  // namespace robustad
