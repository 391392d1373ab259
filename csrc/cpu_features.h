// What this processor and operating system can run. No torch in here.
#pragma once

namespace robustad {

struct CpuFeatures {
    bool avx2 = false;        // with FMA
    bool avx512 = false;      // F, BW, DQ and VL
    bool avx512vnni = false;  // and VNNI
    bool amx = false;         // AMX tiles of bf16, permission to use them granted, and AVX-512
};

// Asks the processor once; the first call also asks Linux for permission to use AMX tiles.
const CpuFeatures& cpu_features();

}  // namespace robustad
