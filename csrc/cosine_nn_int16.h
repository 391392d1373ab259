// The coarse pass in 16-bit integers: products and sums are exact, so the only error is what
// rounding took from the vectors, about 3e-4 for 384 dimensions. A pair of products is one
// instruction on every x86 processor and twice as many multiplications a cycle as float32.
//
// `Isa` is a handful of one-line functions on vectors of int32; see the files that include this.
// Its `add_products` ends in an instruction the compiler may not move: left to itself, it starts
// the products of all queries at once and pushes the sums out of the registers.
#pragma once

#include "cosine_nn_kernels.h"

namespace robustad {
namespace {

std::int64_t int16_panel_bytes(std::int64_t padded) { return padded * kPanel * 2; }
std::int64_t int16_query_bytes(std::int64_t padded) { return padded * 2; }

constexpr float kInt16One = 32767.0f;

// The bound is taken a little longer than it is, by what float32 may have rounded away.
ROBUSTAD_INLINE double lost_length(double squares) { return square_root(squares) * 1.000001; }

double no_accumulation_error(std::int64_t) { return 0; }

// Dimensions rounded at a time; a multiple of what a panel's rows are padded to.
constexpr std::int64_t kStretch = 256;

// round(x * 32767) of `size` dimensions, zeros up to `padded`. Returns the square of what was lost.
ROBUSTAD_INLINE double round_stretch(const float* row, std::int64_t size, std::int64_t padded,
                                     std::int16_t* out) {
    typedef std::int16_t Shorts __attribute__((vector_size(kDoubles * 2)));
    constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    alignas(64) float x[kStretch];
    std::memcpy(x, row, static_cast<std::size_t>(size) * sizeof(float));
    std::memset(x + size, 0, static_cast<std::size_t>(padded - size) * sizeof(float));
    Doubles lost = {};
    for (std::int64_t i = 0; i < padded; i += kDoubles) {
        HalfFloats value = load<HalfFloats>(x + i);
        value = value == value ? value : HalfFloats{};  // a conversion of NaN is not defined
        value = value > 1.0f ? 1.0f - HalfFloats{} : value;
        value = value < -1.0f ? -1.0f - HalfFloats{} : value;
        const HalfFloats rounded = (value * kInt16One + kMagic) - kMagic;
        const Shorts shorts = __builtin_convertvector(rounded, Shorts);
        std::memcpy(out + i, &shorts, sizeof(shorts));
        const Doubles off = __builtin_convertvector(value, Doubles) -
                            __builtin_convertvector(rounded, Doubles) * (1.0 / 32767.0);
        lost += off * off;
    }
    return sum(lost);
}

void int16_pack_panel(const float* unit, std::int64_t rows, std::int64_t dim, std::int64_t padded,
                      const float*, unsigned char* panel, unsigned char*, double* errors) {
    alignas(64) std::int16_t rounded[kPanel][kStretch];
    double lost[kPanel] = {};
    for (std::int64_t at = 0; at < padded; at += kStretch) {
        const std::int64_t width = padded - at < kStretch ? padded - at : kStretch;
        const std::int64_t size = dim - at < width ? dim - at : width;
        for (std::int64_t lane = 0; lane < kPanel; ++lane)
            lost[lane] += round_stretch(unit + (lane < rows ? lane : rows - 1) * dim + at, size,
                                        width, rounded[lane]);
        for (std::int64_t i = 0; i < width; i += 2)
            for (std::int64_t lane = 0; lane < kPanel; ++lane)
                std::memcpy(panel + ((at + i) * kPanel + lane * 2) * 2, &rounded[lane][i], 4);
    }
    double worst = 0;
    for (const double squares : lost) worst = squares > worst ? squares : worst;
    const double error = lost_length(worst);
    errors[0] = error > errors[0] ? error : errors[0];
}

// [padded / 2][count][2]: the pair that one step multiplies lies side by side for all queries.
void int16_pack_queries(const float* unit, std::int64_t count, std::int64_t dim,
                        std::int64_t padded, const float*, const double* bank_errors,
                        unsigned char* block, CosineNnBounds* bounds) {
    alignas(64) std::int16_t rounded[kStretch];
    for (std::int64_t query = 0; query < count; ++query) {
        double lost = 0;
        for (std::int64_t at = 0; at < padded; at += kStretch) {
            const std::int64_t width = padded - at < kStretch ? padded - at : kStretch;
            const std::int64_t size = dim - at < width ? dim - at : width;
            lost += round_stretch(unit + query * dim + at, size, width, rounded);
            for (std::int64_t i = 0; i < width; i += 2)
                std::memcpy(block + ((at + i) / 2 * count + query) * 4, rounded + i, 4);
        }
        bounds[query] = unit_bound(lost_length(lost), bank_errors[0]);
    }
}

// `Queries` queries against `Isa::panels` panels: all sums stay in registers from the first
// dimension to the last. best: [Queries], joined with what it held.
template <typename Isa, int Queries>
ROBUSTAD_INLINE void int16_tile(const unsigned char* block, const unsigned char* panels,
                                std::int64_t pairs, typename Isa::Vector* best) {
    using Vector = typename Isa::Vector;
    constexpr int kVectors = Isa::vectors;  // of one panel
    constexpr int kColumns = Isa::panels * kVectors;
    Vector sums[Queries][kColumns];
#pragma GCC unroll 16
    for (int query = 0; query < Queries; ++query)
#pragma GCC unroll 16
        for (int column = 0; column < kColumns; ++column) sums[query][column] = Isa::zero();
    const std::int64_t panel_size = pairs * 4 * kPanel;
    for (std::int64_t pair = 0; pair < pairs; ++pair) {
        Vector rows[kColumns];
#pragma GCC unroll 16
        for (int column = 0; column < kColumns; ++column)
            rows[column] = Isa::load(panels + (column / kVectors) * panel_size + pair * 4 * kPanel +
                                     (column % kVectors) * 4 * Isa::lanes);
#pragma GCC unroll 16
        for (int query = 0; query < Queries; ++query) {
            const Vector value = Isa::broadcast(block + (pair * Queries + query) * 4);
#pragma GCC unroll 16
            for (int column = 0; column < kColumns; ++column)
                Isa::add_products(sums[query][column], value, rows[column]);
        }
    }
#pragma GCC unroll 16
    for (int query = 0; query < Queries; ++query)
#pragma GCC unroll 16
        for (int column = 0; column < kColumns; ++column)
            best[query] = Isa::larger(best[query], sums[query][column]);
}

template <typename Isa, int Queries>
void int16_coarse_block(const unsigned char* block, const unsigned char* panels_at,
                        std::int64_t panels, std::int64_t group_panels, std::int64_t padded,
                        std::int32_t* maxima, std::int64_t stride) {
    const std::int64_t pairs = padded / 2, panel_size = int16_panel_bytes(padded);
    std::int64_t group = 0;
    for (std::int64_t first = 0; first < panels; first += group_panels, ++group) {
        const std::int64_t end = first + group_panels < panels ? first + group_panels : panels;
        typename Isa::Vector best[Queries];
        for (int query = 0; query < Queries; ++query) best[query] = Isa::lowest();
        for (std::int64_t panel = first; panel < end; panel += Isa::panels)
            int16_tile<Isa, Queries>(block, panels_at + panel * panel_size, pairs, best);
        for (int query = 0; query < Queries; ++query)
            maxima[query * stride + group] = Isa::largest(best[query]);
    }
}

template <typename Isa>
void int16_coarse(const unsigned char* block, std::int64_t count, const unsigned char* panels_at,
                  std::int64_t panels, std::int64_t group_panels, std::int64_t padded, const float*,
                  std::int32_t* maxima, std::int64_t stride) {
    with_count<Isa::queries>(count, [&](auto queries) {
        int16_coarse_block<Isa, decltype(queries)::value>(block, panels_at, panels, group_panels,
                                                          padded, maxima, stride);
    });
}

template <typename Isa>
constexpr CosineNnPath int16_path(const char* name) {
    return {name,
            CosineNnLayout::kInt16,
            static_cast<double>(kInt16One) * static_cast<double>(kInt16One),
            Isa::queries,
            Isa::panels,
            no_accumulation_error,
            int16_panel_bytes,
            int16_query_bytes,
            no_bytes,
            never,
            normalise,
            no_bytes,
            nullptr,
            nullptr,
            no_bytes,
            int16_pack_panel,
            int16_pack_queries,
            nothing,
            nothing,
            int16_coarse<Isa>,
            nullptr,
            dots,
            largest,
            at_least};
}

}  // namespace
}  // namespace robustad
