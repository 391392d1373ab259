// The optimiser must not drop stores that only the tile unit reads. It tries at -O2 without
// sanitizers, so tests/ops/test_cosine_nn_build.py runs this as well.
#include <cstdio>

#define kCosineNnAmx kCosineNnAmxEmulated
#define ROBUSTAD_EMULATE_AMX
#include "../cosine_nn_amx.cpp"
#undef kCosineNnAmx

int main() {
    robustad::emulated_config = {};
    robustad::kCosineNnAmxEmulated->enter();
    const robustad::TileConfig& config = robustad::emulated_config;
    bool right = config.palette == 1 && config.start_row == 0;
    for (int tile = 0; tile < 8; ++tile)
        right = right && config.row_bytes[tile] == 64 && config.rows[tile] == 16;
    std::puts(right ? "amx: tiles configured" : "amx: tiles not configured");
    return right ? 0 : 1;
}
