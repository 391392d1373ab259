#include "cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace robustad {
namespace {

#if defined(__x86_64__)

// AMX is off until a process asks: its state would double what a context switch saves.
bool request_amx() {
#if defined(__linux__) && defined(SYS_arch_prctl)
    constexpr int kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}

unsigned long long saved_state() {
    unsigned low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<unsigned long long>(high) << 32) | low;
}

CpuFeatures detect() {
    CpuFeatures found;
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
    const bool fma = (c >> 12) & 1, osxsave = (c >> 27) & 1, avx = (c >> 28) & 1;
    if (!osxsave || !avx) return found;
    const unsigned long long state = saved_state();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
    const auto has = [](unsigned word, int bit) { return ((word >> bit) & 1u) != 0; };
    const bool ymm = (state & 0x6) == 0x6;            // the system saves SSE and AVX registers
    const bool zmm = ymm && (state & 0xe0) == 0xe0;   // and the AVX-512 ones
    const bool tiles = (state & 0x60000) == 0x60000;  // and the tiles
    found.avx2 = ymm && fma && has(b, 5);
    found.avx512 = found.avx2 && zmm && has(b, 16) && has(b, 17) && has(b, 30) && has(b, 31);
    found.avx512vnni = found.avx512 && has(c, 11);
    found.amx = found.avx512 && tiles && has(d, 22) && has(d, 24) && request_amx();
    return found;
}

#else

CpuFeatures detect() { return {}; }

#endif

}  // namespace

const CpuFeatures& cpu_features() {
    static const CpuFeatures features = detect();
    return features;
}

}  // namespace robustad
