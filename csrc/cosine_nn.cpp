#include "cosine_nn.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>
#include <utility>

#include "cosine_nn_path.h"
#include "cpu_features.h"

namespace robustad {
namespace {

struct Header {
    char magic[8];
    std::int32_t version;
    std::int32_t layout;
    std::int64_t rows;
    std::int64_t dim;
    double error;  // the longest that rounding took from a row
};

constexpr char kMagic[8] = {'r', 'o', 'b', 'u', 's', 't', 'n', 'n'};
constexpr std::int32_t kVersion = 1;
constexpr std::size_t kHeader = 128;  // a multiple of the cache line, so that panels are aligned
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

template <typename T>
std::unique_ptr<T[]> buffer(std::int64_t size) {
    return std::unique_ptr<T[]>(new T[static_cast<std::size_t>(size)]);  // not set to zero
}

// Small groups mean fewer rows to refine, large ones fewer maxima to write and read.
std::int64_t panels_of_group(const CosineNnPath& path, std::int64_t rows) {
    const std::int64_t wanted = rows <= 8192 ? 1 : rows <= 65536 ? 2 : 4;
    return std::max(wanted, path.least_panels);
}

// The k best products seen, falling; of equal ones the lower row first.
struct Best {
    float* products;
    std::int64_t* rows;
    std::int64_t k;
    std::int64_t held;

    bool full() const { return held == k; }

    void offer(float product, std::int64_t row) {
        const auto before = [&](std::int64_t at) {
            return product > products[at] || (product == products[at] && row < rows[at]);
        };
        if (full() && !before(k - 1)) return;
        std::int64_t at = full() ? k - 1 : held++;
        for (; at > 0 && before(at - 1); --at) {
            products[at] = products[at - 1];
            rows[at] = rows[at - 1];
        }
        products[at] = product;
        rows[at] = row;
    }
};

// The k-th largest of the group maxima: k rows score at least that.
std::int32_t kth_largest(const CosineNnPath& path, const std::int32_t* maxima, std::int64_t groups,
                         std::int64_t k, std::vector<std::int32_t>& top) {
    if (k == 1) return path.largest(maxima, groups);
    if (groups < k) return std::numeric_limits<std::int32_t>::min();
    top.assign(maxima, maxima + k);
    std::sort(top.begin(), top.end(), std::greater<std::int32_t>());
    constexpr std::int64_t kBlock = 64;
    for (std::int64_t first = k; first < groups; first += kBlock) {
        const std::int64_t size = std::min(kBlock, groups - first);
        if (path.largest(maxima + first, size) <= top.back()) continue;
        for (std::int64_t i = first; i < first + size; ++i) {
            if (maxima[i] <= top.back()) continue;
            const auto at = std::upper_bound(top.begin(), top.end(), maxima[i],
                                             std::greater<std::int32_t>());
            std::move_backward(at, top.end() - 1, top.end());
            *at = maxima[i];
        }
    }
    return top.back();
}

struct Bank {
    const float* unit;
    std::int64_t rows, dim, groups, group_rows;
};

// Queries refined together: what several of them must look at is read once.
constexpr std::int64_t kTogether = 32;

// Refines a few queries at a time in one thread.
class Refiner {
  public:
    Refiner(const CosineNnPath& path, const Bank& bank, std::int64_t k)
        : path_(path), bank_(bank), k_(k), places_(buffer<std::int32_t>(bank.groups)),
          products_(buffer<float>(bank.group_rows)), kept_(buffer<float>(kTogether * k)) {}

    // queries: [count, dim], unit; errors: bounds of their coarse scores; maxima: [count, stride].
    // indices: [count, k]. products(i): the k best of query i, falling.
    void run(const float* queries, const double* errors, std::int64_t count,
             const std::int32_t* maxima, std::int64_t stride, std::int64_t* indices) {
        Best best[kTogether];
        double margins[kTogether];
        pairs_.clear();
        for (std::int64_t i = 0; i < count; ++i) {
            best[i] = {&kept_[i * k_], indices + i * k_, k_, 0};
            margins[i] = errors[i] * path_.one + 2;
            const std::int32_t* own = maxima + i * stride;
            const std::int32_t bar = kth_largest(path_, own, bank_.groups, k_, top_);
            const double low = std::max(static_cast<double>(bar) - 2 * margins[i],
                                        double{std::numeric_limits<std::int32_t>::min()});
            const std::int64_t found = path_.at_least(
                own, bank_.groups, static_cast<std::int32_t>(std::floor(low)), places_.get());
            // The group at the top first: what it holds usually rules out the others.
            std::int64_t first = 0;
            for (std::int64_t j = 1; j < found; ++j)
                if (own[places_[j]] > own[places_[first]]) first = j;
            score(queries + i * bank_.dim, places_[first], best[i]);
            for (std::int64_t j = 0; j < found; ++j)
                if (j != first && open(own[places_[j]], margins[i], best[i]))
                    pairs_.emplace_back(places_[j], static_cast<std::int32_t>(i));
        }
        std::sort(pairs_.begin(), pairs_.end());
        for (const auto& [group, i] : pairs_)
            if (open(maxima[i * stride + group], margins[i], best[i]))
                score(queries + i * bank_.dim, group, best[i]);
    }

