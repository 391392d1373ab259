// The path for any processor. On x86-64 it uses SSE2, which all of them have.
#include "cosine_nn_int16.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace robustad {
namespace {

#if defined(__SSE2__)

struct Portable {
    using Vector = __m128i;
    static constexpr int lanes = 4, vectors = 4, panels = 1, queries = 2;
    static ROBUSTAD_INLINE Vector zero() { return _mm_setzero_si128(); }
    static ROBUSTAD_INLINE Vector lowest() { return _mm_set1_epi32(INT32_MIN); }
    static ROBUSTAD_INLINE Vector load(const unsigned char* at) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    }
    static ROBUSTAD_INLINE Vector broadcast(const unsigned char* pair) {
        std::int32_t both;
        std::memcpy(&both, pair, sizeof(both));
        return _mm_set1_epi32(both);
    }
    static ROBUSTAD_INLINE void add_products(Vector& sums, Vector a, Vector b) {
        __asm__ volatile("paddd %1, %0" : "+x"(sums) : "x"(_mm_madd_epi16(a, b)));
    }
    static ROBUSTAD_INLINE Vector larger(Vector a, Vector b) {
        const Vector above = _mm_cmpgt_epi32(a, b);
        return _mm_or_si128(_mm_and_si128(above, a), _mm_andnot_si128(above, b));
    }
    static ROBUSTAD_INLINE std::int32_t largest(Vector a) {
        a = larger(a, _mm_shuffle_epi32(a, 0x4e));
        a = larger(a, _mm_shuffle_epi32(a, 0xb1));
        return _mm_cvtsi128_si32(a);
    }
};

#else

struct Portable {
    typedef std::int32_t Vector __attribute__((vector_size(16)));
    static constexpr int lanes = 4, vectors = 4, panels = 1, queries = 2;
    static ROBUSTAD_INLINE Vector zero() { return Vector{}; }
    static ROBUSTAD_INLINE Vector lowest() { return INT32_MIN - Vector{}; }
    static ROBUSTAD_INLINE Vector load(const unsigned char* at) {
        return robustad::load<Vector>(at);
    }
    static ROBUSTAD_INLINE Vector broadcast(const unsigned char* pair) {
        std::int32_t both;
        std::memcpy(&both, pair, sizeof(both));
        return both - Vector{};
    }
    // Signed halves of each int32 by shifts; the order of the pair in memory does not matter.
    static ROBUSTAD_INLINE void add_products(Vector& sums, Vector a, Vector b) {
        sums += (a >> 16) * (b >> 16) + low(a) * low(b);
    }
    static ROBUSTAD_INLINE Vector low(Vector a) {
        typedef std::int16_t Halves __attribute__((vector_size(16)));
        Halves halves;
        std::memcpy(&halves, &a, sizeof(a));
        constexpr int first = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 0 : 1;
        return Vector{halves[first], halves[first + 2], halves[first + 4], halves[first + 6]};
    }
    static ROBUSTAD_INLINE Vector larger(Vector a, Vector b) { return a > b ? a : b; }
    static ROBUSTAD_INLINE std::int32_t largest(Vector a) {
        std::int32_t best = a[0];
        for (int lane = 1; lane < 4; ++lane) best = a[lane] > best ? a[lane] : best;
        return best;
    }
};

#endif

constexpr CosineNnPath kPath = int16_path<Portable>("portable");

}  // namespace

const CosineNnPath* const kCosineNnPortable = &kPath;

}  // namespace robustad
