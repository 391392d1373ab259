// Products of 8-bit integers, and the path made of them; see cosine_nn_int8_levels.h.
//
// `Isa` is a handful of one-line functions, as in cosine_nn_int16.h.
#pragma once

#include "cosine_nn_int8_pack.h"

namespace robustad {
namespace {

// Sums of one panel for `Queries` queries whose steps lie `stride` bytes apart.
template <typename Isa, int Queries>
ROBUSTAD_INLINE void int8_sums(const unsigned char* value_at, std::int64_t stride,
                               const unsigned char* panel, std::int64_t size,
                               typename Isa::Vector (&sums)[Queries][Isa::vectors]) {
    using Vector = typename Isa::Vector;
    constexpr int kColumns = Isa::vectors;
    constexpr int kBytes = static_cast<int>(sizeof(Vector));
#pragma GCC unroll 16
    for (int query = 0; query < Queries; ++query)
#pragma GCC unroll 16
        for (int column = 0; column < kColumns; ++column) sums[query][column] = Isa::zero();
    const unsigned char* at = panel + kNumbers;
    for (std::int64_t chunk = 0; chunk < size; chunk += kChunk) {
        Vector halves[Queries][kColumns];
#pragma GCC unroll 16
        for (int column = 0; column < kColumns; ++column) {
            const Vector begin = Isa::load(at + column * kBytes);
#pragma GCC unroll 16
            for (int query = 0; query < Queries; ++query) halves[query][column] = begin;
        }
        at += 64;
        const unsigned char* end = at + chunk_size(chunk, size) * kPanel;
        for (; at < end; at += kStep * kPanel, value_at += stride) {
            Vector rows[kColumns];
#pragma GCC unroll 16
            for (int column = 0; column < kColumns; ++column)
                rows[column] = Isa::load(at + column * kBytes);
#pragma GCC unroll 16
            for (int query = 0; query < Queries; ++query) {
                const Vector value = Isa::broadcast(value_at + query * kStep);
#pragma GCC unroll 16
                for (int column = 0; column < kColumns; ++column)
                    Isa::add_products(halves[query][column], value, rows[column]);
            }
        }
#pragma GCC unroll 16
        for (int query = 0; query < Queries; ++query)
#pragma GCC unroll 16
            for (int column = 0; column < kColumns; ++column)
                sums[query][column] = Isa::add_halves(sums[query][column], halves[query][column]);
    }
}

// Of some rows of a panel.
template <typename Isa>
struct RowNumbers {
    ROBUSTAD_INLINE explicit RowNumbers(const unsigned char* at)
        : base(Isa::load_floats(at + kBase)), reach(Isa::load_floats(at + kReach)),
          unit(Isa::load_floats(at + kUnit)) {}

    // Their scores for a query, but for its own term.
    ROBUSTAD_INLINE typename Isa::Floats scores(typename Isa::Vector sums,
                                                typename Isa::Floats query_unit,
                                                typename Isa::Floats query_reach) const {
        const auto bound = Isa::add_product(reach, query_reach, base);
        return Isa::add_product(Isa::floats(sums) * unit, query_unit, bound);
    }

