// Compiled with -mavx2 -mfma; without them it supplies nothing.
#include "attention_degree_kernels.h"

#if defined(__AVX2__) && defined(__FMA__)

#include <immintrin.h>

#include <math.h>

namespace robustad {
namespace {

constexpr int kRows = 6;  // 12 accumulators, 2 columns and a broadcast of the 16 registers

struct Vec {
    static constexpr std::int64_t width = 8;
    __m256 v;
    Vec() : v(_mm256_setzero_ps()) {}
    Vec(__m256 x) : v(x) {}
    explicit Vec(float x) : v(_mm256_set1_ps(x)) {}
    static Vec load(const float* p) { return _mm256_loadu_ps(p); }
    void store(float* p) const { _mm256_storeu_ps(p, v); }
    float sum() const {
        __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
    }
};

inline Vec operator+(Vec a, Vec b) { return _mm256_add_ps(a.v, b.v); }
inline Vec operator-(Vec a, Vec b) { return _mm256_sub_ps(a.v, b.v); }
inline Vec operator*(Vec a, Vec b) { return _mm256_mul_ps(a.v, b.v); }
inline Vec operator/(Vec a, Vec b) { return _mm256_div_ps(a.v, b.v); }
inline Vec fused(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
// Of a NaN and a number these give the second argument.
inline Vec maximum(Vec a, Vec b) { return _mm256_max_ps(a.v, b.v); }
inline Vec minimum(Vec a, Vec b) { return _mm256_min_ps(a.v, b.v); }
inline Vec nearest(Vec a) {
    return _mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Vec times_power_of_two(Vec a, Vec n) {
    const __m256i bits = _mm256_slli_epi32(
        _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(a.v, _mm256_castsi256_ps(bits));
}
inline Vec where_at_least(Vec a, Vec b, Vec value) {
    return _mm256_and_ps(_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ), value.v);
}

#include "attention_degree_body.h"

}  // namespace

const AttentionKernels* attention_kernels_avx2() { return table("avx2"); }

}  // namespace robustad

#else

namespace robustad {
const AttentionKernels* attention_kernels_avx2() { return nullptr; }
}  // namespace robustad

#endif
