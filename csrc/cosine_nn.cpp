#include "cosine_nn.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

#include "cosine_nn_path.h"
#include "cosine_nn_refine.h"
#include "cpu_features.h"
#include "pool.h"

namespace robustad {
namespace {

struct Header {
    char magic[8];
    std::int32_t version;
    std::int32_t layout;
    std::int64_t rows;
    std::int64_t dim;
    double errors[2];  // the longest that rounding took from a row, and from a row's head
};

constexpr char kMagic[8] = {'r', 'o', 'b', 'u', 's', 't', 'n', 'n'};
constexpr std::int32_t kVersion = 2;
constexpr std::int64_t kLine = 64, kHeader = 2 * kLine;
static_assert(sizeof(Header) <= kHeader, "the header must fit");

// Group maxima and copies of queries held at once; more queries than fit are done in turns.
constexpr std::int64_t kTurnBytes = std::int64_t{32} << 20;
// Of the bank, what one task streams through for all its queries: stays in a core's own cache.
constexpr std::int64_t kTileBytes = std::int64_t{192} << 10;
// Below this many multiplications waking other threads costs more than it saves.
constexpr double kSerial = 1.5e6;

std::int64_t round_up(std::int64_t value, std::int64_t step) {
    return (value + step - 1) / step * step;
}

// Small groups mean fewer rows to refine, large ones fewer maxima to write and read.
std::int64_t panels_of_group(const CosineNnPath& path, std::int64_t rows) {
    const std::int64_t scored = path.panel_scores == nullptr ? 1 : 4;  // once more, for less
    const std::int64_t wanted = rows <= 8192 * scored ? 1 : rows <= 65536 * scored ? 2 : 4;
    return std::max(wanted, path.least_panels);
}

// A packed bank is a header, the path's frame, panels that begin on a cache line, and their heads.
std::int64_t panels_offset(const CosineNnPath& path, std::int64_t padded) {
    return kHeader + round_up(path.frame_floats(padded) * std::int64_t{sizeof(float)}, kLine);
}

const Header& header_of(const unsigned char* packed) {
    return *reinterpret_cast<const Header*>(packed);
}

}  // namespace

std::vector<const CosineNnPath*> cosine_nn_paths() {
    std::vector<const CosineNnPath*> paths;
    const CpuFeatures& cpu = cpu_features();
    const std::pair<bool, const CosineNnPath*> all[] = {{cpu.amx, kCosineNnAmx},
                                                        {cpu.avx512vnni, kCosineNnAvx512Vnni},
                                                        {cpu.avx512, kCosineNnAvx512},
                                                        {cpu.avx2, kCosineNnAvx2},
                                                        {cpu.avx2, kCosineNnAvx2Int16},
                                                        {true, kCosineNnPortable}};
    for (const auto& [runs, path] : all)
        if (runs && path != nullptr) paths.push_back(path);
    return paths;
}

const CosineNnPath& cosine_nn_path(const std::string& name) {
    static const std::vector<const CosineNnPath*> paths = cosine_nn_paths();
    if (name.empty()) return *paths.front();
    std::string known;
    for (const CosineNnPath* path : paths) {
        if (name == path->name) return *path;
        known += (known.empty() ? "" : ", ") + std::string(path->name);
    }
    throw std::invalid_argument("expected a path this processor has (" + known + "), got '" +
                                name + "'");
}

std::size_t cosine_nn_packed_bytes(const CosineNnPath& path, std::int64_t rows, std::int64_t dim) {
    const std::int64_t padded = round_up(dim, kDimPad);
    return static_cast<std::size_t>(panels_offset(path, padded) +
                                    round_up(rows, kRowPad) / kPanel *
                                        (path.panel_bytes(padded) + path.head_bytes(padded)));
}

bool cosine_nn_normalise(const CosineNnPath& path, const float* vectors, std::int64_t rows,
                         std::int64_t dim, float* unit, int threads) {
    bool finite = true;
#pragma omp parallel for schedule(static) reduction(&& : finite) num_threads(threads) \
    if (static_cast<double>(rows) * static_cast<double>(dim) > kSerial)
    for (std::int64_t row = 0; row < rows; ++row)
        finite = path.normalise(vectors + row * dim, dim, unit + row * dim) && finite;
    return finite;
}

namespace {

// The mean row, then what the path asks of all rows; the same for any number of threads.
void survey(const CosineNnPath& path, const float* unit, std::int64_t rows, std::int64_t dim,
            std::int64_t padded, float* frame, int threads) {
    const std::int64_t size = path.frame_floats(padded);
    constexpr std::int64_t kColumns = 64, kRows = 512;
#pragma omp parallel for schedule(static) num_threads(threads) \
    if (static_cast<double>(rows) * static_cast<double>(dim) > kSerial)
    for (std::int64_t column = 0; column < dim; column += kColumns) {
        const std::int64_t width = std::min(kColumns, dim - column);
        double sums[kColumns] = {};
        for (std::int64_t row = 0; row < rows; ++row)
            for (std::int64_t i = 0; i < width; ++i) sums[i] += unit[row * dim + column + i];
        for (std::int64_t i = 0; i < width; ++i)
            frame[column + i] = static_cast<float>(sums[i] / static_cast<double>(rows));
    }
    path.learn(unit, rows, dim, padded, frame);
    const std::int64_t learnt = path.learnt_floats(padded);
#pragma omp parallel num_threads(threads) \
    if (static_cast<double>(rows) * static_cast<double>(dim) > kSerial)
    {
        std::vector<float> own(frame, frame + size);
#pragma omp for schedule(static)
        for (std::int64_t row = 0; row < rows; row += kRows)
            path.survey(unit + row * dim, std::min(kRows, rows - row), dim, padded, own.data());
#pragma omp critical
        for (std::int64_t i = learnt; i < size; ++i)
            frame[i] = std::max(frame[i], own[static_cast<std::size_t>(i)]);
    }
}

}  // namespace

void cosine_nn_pack(const CosineNnPath& path, const float* unit, std::int64_t rows,
                    std::int64_t dim, unsigned char* packed, int threads) {
    const std::int64_t padded = round_up(dim, kDimPad);
    const std::int64_t panels = round_up(rows, kRowPad) / kPanel;
    auto* frame = reinterpret_cast<float*>(packed + kHeader);
    std::memset(packed, 0, static_cast<std::size_t>(panels_offset(path, padded)));
    if (path.survey != nullptr) survey(path, unit, rows, dim, padded, frame, threads);
    unsigned char* at = packed + panels_offset(path, padded);
    unsigned char* heads_at = at + panels * path.panel_bytes(padded);
    double error = 0, head_error = 0;
#pragma omp parallel for schedule(static) reduction(max : error, head_error) num_threads(threads) \
    if (static_cast<double>(rows) * static_cast<double>(dim) > kSerial)
    for (std::int64_t panel = 0; panel < panels; ++panel) {
        // A panel past the end repeats the last row: zeros could be a group's maximum.
        const std::int64_t first = std::min(panel * kPanel, rows - 1);
        const std::int64_t count = std::min(kPanel, rows - first);
        double errors[2] = {error, head_error};
        path.pack_panel(unit + first * dim, count, dim, padded, frame,
                        at + panel * path.panel_bytes(padded),
                        heads_at + panel * path.head_bytes(padded), errors);
        error = errors[0];
        head_error = errors[1];
    }
    Header header{};
    std::memcpy(header.magic, kMagic, sizeof(kMagic));
    header.version = kVersion;
    header.layout = static_cast<std::int32_t>(path.layout);
    header.rows = rows;
    header.dim = dim;
    header.errors[0] = error;
    header.errors[1] = head_error;
    std::memcpy(packed, &header, sizeof(header));
}

bool cosine_nn_packed_for(const CosineNnPath& path, const unsigned char* packed, std::size_t bytes,
                          std::int64_t rows, std::int64_t dim) {
    if (bytes < cosine_nn_packed_bytes(path, rows, dim)) return false;
    const Header& header = header_of(packed);
    return std::memcmp(header.magic, kMagic, sizeof(kMagic)) == 0 && header.version == kVersion &&
           header.layout == static_cast<std::int32_t>(path.layout) && header.rows == rows &&
           header.dim == dim;
}

namespace {

// Shares the loops of a search among the threads of `pool`, or else among `threads` of OpenMP.
void search(const CosineNnPath& path, const float* queries, std::int64_t count, std::int64_t dim,
            const float* unit, std::int64_t rows, const unsigned char* packed, std::int64_t k,
            float* distances, std::int64_t* indices, int threads, const Pool* pool) {
    const std::int64_t padded = round_up(dim, kDimPad);
    const std::int64_t group_panels = panels_of_group(path, rows);
    // Without groups of nothing but padding: k groups must hold k different rows.
    const std::int64_t groups = round_up(rows, group_panels * kPanel) / (group_panels * kPanel);
    const std::int64_t panels =
        std::min(round_up(rows, kRowPad) / kPanel, groups * group_panels);
    const double* bank_errors = header_of(packed).errors;
    const auto* frame = reinterpret_cast<const float*>(packed + kHeader);
    const unsigned char* panels_at = packed + panels_offset(path, padded);
    const std::int64_t panel_bytes = path.panel_bytes(padded);
    const std::int64_t query_bytes = path.query_bytes(padded);
    const bool heads = path.by_heads(padded, frame);
    const unsigned char* coarse_at =
        heads ? panels_at + round_up(rows, kRowPad) / kPanel * panel_bytes : panels_at;
    const std::int64_t coarse_bytes = heads ? path.head_bytes(padded) : panel_bytes;
    const Bank bank{unit,      rows,   dim,        groups, group_panels * kPanel,
                    panels_at, padded, panel_bytes};

    const std::int64_t block = path.query_block;
    const std::int64_t stride = round_up(groups, 16);
    const std::int64_t held = stride * std::int64_t{sizeof(std::int32_t)} +
                              dim * std::int64_t{sizeof(float)} + query_bytes;  // for a query
    const std::int64_t turn = std::min(round_up(count, block),
                                       std::max(block, kTurnBytes / held / block * block));
    const auto units = buffer<float>(turn * dim);
    const auto blocks = buffer<unsigned char>(turn * query_bytes);
    const auto bounds = buffer<CosineNnBounds>(turn);
    const auto finite = buffer<bool>(turn);
    const auto maxima = buffer<std::int32_t>(turn * stride);

    const double work = static_cast<double>(std::min(count, turn)) * static_cast<double>(rows) *
                        static_cast<double>(dim);
    const int team = work > kSerial ? std::max(threads, 1) : 1;
    // Tasks: a stretch of the bank that stays in cache, and as many queries as leave every thread
    // several tasks.
    const std::int64_t tile_groups = std::max<std::int64_t>(
        1, kTileBytes / (group_panels * coarse_bytes));
    const std::int64_t tiles = (groups + tile_groups - 1) / tile_groups;

    for (std::int64_t start = 0; start < count; start += turn) {
        const std::int64_t now = std::min(turn, count - start);
        const std::int64_t blocks_now = (now + block - 1) / block;
        const std::int64_t strips = std::min(
            blocks_now, std::max<std::int64_t>(1, (4 * team + tiles - 1) / tiles));
        const std::int64_t strip = (blocks_now + strips - 1) / strips;
        const auto prepare = [&](std::int64_t b) {
            const std::int64_t first = b * block, size = std::min(block, now - first);
            for (std::int64_t i = first; i < first + size; ++i)
                finite[i] = path.normalise(queries + (start + i) * dim, dim, &units[i * dim]);
            path.pack_queries(&units[first * dim], size, dim, padded, frame, bank_errors,
                              &blocks[first * query_bytes], &bounds[first]);
        };
        const auto compare = [&](std::int64_t task) {
            const std::int64_t first = task / strips * tile_groups;
            const std::int64_t first_panel = first * group_panels;
            const std::int64_t end_panel =
                std::min(first_panel + tile_groups * group_panels, panels);
            const std::int64_t strip_at = task % strips * strip;
            const std::int64_t strip_end = std::min(strip_at + strip, blocks_now);
            for (std::int64_t b = strip_at; b < strip_end; ++b)
                path.coarse(&blocks[b * block * query_bytes], std::min(block, now - b * block),
                            coarse_at + first_panel * coarse_bytes, end_panel - first_panel,
                            group_panels, padded, frame, &maxima[b * block * stride + first],
                            stride);
        };
        const auto refine = [&](Refiner& refiner, std::int64_t together) {
            const std::int64_t first = together * kTogether;
            const std::int64_t size = std::min(kTogether, now - first);
            CosineNnBounds wider[kTogether];
            // 2e-6: of float32 products and of lengths that are 1 only nearly.
            const auto more = static_cast<float>(path.accumulation(padded) + 2e-6);
            for (std::int64_t i = 0; i < size; ++i) {
                wider[i] = bounds[first + i];
                wider[i].coarse += more;
                wider[i].panel += more;
            }
            float* distance = distances + (start + first) * k;
            std::int64_t* index = indices + (start + first) * k;
            refiner.run(&units[first * dim], {blocks.get(), block, query_bytes, now}, first, wider,
                        size, &maxima[first * stride], stride, index);
            for (std::int64_t i = 0; i < size; ++i)
                for (std::int64_t j = 0; j < k; ++j)
                    distance[i * k + j] = finite[first + i]
                                              ? std::clamp(1.0f - refiner.products(i)[j], 0.0f, 2.0f)
                                              : std::numeric_limits<float>::quiet_NaN();
        };
        const std::int64_t tasks = tiles * strips, gathered = (now + kTogether - 1) / kTogether;
        if (pool != nullptr && team > 1) {
            run(*pool, blocks_now, prepare);
            run(*pool, tasks, [&](std::int64_t task) {
                path.enter();
                compare(task);
                path.leave();
            });
            run(*pool, gathered, [&](std::int64_t together) {
                Refiner refiner(path, bank, k);
                refine(refiner, together);
            });
            continue;
        }
#pragma omp parallel num_threads(team) if (team > 1)
        {
#pragma omp for schedule(static)
            for (std::int64_t b = 0; b < blocks_now; ++b) prepare(b);
            path.enter();
#pragma omp for schedule(dynamic)
            for (std::int64_t task = 0; task < tasks; ++task) compare(task);
            path.leave();
            Refiner refiner(path, bank, k);
#pragma omp for schedule(dynamic)
            for (std::int64_t together = 0; together < gathered; ++together)
                refine(refiner, together);
        }
    }
}

}  // namespace

void cosine_nn_search(const CosineNnPath& path, const float* queries, std::int64_t count,
                      std::int64_t dim, const float* unit, std::int64_t rows,
                      const unsigned char* packed, std::int64_t k, float* distances,
                      std::int64_t* indices, int threads) {
    search(path, queries, count, dim, unit, rows, packed, k, distances, indices, threads, nullptr);
}

void cosine_nn_search(const CosineNnPath& path, const float* queries, std::int64_t count,
                      std::int64_t dim, const float* unit, std::int64_t rows,
                      const unsigned char* packed, std::int64_t k, float* distances,
                      std::int64_t* indices, const Pool& pool) {
    search(path, queries, count, dim, unit, rows, packed, k, distances, indices, pool.threads(),
           &pool);
}

}  // namespace robustad
