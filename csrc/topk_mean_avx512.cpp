#include "topk_mean.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

#include <immintrin.h>

#include "topk_mean_impl.h"

namespace robustad {
namespace {

struct Avx512 {
    static constexpr int kWidth = 16;
    using Floats = __m512;
    __m512i lanes;

    static Floats floats(const float* scores) { return _mm512_loadu_ps(scores); }
    static Floats floats(const Bf16* scores) {
        const __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(scores));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
    }
    static Floats floats(const F16* scores) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scores)));
    }
    static Floats all_floats(float value) { return _mm512_set1_ps(value); }
    // The first where the second is NaN.
    static Floats larger(Floats a, Floats b) { return _mm512_max_ps(b, a); }
    // -infinity where a weight is not above 0.
    static Floats where_positive(Floats values, const float* weights) {
        return _mm512_mask_mov_ps(_mm512_set1_ps(-__builtin_inff()), positive_mask(weights),
                                  values);
    }
    static __mmask16 positive_mask(const float* weights) {
        return _mm512_cmp_ps_mask(_mm512_loadu_ps(weights), _mm512_setzero_ps(), _CMP_GT_OQ);
    }
    // Bits of the lanes above a bound, and of NaN.
    static unsigned not_at_most(Floats values, Floats bound) {
        return _mm512_cmp_ps_mask(values, bound, _CMP_NLE_UQ);
    }
    static unsigned positive(const float* weights) { return positive_mask(weights); }
    // Bits of `whole` above a bound and for NaN, of `tied` where they are equal, zero below.
    static __m512i chosen(Floats values, Floats bound, std::int32_t whole, std::int32_t tied) {
        const __mmask16 above = _mm512_cmp_ps_mask(values, bound, _CMP_NLE_UQ);
        const __mmask16 equal = _mm512_cmp_ps_mask(values, bound, _CMP_EQ_OQ);
        return _mm512_mask_mov_epi32(_mm512_maskz_set1_epi32(equal, tied), above,
                                     _mm512_set1_epi32(whole));
    }
    static void choose(Floats values, Floats bound, float whole, float tied, float* out) {
        _mm512_storeu_si512(out, chosen(values, bound, bits_of(whole), bits_of(tied)));
    }
    template <class T>
    static void choose(Floats values, Floats bound, T whole, T tied, T* out) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                            _mm512_cvtepi32_epi16(chosen(values, bound, whole.bits, tied.bits)));
    }

    static Avx512 of_floats(__m512 values) {
        const __mmask16 nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
        const __m512i bits = _mm512_castps_si512(_mm512_add_ps(values, _mm512_setzero_ps()));
        const __m512i most = _mm512_set1_epi32(kNan);
        const __m512i flip = _mm512_and_si512(_mm512_srai_epi32(bits, 31), most);
        return {_mm512_mask_mov_epi32(_mm512_xor_si512(bits, flip), nan, most)};
    }
    static Avx512 load(const std::int32_t* from) { return {_mm512_loadu_si512(from)}; }
    static Avx512 all(std::int32_t key) { return {_mm512_set1_epi32(key)}; }
    static Avx512 max(Avx512 a, Avx512 b) { return {_mm512_max_epi32(a.lanes, b.lanes)}; }
    static Avx512 min(Avx512 a, Avx512 b) { return {_mm512_min_epi32(a.lanes, b.lanes)}; }
    // Keys above a bound, kNan for the others.
    Avx512 or_nan_below(Avx512 bound) const {
        const __mmask16 above = _mm512_cmpgt_epi32_mask(lanes, bound.lanes);
        return {_mm512_mask_mov_epi32(_mm512_set1_epi32(kNan), above, lanes)};
    }
    void store(std::int32_t* out) const { _mm512_storeu_si512(out, lanes); }
    unsigned above(Avx512 bound) const { return _mm512_cmpgt_epi32_mask(lanes, bound.lanes); }
    int how_many_above(Avx512 bound) const { return __builtin_popcount(above(bound)); }
    std::int32_t* append(std::int32_t* out, unsigned mask) const {
        // compressed in a register: compressing stores are slow on some CPUs
        const __mmask16 chosen = static_cast<__mmask16>(mask);
        _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(chosen, lanes));
        return out + __builtin_popcount(mask);
    }
    struct Sums {
        __m512d of[2];
        double total() const {
            double parts[8], sum = 0.0;
            _mm512_storeu_pd(parts, _mm512_add_pd(of[0], of[1]));
            for (double part : parts) sum += part;
            return sum;
        }
    };
    void add_above(Avx512 bound, Sums& sums) const {
        const __m512i flip = _mm512_and_si512(_mm512_srai_epi32(lanes, 31), _mm512_set1_epi32(kNan));
        const __mmask16 above = _mm512_cmpgt_epi32_mask(lanes, bound.lanes);
        const __m512 values =
            _mm512_castsi512_ps(_mm512_maskz_xor_epi32(above, lanes, flip));
        sums.of[0] = _mm512_add_pd(sums.of[0], _mm512_cvtps_pd(_mm512_castps512_ps256(values)));
        sums.of[1] =
            _mm512_add_pd(sums.of[1], _mm512_cvtps_pd(_mm512_extractf32x8_ps(values, 1)));
    }
};

}  // namespace

const TopkMeanPath* topk_mean_avx512() {
    static constexpr TopkMeanPath path = path_of<Avx512>();
    return &path;
}

}  // namespace robustad

#else

namespace robustad {
const TopkMeanPath* topk_mean_avx512() { return nullptr; }
}  // namespace robustad

#endif
