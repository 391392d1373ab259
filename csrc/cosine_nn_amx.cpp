// The path for AMX tiles of bfloat16, sums in float32. Compiled with AVX-512 and AMX flags, called
// only where the processor has both and the system lets us. With ROBUSTAD_EMULATE_AMX the tile
// instructions are plain loops, for tests on other processors.
#include "cosine_nn_path.h"

#if (defined(__AMX_BF16__) && defined(__AVX512BW__)) || defined(ROBUSTAD_EMULATE_AMX)
#if !defined(ROBUSTAD_EMULATE_AMX)
#include <immintrin.h>
#endif

#include "cosine_nn_kernels.h"

namespace robustad {
namespace {

constexpr int kTile = 512;        // bfloat16 in a tile: 16 rows of 32
constexpr int kAtOnce = 32;       // queries of a block: two tiles
constexpr int kFlush = 16;        // groups whose maxima are turned round and written together

ROBUSTAD_INLINE float from_bfloat16(std::uint16_t x) {
    const std::uint32_t bits = static_cast<std::uint32_t>(x) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

typedef float Float16 __attribute__((vector_size(64)));
typedef std::int32_t Int16x __attribute__((vector_size(64)));  // sixteen int32

// A step's 32 dimensions (zeros past `size`), rounded to even. Returns the square of what was lost;
// what rounding takes from a float32 is a float32.
ROBUSTAD_INLINE double round_step(const float* row, std::int64_t size, std::uint16_t* out) {
    typedef std::uint32_t Words __attribute__((vector_size(64)));
    typedef std::uint16_t Halves __attribute__((vector_size(32)));
    alignas(64) float x[kDimPad] = {};
    const std::int64_t known = size < kDimPad ? (size > 0 ? size : 0) : kDimPad;
    std::memcpy(x, row, static_cast<std::size_t>(known) * sizeof(float));
    double lost = 0;
    for (int half = 0; half < 2; ++half) {
        const Float16 value = load<Float16>(x + half * 16);
        const Words bits = reinterpret_cast<Words>(value);
        const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        const Halves halves = __builtin_convertvector(rounded, Halves);
        std::memcpy(out + half * 16, &halves, sizeof(halves));
        const Float16 off = value - reinterpret_cast<Float16>(rounded << 16);
        lost += sum(off * off);
    }
    return lost;
}

// The tile unit flushes denormal factors to zero, which takes at most 2^-126 from each; and it adds
// in an order of its own, every addition rounded once: at most one rounding for each product.
double amx_accumulation(std::int64_t dim) { return static_cast<double>(dim) * 1.2e-7; }

std::int64_t amx_panel_bytes(std::int64_t padded) { return padded * kPanel * 2; }
std::int64_t amx_query_bytes(std::int64_t padded) { return padded * 2; }

void amx_pack_panel(const float* unit, std::int64_t rows, std::int64_t dim, std::int64_t padded,
                    const float*, unsigned char* bytes, unsigned char*, double* errors) {
    auto* panel = reinterpret_cast<std::uint16_t*>(bytes);
    double worst = 0;
    for (std::int64_t lane = 0; lane < kPanel; ++lane) {
        const float* row = unit + (lane < rows ? lane : rows - 1) * dim;
        double lost = 0;
        for (std::int64_t i = 0; i < padded; i += kDimPad)
            lost += round_step(row + i, dim - i, panel + i * kPanel + lane * kDimPad);
        worst = lost > worst ? lost : worst;
    }
    const double error = square_root(worst) * 1.000001;
    errors[0] = error > errors[0] ? error : errors[0];
}

// Two halves of 16 queries: [2][padded / 32][16 pairs][16 queries][2], the tile unit's own order
// for a right factor. Queries that are not there are zeros; the block has room for all 32.
void amx_pack_queries(const float* unit, std::int64_t count, std::int64_t dim, std::int64_t padded,
                      const float*, const double* bank_errors, unsigned char* bytes,
                      CosineNnBounds* bounds) {
    auto* block = reinterpret_cast<std::uint16_t*>(bytes);
    std::uint16_t rounded[kDimPad];
    for (std::int64_t query = 0; query < kAtOnce; ++query) {
        std::uint16_t* half = block + (query / 16) * 16 * padded + query % 16 * 2;
        double lost = 0;
        for (std::int64_t i = 0; i < padded; i += kDimPad) {
            lost += round_step(unit + query * dim + i, query < count ? dim - i : 0, rounded);
            for (std::int64_t pair = 0; pair < kDimPad / 2; ++pair)
                std::memcpy(half + (i / 2 + pair) * 32, rounded + 2 * pair, 4);
        }
        if (query < count) bounds[query] = unit_bound(square_root(lost) * 1.000001, bank_errors[0]);
    }
}

struct alignas(64) TileConfig {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t rows[16] = {};
};

#if defined(ROBUSTAD_EMULATE_AMX)
TileConfig emulated_config;

// Declares to read no more than GCC's own _tile_loadconfig declares: eight bytes of the 64.
ROBUSTAD_INLINE void load_config(const TileConfig* config) {
#if defined(__x86_64__)
    const TileConfig* from = config;
    TileConfig* to = &emulated_config;
    std::int64_t size = sizeof(TileConfig);
    __asm__ volatile("rep movsb"
                     : "+S"(from), "+D"(to), "+c"(size), "=m"(emulated_config)
                     : "m"(*reinterpret_cast<const std::int64_t*>(config)));
#else
    emulated_config = *config;
#endif
}
#else
ROBUSTAD_INLINE void load_config(const TileConfig* config) { _tile_loadconfig(config); }
#endif

void amx_enter() {
    TileConfig config;
    for (int tile = 0; tile < 8; ++tile) {
        config.row_bytes[tile] = 64;
        config.rows[tile] = 16;
    }
    // GCC up to 13 believes that _tile_loadconfig reads eight bytes, and drops stores to the rest.
    __asm__ volatile("" : : "r"(&config) : "memory");
    load_config(&config);
}

#if defined(ROBUSTAD_EMULATE_AMX)

void amx_leave() {}

ROBUSTAD_INLINE void multiply(float (&sums)[16][16], const std::uint16_t* a,
                              const std::uint16_t* b) {
    for (int row = 0; row < 16; ++row)
        for (int column = 0; column < 16; ++column)
            for (int pair = 0; pair < 16; ++pair)
                for (int i = 0; i < 2; ++i)
                    sums[row][column] += from_bfloat16(a[row * 32 + pair * 2 + i]) *
                                         from_bfloat16(b[pair * 32 + column * 2 + i]);
}

// Products of two panels with two halves of a block: [panel * 2 + half][16 rows][16 queries].
ROBUSTAD_INLINE void products(const std::uint16_t* a0, const std::uint16_t* a1,
                              const std::uint16_t* b0, const std::uint16_t* b1,
                              std::int64_t steps, float* out) {
    float emulated[4][16][16] = {};
    for (std::int64_t step = 0; step < steps; ++step) {
        multiply(emulated[0], a0 + step * kTile, b0 + step * kTile);
        multiply(emulated[1], a0 + step * kTile, b1 + step * kTile);
        multiply(emulated[2], a1 + step * kTile, b0 + step * kTile);
        multiply(emulated[3], a1 + step * kTile, b1 + step * kTile);
    }
    std::memcpy(out, emulated, sizeof(emulated));
}

#else

void amx_leave() { _tile_release(); }

ROBUSTAD_INLINE void products(const std::uint16_t* a0, const std::uint16_t* a1,
                              const std::uint16_t* b0, const std::uint16_t* b1,
                              std::int64_t steps, float* out) {
    __asm__ volatile("" : : : "memory");  // nor does it know that _tile_loadd reads memory
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (std::int64_t step = 0; step < steps; ++step) {
        _tile_loadd(4, a0 + step * kTile, 64);
        _tile_loadd(6, b0 + step * kTile, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b1 + step * kTile, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a1 + step * kTile, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, out, 64);
    _tile_stored(1, out + 256, 64);
    _tile_stored(2, out + 512, 64);
    _tile_stored(3, out + 768, 64);
}

#endif

// Half of what would fill an int32: rounded vectors may be a little longer than 1.
constexpr float kAmxOne = 536870912.0f;  // 2^29

ROBUSTAD_INLINE Float16 larger(const Float16& a, const Float16& b) { return a > b ? a : b; }

// held: [group][32 queries] -> maxima: [query][group]
ROBUSTAD_INLINE void flush(const std::int32_t (&held)[kFlush][kAtOnce], std::int64_t groups,
                           std::int64_t count, std::int32_t* maxima, std::int64_t stride) {
    for (std::int64_t query = 0; query < count; ++query) {
        std::int32_t* out = maxima + query * stride;
        if (groups == kFlush) {
            Int16x row;
            for (int group = 0; group < kFlush; ++group) row[group] = held[group][query];
            std::memcpy(out, &row, sizeof(row));
        } else {
            for (std::int64_t group = 0; group < groups; ++group) out[group] = held[group][query];
        }
    }
}

void amx_coarse(const unsigned char* block_at, std::int64_t count, const unsigned char* panels_at,
                std::int64_t panels, std::int64_t group_panels, std::int64_t padded, const float*,
                std::int32_t* maxima, std::int64_t stride) {
    const auto* block = reinterpret_cast<const std::uint16_t*>(block_at);
    const std::int64_t steps = padded / 32, panel_size = padded * kPanel;
    alignas(64) float out[4 * 256];
    alignas(64) std::int32_t held[kFlush][kAtOnce];
    std::int64_t group = 0, written = 0;
    for (std::int64_t first = 0; first < panels; first += group_panels) {
        const std::int64_t end = first + group_panels < panels ? first + group_panels : panels;
        Float16 low = -2.0f - Float16{}, high = low;
        for (std::int64_t panel = first; panel < end; panel += 2) {
            const auto* a = reinterpret_cast<const std::uint16_t*>(panels_at) + panel * panel_size;
            products(a, a + panel_size, block, block + panel_size, steps, out);
            for (int row = 0; row < 32; ++row) {
                const float* at = out + (row / 16) * 512 + (row % 16) * 16;
                low = larger(low, load<Float16>(at));
                high = larger(high, load<Float16>(at + 256));
            }
        }
        const Int16x low_units = __builtin_convertvector(low * kAmxOne, Int16x);
        const Int16x high_units = __builtin_convertvector(high * kAmxOne, Int16x);
        std::memcpy(held[group - written], &low_units, sizeof(low_units));
        std::memcpy(held[group - written] + 16, &high_units, sizeof(high_units));
        if (++group - written == kFlush) {
            flush(held, kFlush, count, maxima + written, stride);
            written = group;
        }
    }
    if (group > written) flush(held, group - written, count, maxima + written, stride);
}

constexpr CosineNnPath kPath = {"amx",
                                CosineNnLayout::kBfloat16,
                                static_cast<double>(kAmxOne),
                                kAtOnce,
                                2,
                                amx_accumulation,
                                amx_panel_bytes,
                                amx_query_bytes,
                                no_bytes,
                                never,
                                normalise,
                                no_bytes,
                                nullptr,
                                nullptr,
                                no_bytes,
                                amx_pack_panel,
                                amx_pack_queries,
                                amx_enter,
                                amx_leave,
                                amx_coarse,
                                nullptr,
                                dots,
                                largest,
                                at_least};

}  // namespace

const CosineNnPath* const kCosineNnAmx = &kPath;

}  // namespace robustad

#else

namespace robustad {
const CosineNnPath* const kCosineNnAmx = nullptr;
}  // namespace robustad

#endif
