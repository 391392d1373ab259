// All paths of this processor, and AMX with its tile instructions emulated, against all distances
// in double. Run under sanitizers by `make sanitize`.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#define kCosineNnAmx kCosineNnAmxEmulated
#define ROBUSTAD_EMULATE_AMX
#include "../cosine_nn_amx.cpp"
#undef kCosineNnAmx

#include "cosine_nn.h"
#include "cosine_nn_path.h"

namespace {

using robustad::CosineNnPath;

int checks = 0;

void expect(bool holds, const char* path, const char* what, std::int64_t queries,
            std::int64_t rows, std::int64_t dim, std::int64_t k) {
    ++checks;
    if (holds) return;
    std::printf("%s, %lld queries x %lld rows x %lld, k = %lld: %s\n", path,
                static_cast<long long>(queries), static_cast<long long>(rows),
                static_cast<long long>(dim), static_cast<long long>(k), what);
    std::exit(1);
}

std::vector<float> random_rows(std::int64_t rows, std::int64_t dim, unsigned seed, float spread) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> centre(static_cast<std::size_t>(dim)), out;
    for (float& x : centre) x = spread < 1 ? normal(random) : 0;
    for (std::int64_t i = 0; i < rows * dim; ++i)
        out.push_back(centre[static_cast<std::size_t>(i % dim)] + spread * normal(random));
    return out;
}

// Rows that the 8-bit path finds hard: turned, all their length lies in one half of one chunk,
// where the products of any two of them add up to more than 16 bits hold, unless the query is
// scaled.
std::vector<float> crowded_rows(std::int64_t rows, std::int64_t dim, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<float> out;
    const std::int64_t span = dim / 32;
    for (std::int64_t row = 0; row < rows; ++row) {
        std::vector<float> turned(static_cast<std::size_t>(dim));
        for (std::int64_t i = 0; i < dim; ++i) {
            const float sign = (i % 5 == 0) == (row % 2 == 0) ? -1.0f : 1.0f;
            const float some = static_cast<float>(random() % 1000) * 1e-5f;
            turned[static_cast<std::size_t>(i)] = i < 64 && i % 4 < 2 ? sign + some : some;
        }
        for (std::int64_t i = 0; i < dim; ++i) {
            float sum = 0;
            for (std::int64_t j = 0; j < 32; ++j) {
                const bool minus = __builtin_parityll(static_cast<unsigned long long>(j & (i / span)));
                const float x = turned[static_cast<std::size_t>(j * span + i % span)];
                sum += minus ? -x : x;
            }
            out.push_back(sum);
        }
    }
    return out;
}

// Non-negative, sparse, a few numbers far larger than the others: features after a ReLU.
std::vector<float> sparse_rows(std::int64_t rows, std::int64_t dim, unsigned seed) {
    auto out = random_rows(rows, dim, seed, 1.0f);
    for (std::size_t i = 0; i < out.size(); ++i)
        out[i] = out[i] < 0.5f ? 0.0f : i % 17 == 0 ? out[i] * 50 : out[i];
    return out;
}

// As patch features are: a few directions hold most of the variance, so the 8-bit path takes heads.
std::vector<float> flat_rows(std::int64_t rows, std::int64_t dim, unsigned seed) {
    constexpr std::int64_t kInner = 9;
    const auto basis = random_rows(kInner, dim, 77, 1.0f);
    const auto inner = random_rows(rows, kInner, seed, 1.0f);
    auto out = random_rows(rows, dim, seed + 100, 1.0f);
    for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t i = 0; i < dim; ++i) {
            float& x = out[static_cast<std::size_t>(row * dim + i)];
            x = 0.2f * x + 1.0f;
            for (std::int64_t j = 0; j < kInner; ++j)
                x += inner[static_cast<std::size_t>(row * kInner + j)] *
                     basis[static_cast<std::size_t>(j * dim + i)];
        }
    return out;
}

enum class Kind { kRandom, kCrowded, kSparse, kFlat };

double length(const float* row, std::int64_t dim) {
    double squares = 0;
    for (std::int64_t i = 0; i < dim; ++i) squares += static_cast<double>(row[i]) * row[i];
    return std::sqrt(squares);
}

