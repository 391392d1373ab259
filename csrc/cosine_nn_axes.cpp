#include "cosine_nn_axes.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace robustad {
namespace {

constexpr std::int64_t kSampled = 1024, kAtOnce = 8;  // rows
constexpr int kIterations = 4;
// Taken off the axes' length: more than float32 may add to it, here and where axes are turned, with
// thousands of dimensions too.
constexpr double kShort = 1e-4;

using Matrix = std::vector<float>;

float* row_of(Matrix& matrix, std::int64_t row, std::int64_t size) {
    return matrix.data() + row * size;
}

float dot(const float* a, const float* b, std::int64_t size) {
    float sums[16] = {};
    for (std::int64_t i = 0; i < size; i += 16)  // `padded` is a multiple of 32
        for (int j = 0; j < 16; ++j) sums[j] += a[i + j] * b[i + j];
    float total = 0;
    for (const float x : sums) total += x;
    return total;
}

void add(float factor, const float* from, float* to, std::int64_t size) {
    for (std::int64_t i = 0; i < size; ++i) to[i] += factor * from[i];
}

// The sum of kAtOnce multiples of rows.
void add_rows(const float* factors, const float* rows, float* to, std::int64_t size) {
    for (std::int64_t i = 0; i < size; ++i) {
        float sum = to[i];
        for (std::int64_t row = 0; row < kAtOnce; ++row) sum += factors[row] * rows[row * size + i];
        to[i] = sum;
    }
}

// Gram-Schmidt, twice. A row that depends on those before it is replaced by a unit vector that does
// not, or by zeros if none is left.
void orthonormalise(float* rows, std::int64_t count, std::int64_t size) {
    std::int64_t spare = 0;
    for (std::int64_t row = 0; row < count; ++row) {
        float* own = rows + row * size;
        while (true) {
            const double before = std::sqrt(static_cast<double>(dot(own, own, size)));
            for (int pass = 0; pass < 2; ++pass)
                for (std::int64_t other = 0; other < row; ++other)
                    add(-dot(own, rows + other * size, size), rows + other * size, own, size);
            const double length = std::sqrt(static_cast<double>(dot(own, own, size)));
            if (length > 1e-3 * before && length > 1e-12) {
                for (std::int64_t i = 0; i < size; ++i) own[i] /= static_cast<float>(length);
                break;
            }
            std::fill_n(own, size, 0.0f);
            if (spare == size) break;
            own[spare++] = 1.0f;
        }
    }
}

}  // namespace

double principal_axes(const float* unit, std::int64_t rows, std::int64_t dim, std::int64_t padded,
                      const float* mean, std::int64_t count, float* axes) {
    const std::int64_t sampled = std::min(rows, kSampled);
    const auto width = static_cast<std::size_t>(padded);
    Matrix covariance(width * width), products(static_cast<std::size_t>(count) * width);
    double variance = 0, kept = 0;
    for (std::int64_t first = 0; first < sampled; first += kAtOnce) {
        Matrix some(kAtOnce * width);  // zeros where there are fewer
        for (std::int64_t i = 0; i < std::min(kAtOnce, sampled - first); ++i) {
            const float* at = unit + (first + i) * rows / sampled * dim;
            float* row = row_of(some, i, padded);
            for (std::int64_t j = 0; j < dim; ++j) row[j] = at[j] - mean[j];
            variance += static_cast<double>(dot(row, row, padded));
        }
        for (std::int64_t j = 0; j < dim; ++j) {
            float factors[kAtOnce];
            for (std::int64_t i = 0; i < kAtOnce; ++i) factors[i] = row_of(some, i, padded)[j];
            add_rows(factors, some.data(), row_of(covariance, j, padded), padded);
        }
    }
    std::uint32_t random = 1;
    for (std::int64_t i = 0; i < count * padded; ++i) {
        random = random * 1664525u + 1013904223u;
        axes[i] = i % padded < dim ? static_cast<float>(random >> 8) / 8388608.0f - 1.0f : 0.0f;
    }
    orthonormalise(axes, count, padded);
    for (int iteration = 0; iteration < kIterations; ++iteration) {
        std::fill(products.begin(), products.end(), 0.0f);
        kept = 0;
        for (std::int64_t axis = 0; axis < count; ++axis) {
            float* own = row_of(products, axis, padded);
            for (std::int64_t j = 0; j < padded; j += kAtOnce)
                add_rows(axes + axis * padded + j, row_of(covariance, j, padded), own, padded);
            kept += static_cast<double>(dot(axes + axis * padded, own, padded));
        }
        std::copy(products.begin(), products.end(), axes);
        orthonormalise(axes, count, padded);
    }
    for (std::int64_t i = 0; i < count * padded; ++i) axes[i] *= static_cast<float>(1 - kShort);
    return variance > 0 ? std::clamp(1 - kept / variance, 0.0, 1.0) : 1.0;
}

}  // namespace robustad
