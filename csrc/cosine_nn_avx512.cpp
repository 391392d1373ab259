// The path for AVX-512 (F, BW, DQ, VL). Compiled with those flags, called only where present.
#include "cosine_nn_path.h"

#if defined(__AVX512BW__)
#include "cosine_nn_avx512.h"

namespace robustad {
namespace {

struct Avx512 : Avx512Base {
    static ROBUSTAD_INLINE void add_products(Vector& sums, Vector a, Vector b) {
        __asm__ volatile("vpaddd %1, %0, %0" : "+v"(sums) : "v"(_mm512_madd_epi16(a, b)));
    }
};

constexpr CosineNnPath kPath = int16_path<Avx512>("avx512");

}  // namespace

const CosineNnPath* const kCosineNnAvx512 = &kPath;

}  // namespace robustad

#else

namespace robustad {
const CosineNnPath* const kCosineNnAvx512 = nullptr;
}  // namespace robustad

#endif
