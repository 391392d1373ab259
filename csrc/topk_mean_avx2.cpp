#include "topk_mean.h"

#if defined(__AVX2__) && defined(__F16C__)

#include <immintrin.h>

#include "topk_mean_impl.h"

namespace robustad {
namespace {

// Lanes of a mask's set bits, a byte each, from the lowest.
struct Lanes {
    std::uint64_t of[256];
    constexpr Lanes() : of() {
        for (int mask = 0; mask < 256; ++mask) {
            int place = 0;
            for (std::uint64_t lane = 0; lane < 8; ++lane)
                if (mask >> lane & 1) of[mask] |= lane << (8 * place++);
        }
    }
};
constexpr Lanes kLanes;

struct Avx2 {
    static constexpr int kWidth = 8;
    using Floats = __m256;
    __m256i lanes;

    static Floats floats(const float* scores) { return _mm256_loadu_ps(scores); }
    static Floats floats(const Bf16* scores) {
        const __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(scores));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow), 16));
    }
    static Floats floats(const F16* scores) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scores)));
    }
    static Floats all_floats(float value) { return _mm256_set1_ps(value); }
    // The first where the second is NaN.
    static Floats larger(Floats a, Floats b) { return _mm256_max_ps(b, a); }
    // -infinity where a weight is not above 0.
    static Floats where_positive(Floats values, const float* weights) {
        const __m256 positive =
            _mm256_cmp_ps(_mm256_loadu_ps(weights), _mm256_setzero_ps(), _CMP_GT_OQ);
        return _mm256_blendv_ps(_mm256_set1_ps(-__builtin_inff()), values, positive);
    }
    // Bits of the lanes above a bound, and of NaN.
    static unsigned not_at_most(Floats values, Floats bound) {
        return static_cast<unsigned>(
            _mm256_movemask_ps(_mm256_cmp_ps(values, bound, _CMP_NLE_UQ)));
    }
    static unsigned positive(const float* weights) {
        return static_cast<unsigned>(_mm256_movemask_ps(
            _mm256_cmp_ps(_mm256_loadu_ps(weights), _mm256_setzero_ps(), _CMP_GT_OQ)));
    }
    // Bits of `whole` above a bound and for NaN, of `tied` where they are equal, zero below.
    static __m256i chosen(Floats values, Floats bound, std::int32_t whole, std::int32_t tied) {
        const __m256 above = _mm256_cmp_ps(values, bound, _CMP_NLE_UQ);
        const __m256 equal = _mm256_cmp_ps(values, bound, _CMP_EQ_OQ);
        return _mm256_or_si256(
            _mm256_and_si256(_mm256_castps_si256(above), _mm256_set1_epi32(whole)),
            _mm256_and_si256(_mm256_castps_si256(equal), _mm256_set1_epi32(tied)));
    }
    static void choose(Floats values, Floats bound, float whole, float tied, float* out) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                            chosen(values, bound, bits_of(whole), bits_of(tied)));
    }
    template <class T>
    static void choose(Floats values, Floats bound, T whole, T tied, T* out) {
        const __m256i wide = chosen(values, bound, whole.bits, tied.bits);
        const __m128i packed =
            _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), packed);
    }

    static Avx2 of_floats(__m256 values) {
        const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
        const __m256i bits = _mm256_castps_si256(_mm256_add_ps(values, _mm256_setzero_ps()));
        const __m256i most = _mm256_set1_epi32(kNan);
        const __m256i flip = _mm256_and_si256(_mm256_srai_epi32(bits, 31), most);
        return {_mm256_blendv_epi8(_mm256_xor_si256(bits, flip), most, nan)};
    }
    static Avx2 load(const std::int32_t* from) {
        return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))};
    }
    static Avx2 all(std::int32_t key) { return {_mm256_set1_epi32(key)}; }
    static Avx2 max(Avx2 a, Avx2 b) { return {_mm256_max_epi32(a.lanes, b.lanes)}; }
    static Avx2 min(Avx2 a, Avx2 b) { return {_mm256_min_epi32(a.lanes, b.lanes)}; }
    // Keys above a bound, kNan for the others.
    Avx2 or_nan_below(Avx2 bound) const {
        const __m256i above = _mm256_cmpgt_epi32(lanes, bound.lanes);
        return {_mm256_blendv_epi8(_mm256_set1_epi32(kNan), lanes, above)};
    }
    void store(std::int32_t* out) const {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), lanes);
    }
    unsigned above(Avx2 bound) const {
        const __m256i greater = _mm256_cmpgt_epi32(lanes, bound.lanes);
        return static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(greater)));
    }
    int how_many_above(Avx2 bound) const { return __builtin_popcount(above(bound)); }
    std::int32_t* append(std::int32_t* out, unsigned mask) const {
        const __m128i places = _mm_cvtsi64_si128(static_cast<long long>(kLanes.of[mask]));
        Avx2{_mm256_permutevar8x32_epi32(lanes, _mm256_cvtepu8_epi32(places))}.store(out);
        return out + __builtin_popcount(mask);
    }
    struct Sums {
        __m256d of[2];
        double total() const {
            double parts[4];
            _mm256_storeu_pd(parts, _mm256_add_pd(of[0], of[1]));
            return (parts[0] + parts[1]) + (parts[2] + parts[3]);
        }
    };
    void add_above(Avx2 bound, Sums& sums) const {
        const __m256i flip = _mm256_and_si256(_mm256_srai_epi32(lanes, 31), _mm256_set1_epi32(kNan));
        const __m256i above = _mm256_cmpgt_epi32(lanes, bound.lanes);
        const __m256 values =
            _mm256_castsi256_ps(_mm256_and_si256(_mm256_xor_si256(lanes, flip), above));
        sums.of[0] = _mm256_add_pd(sums.of[0], _mm256_cvtps_pd(_mm256_castps256_ps128(values)));
        sums.of[1] = _mm256_add_pd(sums.of[1], _mm256_cvtps_pd(_mm256_extractf128_ps(values, 1)));
    }
};

}  // namespace

const TopkMeanPath* topk_mean_avx2() {
    static constexpr TopkMeanPath path = path_of<Avx2>();
    return &path;
}

}  // namespace robustad

#else

namespace robustad {
const TopkMeanPath* topk_mean_avx2() { return nullptr; }
}  // namespace robustad

#endif
