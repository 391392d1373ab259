// What the two AVX2 paths of cosine_nn have in common.
#pragma once

#include <immintrin.h>

#include "cosine_nn_kernels.h"

namespace robustad {
namespace {

// 12 sums, two vectors of bank rows, one of a query and a product: all 16 registers.
struct Avx2Base {
    using Vector = __m256i;
    static constexpr int vectors = 2, queries = 6;  // vectors: of a panel
    static ROBUSTAD_INLINE Vector zero() { return _mm256_setzero_si256(); }
    static ROBUSTAD_INLINE Vector load(const unsigned char* at) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
    }
    static ROBUSTAD_INLINE Vector broadcast(const unsigned char* at) {
        std::int32_t four_bytes;
        std::memcpy(&four_bytes, at, sizeof(four_bytes));
        return _mm256_set1_epi32(four_bytes);
    }
};

}  // namespace
}  // namespace robustad