    const float* products(std::int64_t i) const { return &kept_[i * k_]; }

  private:
    // Whether a group of this maximum may hold one of the k best.
    bool open(std::int32_t maximum, double margin, const Best& best) const {
        return !best.full() ||
               maximum + margin >= static_cast<double>(best.products[k_ - 1]) * path_.one;
    }

    void score(const float* query, std::int32_t group, Best& best) {
        const std::int64_t row = group * bank_.group_rows;
        const std::int64_t rows = std::min(bank_.group_rows, bank_.rows - row);
        path_.dots(query, bank_.unit + row * bank_.dim, rows, bank_.dim, products_.get());
        for (std::int64_t j = 0; j < rows; ++j) best.offer(products_[j], row + j);
    }

    const CosineNnPath& path_;
    const Bank& bank_;
    const std::int64_t k_;
    std::unique_ptr<std::int32_t[]> places_;  // groups that may hold one of the best
    std::unique_ptr<float[]> products_;       // of one group's rows
    std::unique_ptr<float[]> kept_;           // the best k of each query
    std::vector<std::int32_t> top_;
    std::vector<std::pair<std::int32_t, std::int32_t>> pairs_;  // group, query
};

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

std::size_t cosine_nn_packed_bytes(std::int64_t rows, std::int64_t dim) {
    return kHeader + static_cast<std::size_t>(round_up(rows, kRowPad)) *
                         static_cast<std::size_t>(round_up(dim, kDimPad)) * sizeof(std::uint16_t);
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

void cosine_nn_pack(const CosineNnPath& path, const float* unit, std::int64_t rows,
                    std::int64_t dim, unsigned char* packed, int threads) {
    const std::int64_t padded = round_up(dim, kDimPad);
    const std::int64_t panels = round_up(rows, kRowPad) / kPanel;
    auto* at = reinterpret_cast<std::uint16_t*>(packed + kHeader);
    double error = 0;
#pragma omp parallel for schedule(static) reduction(max : error) num_threads(threads) \
    if (static_cast<double>(rows) * static_cast<double>(dim) > kSerial)
    for (std::int64_t panel = 0; panel < panels; ++panel) {
        // A panel past the end repeats the last row: zeros could be a group's maximum.
        const std::int64_t first = std::min(panel * kPanel, rows - 1);
        const std::int64_t count = std::min(kPanel, rows - first);
        error = std::max(error, path.pack_panel(unit + first * dim, count, dim, padded,
                                                at + panel * kPanel * padded));
    }
    Header header{};
    std::memcpy(header.magic, kMagic, sizeof(kMagic));
    header.version = kVersion;
    header.layout = static_cast<std::int32_t>(path.layout);
    header.rows = rows;
    header.dim = dim;
    header.error = error;
    std::memset(packed, 0, kHeader);
    std::memcpy(packed, &header, sizeof(header));
}

bool cosine_nn_packed_for(const CosineNnPath& path, const unsigned char* packed, std::size_t bytes,
                          std::int64_t rows, std::int64_t dim) {
    if (bytes != cosine_nn_packed_bytes(rows, dim)) return false;
    const Header& header = header_of(packed);
    return std::memcmp(header.magic, kMagic, sizeof(kMagic)) == 0 && header.version == kVersion &&
           header.layout == static_cast<std::int32_t>(path.layout) && header.rows == rows &&
           header.dim == dim;
}

void cosine_nn_search(const CosineNnPath& path, const float* queries, std::int64_t count,
                      std::int64_t dim, const float* unit, std::int64_t rows,
                      const unsigned char* packed, std::int64_t k, float* distances,
                      std::int64_t* indices, int threads) {
    const std::int64_t padded = round_up(dim, kDimPad);
    const std::int64_t group_panels = panels_of_group(path, rows);
    // Without groups of nothing but padding: k groups must hold k different rows.
    const std::int64_t groups = round_up(rows, group_panels * kPanel) / (group_panels * kPanel);
    const std::int64_t panels =
        std::min(round_up(rows, kRowPad) / kPanel, groups * group_panels);
    const Bank bank{unit, rows, dim, groups, group_panels * kPanel};
    const double bank_error = header_of(packed).error;
    const auto* panels_at = reinterpret_cast<const std::uint16_t*>(packed + kHeader);

    const std::int64_t block = path.query_block;
    const std::int64_t stride = round_up(groups, 16);
    const std::int64_t held = stride * std::int64_t{sizeof(std::int32_t)} +
                              dim * std::int64_t{sizeof(float)} +
                              padded * std::int64_t{sizeof(std::uint16_t)};  // for a query
    const std::int64_t turn = std::min(round_up(count, block),
                                       std::max(block, kTurnBytes / held / block * block));
    const auto units = buffer<float>(turn * dim);
    const auto blocks = buffer<std::uint16_t>(turn * padded);
    const auto errors = buffer<float>(turn);
    const auto finite = buffer<bool>(turn);
    const auto maxima = buffer<std::int32_t>(turn * stride);

    const double work = static_cast<double>(std::min(count, turn)) * static_cast<double>(rows) *
                        static_cast<double>(dim);
    const int team = work > kSerial ? std::max(threads, 1) : 1;
    // Tasks: a stretch of the bank that stays in cache, and as many queries as leave every thread
    // several tasks.
    const std::int64_t tile_groups = std::max<std::int64_t>(
        1, kTileBytes / (group_panels * kPanel * padded * std::int64_t{sizeof(std::uint16_t)}));
    const std::int64_t tiles = (groups + tile_groups - 1) / tile_groups;

    for (std::int64_t start = 0; start < count; start += turn) {
        const std::int64_t now = std::min(turn, count - start);
        const std::int64_t blocks_now = (now + block - 1) / block;
        const std::int64_t strips = std::min(
            blocks_now, std::max<std::int64_t>(1, (4 * team + tiles - 1) / tiles));
        const std::int64_t strip = (blocks_now + strips - 1) / strips;
#pragma omp parallel num_threads(team) if (team > 1)
        {
#pragma omp for schedule(static)
            for (std::int64_t b = 0; b < blocks_now; ++b) {
                const std::int64_t first = b * block, size = std::min(block, now - first);
                for (std::int64_t i = first; i < first + size; ++i)
                    finite[i] = path.normalise(queries + (start + i) * dim, dim, &units[i * dim]);
                path.pack_queries(&units[first * dim], size, dim, padded, &blocks[first * padded],
                                  &errors[first]);
            }
            path.enter();
#pragma omp for schedule(dynamic)
            for (std::int64_t task = 0; task < tiles * strips; ++task) {
                const std::int64_t first = task / strips * tile_groups;
                const std::int64_t first_panel = first * group_panels;
                const std::int64_t end_panel =
                    std::min(first_panel + tile_groups * group_panels, panels);
                const std::int64_t strip_at = task % strips * strip;
                const std::int64_t strip_end = std::min(strip_at + strip, blocks_now);
                for (std::int64_t b = strip_at; b < strip_end; ++b)
                    path.coarse(&blocks[b * block * padded], std::min(block, now - b * block),
                                panels_at + first_panel * kPanel * padded,
                                end_panel - first_panel, group_panels, padded,
                                &maxima[b * block * stride + first], stride);
            }
            path.leave();
            Refiner refiner(path, bank, k);
#pragma omp for schedule(dynamic)
            for (std::int64_t first = 0; first < now; first += kTogether) {
                const std::int64_t size = std::min(kTogether, now - first);
                double bounds[kTogether];
                for (std::int64_t i = 0; i < size; ++i) {
                    const double lost = errors[first + i];
                    // 2e-6: of float32 products and of lengths that are 1 only nearly.
                    bounds[i] = lost + (1 + lost) * bank_error + path.accumulation(padded) + 2e-6;
                }
                float* distance = distances + (start + first) * k;
                std::int64_t* index = indices + (start + first) * k;
                refiner.run(&units[first * dim], bounds, size, &maxima[first * stride], stride,
                            index);
                for (std::int64_t i = 0; i < size; ++i)
                    for (std::int64_t j = 0; j < k; ++j)
                        distance[i * k + j] =
                            finite[first + i]
                                ? std::clamp(1.0f - refiner.products(i)[j], 0.0f, 2.0f)
                                : std::numeric_limits<float>::quiet_NaN();
            }
        }
    }
}

}  // namespace robustad