    typename Isa::Floats base, reach, unit;
};

template <typename Isa>
void int8_panel_scores(const unsigned char* block, std::int64_t count, std::int64_t query,
                       const unsigned char* panel, std::int64_t padded, std::int32_t* scores) {
    QueryNumbers numbers;
    std::memcpy(&numbers,
                block + count * (padded + head_size(padded)) +
                    query * static_cast<std::int64_t>(sizeof(numbers)),
                sizeof(numbers));
    typename Isa::Vector sums[1][Isa::vectors];
    int8_sums<Isa, 1>(block + query * kStep, count * kStep, panel, padded, sums);
    const typename Isa::Floats unit = Isa::same(numbers.unit), reach = Isa::same(numbers.reach);
    for (int column = 0; column < Isa::vectors; ++column) {
        const int bytes = static_cast<int>(sizeof(unit));
        const RowNumbers<Isa> rows(panel + column * bytes);
        const typename Isa::Vector score =
            Isa::ints(rows.scores(sums[0][column], unit, reach) + Isa::same(numbers.own));
        std::memcpy(scores + column * bytes / 4, &score, sizeof(score));
    }
}

// The largest of a panel's scores joins what `best` held.
template <typename Isa, int Queries>
ROBUSTAD_INLINE void int8_join(const unsigned char* steps, const unsigned char* panel,
                               std::int64_t size, const typename Isa::Floats* units,
                               const typename Isa::Floats* reaches, typename Isa::Floats* best) {
    typename Isa::Vector sums[Queries][Isa::vectors];
    int8_sums<Isa, Queries>(steps, Queries * kStep, panel, size, sums);
#pragma GCC unroll 16
    for (int column = 0; column < Isa::vectors; ++column) {
        const RowNumbers<Isa> rows(panel + column * static_cast<int>(sizeof(units[0])));
#pragma GCC unroll 16
        for (int query = 0; query < Queries; ++query)
            best[query] = Isa::larger(
                best[query], rows.scores(sums[query][column], units[query], reaches[query]));
    }
}

template <typename Isa, int Queries>
void int8_coarse_block(const unsigned char* block, const unsigned char* panels_at,
                       std::int64_t panels, std::int64_t group_panels, std::int64_t padded,
                       const float* frame, std::int32_t* maxima, std::int64_t stride) {
    const bool by_heads = int8_by_heads(padded, frame);
    const std::int64_t size = by_heads ? head_size(padded) : padded;
    const std::int64_t panel_bytes = level_bytes(size);
    QueryNumbers numbers[Queries];
    std::memcpy(numbers, block + (padded + head_size(padded)) * Queries, sizeof(numbers));
    const unsigned char* steps = by_heads ? block + padded * Queries : block;
    typename Isa::Floats units[Queries], reaches[Queries], best[Queries];
    for (int query = 0; query < Queries; ++query) {
        units[query] = Isa::same(by_heads ? numbers[query].head_unit : numbers[query].unit);
        reaches[query] = Isa::same(by_heads ? numbers[query].head_reach : numbers[query].reach);
    }
    std::int64_t group = 0;
    for (std::int64_t first = 0; first < panels; first += group_panels, ++group) {
        const std::int64_t end = first + group_panels < panels ? first + group_panels : panels;
        for (int query = 0; query < Queries; ++query) best[query] = Isa::same(-1e9f);
        for (std::int64_t panel = first; panel < end; ++panel)
            int8_join<Isa, Queries>(steps, panels_at + panel * panel_bytes, size, units, reaches,
                                    best);
        for (int query = 0; query < Queries; ++query)
            maxima[query * stride + group] =
                static_cast<std::int32_t>(Isa::largest(best[query]) + numbers[query].own);
    }
}

template <typename Isa>
void int8_coarse(const unsigned char* block, std::int64_t count, const unsigned char* panels_at,
                 std::int64_t panels, std::int64_t group_panels, std::int64_t padded,
                 const float* frame, std::int32_t* maxima, std::int64_t stride) {
    with_count<Isa::queries>(count, [&](auto queries) {
        int8_coarse_block<Isa, decltype(queries)::value>(block, panels_at, panels, group_panels,
                                                          padded, frame, maxima, stride);
    });
}

template <typename Isa>
constexpr CosineNnPath int8_path(const char* name) {
    return {name,
            CosineNnLayout::kInt8,
            static_cast<double>(kInt8One),
            Isa::queries,
            1,
            int8_accumulation,
            int8_panel_bytes,
            int8_query_bytes,
            int8_head_bytes,
            int8_by_heads,
            normalise,
            int8_frame_floats,
            int8_learn,
            int8_survey,
            int8_learnt_floats,
            int8_pack_panel,
            int8_pack_queries,
            nothing,
            nothing,
            int8_coarse<Isa>,
            int8_panel_scores<Isa>,
            dots,
            largest,
            at_least};
}

}  // namespace
}  // namespace robustad
