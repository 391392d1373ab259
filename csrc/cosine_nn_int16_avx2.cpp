// 16-bit integers with AVX2. Compiled with those flags, called only where both are present.
#include "cosine_nn_path.h"

#if defined(__AVX2__) && defined(__FMA__)
#include "cosine_nn_avx2.h"
#include "cosine_nn_int16.h"

namespace robustad {
namespace {

struct Avx2 : Avx2Base {
    static constexpr int lanes = 8, panels = 1;
    static ROBUSTAD_INLINE Vector lowest() { return _mm256_set1_epi32(INT32_MIN); }
    static ROBUSTAD_INLINE void add_products(Vector& sums, Vector a, Vector b) {
        __asm__ volatile("vpaddd %1, %0, %0" : "+x"(sums) : "x"(_mm256_madd_epi16(a, b)));
    }
    static ROBUSTAD_INLINE Vector larger(Vector a, Vector b) { return _mm256_max_epi32(a, b); }
    static ROBUSTAD_INLINE std::int32_t largest(Vector a) {
        __m128i half = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
        half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
        half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1));
        return _mm_cvtsi128_si32(half);
    }
};

constexpr CosineNnPath kPath = int16_path<Avx2>("avx2_int16");

}  // namespace

const CosineNnPath* const kCosineNnAvx2Int16 = &kPath;

}  // namespace robustad

#else

namespace robustad {
const CosineNnPath* const kCosineNnAvx2Int16 = nullptr;
}  // namespace robustad

#endif
