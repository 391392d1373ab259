// What the CPU and the CUDA side of topk_mean share: an integer order of floats, how many of a row
// count, and the search for the smallest of them.
//
// Everything here has internal linkage: files compiled for different instruction sets include it,
// and the linker must not share one's code with the others.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define ROBUSTAD_HD static __host__ __device__ __forceinline__
#else
#define ROBUSTAD_HD static inline
#endif

namespace robustad {

// Scores in memory; 16-bit ones are widened to float32 before anything else happens.
struct Bf16 {
    std::uint16_t bits;
};
struct F16 {
    std::uint16_t bits;
};

ROBUSTAD_HD std::int32_t bits_of(float value) {
    std::int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

ROBUSTAD_HD float from_bits(std::int32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

ROBUSTAD_HD float widen(float value) { return value; }

ROBUSTAD_HD float widen(Bf16 value) {
    return from_bits(static_cast<std::int32_t>(static_cast<std::uint32_t>(value.bits) << 16));
}

ROBUSTAD_HD float widen(F16 value) {
    const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
    const std::uint32_t rest = value.bits & 0x7fffu;
    if (rest >= 0x7c00u)  // infinity and NaN
        return from_bits(static_cast<std::int32_t>(sign | 0x7f800000u | (rest << 13)));
    if (rest < 0x400u)  // zero and subnormal
        return from_bits(static_cast<std::int32_t>(sign) | bits_of(rest * 0x1p-24f));
    return from_bits(static_cast<std::int32_t>(sign | ((rest << 13) + 0x38000000u)));
}

ROBUSTAD_HD void narrow(float value, float& out) { out = value; }

// Round to nearest, ties to even, as torch does; NaN stays NaN.
ROBUSTAD_HD void narrow(float value, Bf16& out) {
    const std::uint32_t bits = static_cast<std::uint32_t>(bits_of(value));
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        out.bits = 0x7fc0u;
    else
        out.bits = static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

ROBUSTAD_HD void narrow(float value, F16& out) {
    const std::uint32_t bits = static_cast<std::uint32_t>(bits_of(value));
    const std::uint32_t sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
    std::uint32_t half;
    if (size > 0x7f800000u) {
        half = 0x7e00u;
    } else if (size >= 0x477ff000u) {  // rounds beyond 65504
        half = 0x7c00u;
    } else if (size < 0x38800000u) {  // below 2^-14: the sum's last bits are the half's
        half = static_cast<std::uint32_t>(
            bits_of(from_bits(static_cast<std::int32_t>(size)) + 0.5f) - bits_of(0.5f));
    } else {
        half = (size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13;
    }
    out.bits = static_cast<std::uint16_t>(sign | half);
}

// Keys order as scores do: NaN, whatever its sign, above infinity; -0 and 0 alike.
constexpr std::int32_t kNan = 0x7fffffff;
// Below every score's key: entries that do not count.
constexpr std::int32_t kNone = -0x7fffffff - 1;

ROBUSTAD_HD std::int32_t key_of(float value) {
    if (value != value) return kNan;
    const std::int32_t bits = bits_of(value + 0.0f);
    return bits ^ ((bits >> 31) & 0x7fffffff);
}

ROBUSTAD_HD float value_of(std::int32_t key) {
    return from_bits(key == kNan ? 0x7fc00000 : key ^ ((key >> 31) & 0x7fffffff));
}

// How many entries of a row count: a fraction of the valid ones, but one at least, or a number.
ROBUSTAD_HD std::int64_t count_of(std::int64_t k, double fraction, std::int64_t valid) {
    std::int64_t count = k;
    if (fraction > 0) {
        count = static_cast<std::int64_t>(fraction * static_cast<double>(valid) + 1e-9);
        if (count < 1) count = 1;
    }
    return count < valid ? count : valid;
}

// The interval (low, high] that holds the k-th largest of some keys: k or more of them are above
// `low`, fewer above `high`. Halving it takes 32 steps at most, whatever the data.
struct Interval {
    std::int32_t low, high;
};

ROBUSTAD_HD bool is_open(const Interval& s) {
    return static_cast<std::int64_t>(s.high) - s.low > 1;
}

ROBUSTAD_HD std::int32_t pivot_of(const Interval& s) {
    return static_cast<std::int32_t>((static_cast<std::int64_t>(s.low) + s.high) >> 1);
}

ROBUSTAD_HD void narrow_to(Interval& s, std::int32_t pivot, bool enough_above) {
    if (enough_above)
        s.low = pivot;
    else
        s.high = pivot;
}

}  // namespace robustad
