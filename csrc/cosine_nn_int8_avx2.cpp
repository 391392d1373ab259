// 8-bit integers with AVX2 and FMA. Compiled with those flags, called only where both are present.
#include "cosine_nn_path.h"

#if defined(__AVX2__) && defined(__FMA__)
#include "cosine_nn_avx2.h"
#include "cosine_nn_int8.h"

namespace robustad {
namespace {

struct Avx2 : Avx2Base {
    using Floats = __m256;
    static ROBUSTAD_INLINE Floats load_floats(const unsigned char* at) {
        return _mm256_loadu_ps(reinterpret_cast<const float*>(at));
    }
    // As in cosine_nn_int16_avx2.cpp, an addition that the compiler leaves where it is.
    static ROBUSTAD_INLINE void add_products(Vector& sums, Vector query, Vector rows) {
        __asm__ volatile("vpaddw %1, %0, %0" : "+x"(sums) : "x"(_mm256_maddubs_epi16(query, rows)));
    }
    static ROBUSTAD_INLINE Vector add_halves(Vector sums, Vector halves) {
        return _mm256_add_epi32(sums, _mm256_madd_epi16(halves, _mm256_set1_epi16(1)));
    }
    static ROBUSTAD_INLINE Floats same(float x) { return _mm256_set1_ps(x); }
    static ROBUSTAD_INLINE Floats floats(Vector a) { return _mm256_cvtepi32_ps(a); }
    static ROBUSTAD_INLINE Vector ints(Floats a) { return _mm256_cvttps_epi32(a); }
    static ROBUSTAD_INLINE Floats add_product(Floats a, Floats b, Floats c) {
        return _mm256_fmadd_ps(a, b, c);
    }
    static ROBUSTAD_INLINE Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
    static ROBUSTAD_INLINE float largest(Floats a) {
        __m128 half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        half = _mm_max_ps(half, _mm_movehl_ps(half, half));
        return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
    }
};

constexpr CosineNnPath kPath = int8_path<Avx2>("avx2");

}  // namespace

const CosineNnPath* const kCosineNnAvx2 = &kPath;

}  // namespace robustad

#else

namespace robustad {
const CosineNnPath* const kCosineNnAvx2 = nullptr;
}  // namespace robustad

#endif
