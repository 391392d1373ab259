// The path for AVX-512 with VNNI: multiplication, pairwise sum and accumulation in one instruction.
#include "cosine_nn_path.h"

#if defined(__AVX512VNNI__)
#include "cosine_nn_avx512.h"

namespace robustad {
namespace {

struct Avx512Vnni : Avx512Base {
    static ROBUSTAD_INLINE void add_products(Vector& sums, Vector a, Vector b) {
        __asm__ volatile("vpdpwssd %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
    }
};

constexpr CosineNnPath kPath = int16_path<Avx512Vnni>("avx512vnni");

}  // namespace

const CosineNnPath* const kCosineNnAvx512Vnni = &kPath;

}  // namespace robustad

#else

namespace robustad {
const CosineNnPath* const kCosineNnAvx512Vnni = nullptr;
}  // namespace robustad

#endif
