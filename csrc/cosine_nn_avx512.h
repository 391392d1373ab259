// What the two AVX-512 paths of cosine_nn have in common.
#pragma once

#include <immintrin.h>

#include "cosine_nn_int16.h"

namespace robustad {
namespace {

// 24 sums, two vectors of bank rows, one of a query: 27 of 32 registers.
struct Avx512Base {
    using Vector = __m512i;
    static constexpr int lanes = 16, vectors = 1, panels = 2, queries = 12;
    static ROBUSTAD_INLINE Vector zero() { return _mm512_setzero_si512(); }
    static ROBUSTAD_INLINE Vector lowest() { return _mm512_set1_epi32(INT32_MIN); }
    static ROBUSTAD_INLINE Vector load(const unsigned char* at) { return _mm512_loadu_si512(at); }
    static ROBUSTAD_INLINE Vector broadcast(const unsigned char* pair) {
        std::int32_t both;
        std::memcpy(&both, pair, sizeof(both));
        return _mm512_set1_epi32(both);
    }
    static ROBUSTAD_INLINE Vector larger(Vector a, Vector b) { return _mm512_max_epi32(a, b); }
    static ROBUSTAD_INLINE std::int32_t largest(Vector a) { return _mm512_reduce_max_epi32(a); }
};

}  // namespace
}  // namespace robustad
