// Compiled with -mavx512f; without it, it supplies nothing.
#include "attention_degree_kernels.h"

#if defined(__AVX512F__)

#ifdef __GNUC__  // gcc 12 finds its own header wanting
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <math.h>

namespace robustad {
namespace {

constexpr int kRows = 12;  // 24 accumulators, 2 columns and a broadcast of the 32 registers

struct Vec {
    static constexpr std::int64_t width = 16;
    __m512 v;
    Vec() : v(_mm512_setzero_ps()) {}
    Vec(__m512 x) : v(x) {}
    explicit Vec(float x) : v(_mm512_set1_ps(x)) {}
    static Vec load(const float* p) { return _mm512_loadu_ps(p); }
    void store(float* p) const { _mm512_storeu_ps(p, v); }
    float sum() const {
        float all[16], total = 0.0f;
        store(all);
        for (int i = 0; i < 16; ++i) total += all[i];
        return total;
    }
};

inline Vec operator+(Vec a, Vec b) { return _mm512_add_ps(a.v, b.v); }
inline Vec operator-(Vec a, Vec b) { return _mm512_sub_ps(a.v, b.v); }
inline Vec operator*(Vec a, Vec b) { return _mm512_mul_ps(a.v, b.v); }
inline Vec operator/(Vec a, Vec b) { return _mm512_div_ps(a.v, b.v); }
inline Vec fused(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
// Of a NaN and a number these give the second argument.
inline Vec maximum(Vec a, Vec b) { return _mm512_max_ps(a.v, b.v); }
inline Vec minimum(Vec a, Vec b) { return _mm512_min_ps(a.v, b.v); }
inline Vec nearest(Vec a) {
    return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Vec times_power_of_two(Vec a, Vec n) { return _mm512_scalef_ps(a.v, n.v); }
inline Vec where_at_least(Vec a, Vec b, Vec value) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ), value.v);
}

#include "attention_degree_body.h"

}  // namespace

const AttentionKernels* attention_kernels_avx512() { return table("avx512"); }

}  // namespace robustad

#else

namespace robustad {
const AttentionKernels* attention_kernels_avx512() { return nullptr; }
}  // namespace robustad

#endif
