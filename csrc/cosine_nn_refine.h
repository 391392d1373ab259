// Second pass of cosine_nn: what the group maxima leave open, in float32. For cosine_nn.cpp alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "cosine_nn_path.h"

namespace robustad {
namespace {

template <typename T>
std::unique_ptr<T[]> buffer(std::int64_t size) {
    return std::unique_ptr<T[]>(new T[static_cast<std::size_t>(size)]);  // not set to zero
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
    const unsigned char* panels;
    std::int64_t padded, panel_bytes;
};

// Queries as the coarse pass takes them: blocks of `size`, the last of which may have fewer.
struct Blocks {
    const unsigned char* at;
    std::int64_t size, query_bytes, count;
};

// Queries refined together: what several of them must look at is read once.
constexpr std::int64_t kTogether = 32;

// Refines a few queries at a time in one thread.
class Refiner {
  public:
    Refiner(const CosineNnPath& path, const Bank& bank, std::int64_t k)
        : path_(path), bank_(bank), k_(k), places_(buffer<std::int32_t>(bank.groups)),
          products_(buffer<float>(bank.group_rows)), kept_(buffer<float>(kTogether * k)) {}

    // queries: [count, dim], unit, the first of them query `start` of `blocks`; bounds: of
    // their scores; maxima: [count, stride]. indices: [count, k]. products(i): the k best of
    // query i, falling.
    void run(const float* queries, const Blocks& blocks, std::int64_t start,
             const CosineNnBounds* bounds, std::int64_t count, const std::int32_t* maxima,
             std::int64_t stride, std::int64_t* indices) {
        Best best[kTogether];
        pairs_.clear();
        for (std::int64_t i = 0; i < count; ++i) {
            best[i] = {&kept_[i * k_], indices + i * k_, k_, 0};
            const Query query{queries + i * bank_.dim, start + i, bounds[i]};
            const std::int32_t* own = maxima + i * stride;
            // The group at the top first: what it holds usually rules out the others.
            path_.at_least(own, bank_.groups, path_.largest(own, bank_.groups), places_.get());
            const std::int32_t top = places_[0];
            score(query, blocks, top, best[i]);
            const std::int64_t found =
                path_.at_least(own, bank_.groups, bar(own, bounds[i], best[i]), places_.get());
            for (std::int64_t j = 0; j < found; ++j) {
                if (places_[j] == top) continue;
                if (path_.panel_scores == nullptr)
                    pairs_.emplace_back(places_[j], static_cast<std::int32_t>(i));
                else if (own[places_[j]] >= least(bounds[i].coarse, best[i]))
                    score(query, blocks, places_[j], best[i]);
            }
        }
        // Whole groups in float32 are long: each is read once for all these queries.
        std::sort(pairs_.begin(), pairs_.end());
        for (const auto& [group, i] : pairs_)
            if (maxima[i * stride + group] >= least(bounds[i].coarse, best[i]))
                score({queries + i * bank_.dim, start + i, bounds[i]}, blocks, group, best[i]);
    }

    const float* products(std::int64_t i) const { return &kept_[i * k_]; }

  private:
    struct Query {
        const float* at;
        std::int64_t place;  // in the blocks
        const CosineNnBounds& bounds;
    };

    std::int32_t units(double product, double off) const {
        const double low = std::floor(product * path_.one - off * path_.one) - 2;
        return static_cast<std::int32_t>(
            std::max(low, double{std::numeric_limits<std::int32_t>::min()}));
    }

    // The coarse score, off by `off` at most, that a row needs to be one of the k best.
    std::int32_t least(double off, const Best& best) const {
        return best.full() ? units(best.products[k_ - 1], off)
                           : std::numeric_limits<std::int32_t>::min();
    }

    // The same of a group: k rows reach the k-th largest maximum but for both errors.
    std::int32_t bar(const std::int32_t* maxima, const CosineNnBounds& bounds, const Best& best) {
        const std::int32_t known = least(bounds.coarse, best);
        if (k_ == 1) return known;
        const std::int32_t kth = kth_largest(path_, maxima, bank_.groups, k_, top_);
        return std::max(known, units(kth / path_.one,
                                     2.0 * bounds.coarse + bounds.slack + 2 / path_.one));
    }

    void score(const Query& query, const Blocks& blocks, std::int32_t group, Best& best) {
        const std::int64_t row = group * bank_.group_rows;
        const std::int64_t rows = std::min(bank_.group_rows, bank_.rows - row);
        if (path_.panel_scores != nullptr) {
            for (std::int64_t first = 0; first < rows; first += kPanel)
                score_panel(query, blocks, row + first, std::min(kPanel, rows - first), best);
            return;
        }
        path_.dots(query.at, bank_.unit + row * bank_.dim, rows, bank_.dim, products_.get());
        for (std::int64_t j = 0; j < rows; ++j) best.offer(products_[j], row + j);
    }

    // After a coarse pass with few bits: nearer scores first, to leave out most rows.
    void score_panel(const Query& query, const Blocks& blocks, std::int64_t row, std::int64_t rows,
                     Best& best) {
        std::int32_t scores[kPanel];
        const std::int64_t first = query.place / blocks.size * blocks.size;
        path_.panel_scores(blocks.at + first * blocks.query_bytes,
                           std::min(blocks.size, blocks.count - first), query.place - first,
                           bank_.panels + row / kPanel * bank_.panel_bytes, bank_.padded, scores);
        std::int32_t needed = least(query.bounds.panel, best);
        const auto offer = [&](std::int64_t j) {
            if (scores[j] < needed) return;
            float product;
            path_.dots(query.at, bank_.unit + (row + j) * bank_.dim, 1, bank_.dim, &product);
            best.offer(product, row + j);
            needed = least(query.bounds.panel, best);
        };
        const std::int64_t top = std::max_element(scores, scores + rows) - scores;
        offer(top);
        for (std::int64_t j = 0; j < rows; ++j)
            if (j != top) offer(j);
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

}  // namespace
}  // namespace robustad