void run(const CosineNnPath& path, std::int64_t count, std::int64_t rows, std::int64_t dim,
         std::int64_t k, float spread, int threads, bool special, Kind kind = Kind::kRandom) {
    const auto made = [&](std::int64_t size, unsigned seed) {
        return kind == Kind::kRandom    ? random_rows(size, dim, seed, spread)
               : kind == Kind::kCrowded ? crowded_rows(size, dim, seed)
               : kind == Kind::kFlat    ? flat_rows(size, dim, seed)
                                        : sparse_rows(size, dim, seed);
    };
    auto queries = made(count, 1);
    auto unit = made(rows, spread < 1 ? 1 : 2);
    const auto d = static_cast<std::size_t>(dim);
    if (special) {
        std::fill_n(queries.begin(), d, 0.0f);
        if (count > 1) queries[d] = std::numeric_limits<float>::quiet_NaN();
        if (count > 2) queries[2 * d] = std::numeric_limits<float>::infinity();
        if (count > 3)
            for (std::size_t i = 0; i < d; ++i) queries[3 * d + i] *= 1e-38f;
        std::fill_n(unit.begin(), d, 0.0f);
    }
    for (std::int64_t row = 0; row < rows; ++row) {
        const double long_ = length(&unit[static_cast<std::size_t>(row) * d], dim);
        for (std::size_t i = 0; i < d && long_ > 0; ++i)
            unit[static_cast<std::size_t>(row) * d + i] /= static_cast<float>(long_);
    }
    std::vector<unsigned char> packed(robustad::cosine_nn_packed_bytes(path, rows, dim));
    const auto fits = [&] {
        return robustad::cosine_nn_packed_for(path, packed.data(), packed.size(), rows, dim);
    };
    expect(!fits(), path.name, "zeros taken for a packed bank", count, rows, dim, k);
    robustad::cosine_nn_pack(path, unit.data(), rows, dim, packed.data(), threads);
    expect(fits(), path.name, "packed bank refused", count, rows, dim, k);
    std::vector<float> distances(static_cast<std::size_t>(count * k));
    std::vector<std::int64_t> indices(distances.size());
    robustad::cosine_nn_search(path, queries.data(), count, dim, unit.data(), rows, packed.data(),
                               k, distances.data(), indices.data(), threads);
    std::vector<double> exact(static_cast<std::size_t>(rows));
    for (std::int64_t query = 0; query < count; ++query) {
        const float* at = &queries[static_cast<std::size_t>(query) * d];
        const double long_ = length(at, dim);
        const float* distance = &distances[static_cast<std::size_t>(query * k)];
        const std::int64_t* index = &indices[static_cast<std::size_t>(query * k)];
        if (!std::isfinite(long_)) {
            for (std::int64_t j = 0; j < k; ++j)
                expect(std::isnan(distance[j]) && index[j] >= 0 && index[j] < rows, path.name,
                       "not NaN", count, rows, dim, k);
            continue;
        }
        for (std::int64_t row = 0; row < rows; ++row) {
            double product = 0;
            for (std::size_t i = 0; i < d; ++i)
                product += static_cast<double>(at[i]) * unit[static_cast<std::size_t>(row) * d + i];
            exact[static_cast<std::size_t>(row)] = 1 - (long_ > 0 ? product / long_ : 0);
        }
        std::vector<double> sorted = exact;
        std::sort(sorted.begin(), sorted.end());
        for (std::int64_t j = 0; j < k; ++j) {
            const double nearest = sorted[static_cast<std::size_t>(j)];
            expect(std::fabs(distance[j] - std::clamp(nearest, 0.0, 2.0)) <= 2e-6, path.name,
                   "wrong distance", count, rows, dim, k);
            expect(exact[static_cast<std::size_t>(index[j])] - nearest <= 1e-6, path.name,
                   "wrong row", count, rows, dim, k);
            for (std::int64_t i = 0; i < j; ++i)
                expect(index[i] != index[j], path.name, "a row twice", count, rows, dim, k);
        }
    }
}

}  // namespace

int main() {
    auto paths = robustad::cosine_nn_paths();
    paths.push_back(robustad::kCosineNnAmxEmulated);
    for (const CosineNnPath* path : paths) {
        for (const std::int64_t dim : {1, 31, 32, 37, 300})
            for (const std::int64_t rows : {1, 16, 31, 32, 33, 200, 1000})
                for (const std::int64_t count : {1, 5, 13, 40})
                    for (const float spread : {1.0f, 1e-3f})
                        run(*path, count, rows, dim, std::min<std::int64_t>(rows, 1), spread, 1,
                            count > 5);
        for (const std::int64_t k : {2, 16, 33})
            for (const std::int64_t rows : {33, 300, 1100})
                for (const float spread : {1.0f, 1e-3f, 0.0f})
                    run(*path, 50, rows, 48, k, spread, 2, true);
        for (const std::int64_t dim : {64, 96, 160, 384})
            for (const Kind kind : {Kind::kRandom, Kind::kCrowded, Kind::kSparse})
                for (const std::int64_t k : {1, 9})
                    run(*path, 21, 130, dim, k, 1.0f, 1, kind != Kind::kCrowded, kind);
        for (const std::int64_t k : {1, 4, 40})
            for (const std::int64_t dim : {128, 200})
                run(*path, 33, 4200, dim, k, 1.0f, 2, true, Kind::kFlat);
        run(*path, 2, 4100, 384, 2, 1.0f, 1, false, Kind::kFlat);
        run(*path, 70, 8300, 20, 3, 1.0f, 2, true);   // groups of two panels
        run(*path, 7, 8300, 200, 3, 1.0f, 2, true);   // packed by several threads
        run(*path, 3, 66000, 4, 5, 1.0f, 1, false);   // and of four
        std::printf("%s: %d checks\n", path->name, checks);
    }
    return 0;
}
