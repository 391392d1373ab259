// Every path of topk_mean, and the rows of its CUDA kernel, against a sort.
#include "topk_mean.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/topk_mean_row.h"

using namespace robustad;

namespace {

int failures = 0;

void expect(bool holds, const std::string& what) {
    if (!holds && ++failures < 20) std::printf("FAILED: %s\n", what.c_str());
}

// A block of one thread.
struct Loop {
    bool leads() const { return true; }
    template <class Work>
    void each(std::int64_t n, Work work) {
        for (std::int64_t i = 0; i < n; ++i) work(i);
    }
    template <class Predicate>
    std::int64_t count(std::int64_t n, Predicate holds) {
        std::int64_t all = 0;
        for (std::int64_t i = 0; i < n; ++i) all += holds(i);
        return all;
    }
    template <class Value>
    double sum(std::int64_t n, Value value) {
        double all = 0.0;
        for (std::int64_t i = 0; i < n; ++i) all += value(i);
        return all;
    }
    template <class Key>
    std::int32_t most(std::int64_t n, Key key) {
        std::int32_t all = kNone;
        for (std::int64_t i = 0; i < n; ++i) all = std::max(all, key(i));
        return all;
    }
    template <class Key>
    std::int32_t least(std::int64_t n, Key key) {
        std::int32_t all = kNan;
        for (std::int64_t i = 0; i < n; ++i)
            if (key(i) != kNone) all = std::min(all, key(i));
        return all;
    }
    template <class Key>
    std::int64_t collect(std::int64_t n, Key key, std::int32_t low, std::int32_t* buffer,
                         std::int64_t capacity) {
        std::int64_t found = 0;
        for (std::int64_t i = 0; i < n; ++i) {
            if (key(i) <= low) continue;
            if (found < capacity) buffer[found] = key(i);
            ++found;
        }
        return found;
    }
    template <class Predicate>
    std::int64_t place(std::int64_t n, std::int64_t wanted, Predicate holds) {
        for (std::int64_t i = 0; i < n; ++i)
            if (holds(i) && --wanted == 0) return i;
        return -1;
    }
};

struct Expected {
    double mean;
    std::vector<double> parts;  // of the gradient, for a gradient of 1 of the mean
};

// NaN first, then falling; of equal ones the first.
Expected by_sorting(const std::vector<float>& row, const float* weights, std::int64_t k,
                    double fraction, bool shared) {
    std::vector<int> order;
    for (int i = 0; i < static_cast<int>(row.size()); ++i)
        if (!weights || weights[i] > 0) order.push_back(i);
    const auto same = [&](int a, int b) {
        return row[a] == row[b] || (std::isnan(row[a]) && std::isnan(row[b]));
    };
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
        if (std::isnan(row[a]) || std::isnan(row[b]))
            return std::isnan(row[a]) && !std::isnan(row[b]);
        return row[a] > row[b];
    });
    const std::int64_t valid = static_cast<std::int64_t>(order.size());
    if (fraction > 0)
        k = std::max<std::int64_t>(1, static_cast<std::int64_t>(fraction * valid + 1e-9));
    k = std::min(k, valid);
    Expected out{std::nan(""), std::vector<double>(row.size(), 0.0)};
    if (k == 0) return out;
    std::vector<double> counts(row.size(), 0.0);
    for (std::int64_t i = 0; i < k; ++i) counts[order[i]] = 1.0;
    if (shared) {
        const int border = order[k - 1];
        double wanted = 0, ties = 0;
        for (std::int64_t i = 0; i < valid; ++i)
            if (same(order[i], border)) ++ties, wanted += i < k;
        for (const int i : order)
            if (same(i, border)) counts[i] = wanted / ties;
    }
    double total = 0, sum = 0;
    for (const int i : order) {
        const double part = counts[i] * (weights ? weights[i] : 1.0);
        total += part;
        if (part > 0) sum += part * static_cast<double>(row[i]);
        out.parts[i] = part;
    }
    for (double& part : out.parts) part /= total;
    out.mean = sum / total;
    return out;
}

bool close(double a, double b, double unit) {
    if (std::isnan(b)) return std::isnan(a);
    if (std::isinf(b)) return a == b;
    // one rounding to the dtype, a second to float32
    return std::abs(a - b) <= unit * 1.01 * std::abs(b) + 1e-7;
}

template <class T>
void compare(const std::vector<float>& values, int rows, int columns,
             const std::vector<float>& weights, std::int64_t k, double fraction, bool shared,
             Dtype dtype, int threads, const std::string& what) {
    std::vector<T> scores(values.size()), means(rows), grads(rows), out(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) narrow(values[i], scores[i]);
    for (T& grad : grads) narrow(1.0f, grad);
    std::vector<double> state(rows * kState), again(rows * kState);
    const TopkMean task{scores.data(), weights.empty() ? nullptr : weights.data(), rows, columns, k,
                        fraction,      shared, dtype, threads};
    topk_mean(task, means.data(), state.data());
    topk_mean_backward(task, grads.data(), state.data(), out.data());
    const double unit = sizeof(T) == 4 ? 0x1p-24 : dtype == Dtype::f16 ? 0x1p-11 : 0x1p-8;
    for (int r = 0; r < rows; ++r) {
        std::vector<float> row(columns);
        for (int i = 0; i < columns; ++i) row[i] = widen(scores[r * columns + i]);
        const float* own = weights.empty() ? nullptr : weights.data() + r * columns;
        const Expected expected = by_sorting(row, own, k, fraction, shared);
        expect(close(widen(means[r]), expected.mean, unit), what + ": mean");
        bool right = true;
        for (int i = 0; i < columns; ++i)
            right &= close(widen(out[r * columns + i]), expected.parts[i], unit);
        expect(right, what + ": gradient");

        // a small buffer, so that rows take all the ways through the kernel
        for (const std::int64_t capacity : {16, 64, 1024}) {
            std::vector<std::int32_t> buffer(capacity);
            Loop block;
            T mean;
            topk_mean_row(block, scores.data() + r * columns, own, columns, k, fraction, shared,
                          buffer.data(), capacity, &mean, again.data());
            expect(close(widen(mean), expected.mean, unit), what + ": mean of the CUDA row");
            for (int i = 0; i < columns; ++i) {
                const T part = gradient_of(scores[r * columns + i], own ? own[i] : 1.0f, i, 1.0,
                                           again.data());
                expect(close(widen(part), expected.parts[i], unit), what + ": its gradient");
            }
        }
    }
}

void compare_all(const std::vector<float>& values, int rows, int columns, const std::string& what) {
    std::mt19937 random(columns);
    std::vector<float> weights(values.size());
    for (float& weight : weights) weight = random() % 3 ? static_cast<float>(random() % 8) / 4 : 0.0f;
    for (int i = 0; i < columns; ++i) weights[i] = 0.0f;  // nothing valid in the first row
    for (const std::int64_t k : {1, 2, 14, columns / 3, columns - 1, columns}) {
        if (k < 1 || k > columns) continue;
        for (const bool shared : {false, true}) {
            const std::string name = what + ", " + std::to_string(columns) + " columns, k " +
                                     std::to_string(k) + (shared ? ", shared" : "");
            compare<float>(values, rows, columns, {}, k, 0.0, shared, Dtype::f32, 1, name);
            compare<float>(values, rows, columns, weights, k, 0.0, shared, Dtype::f32, 2, name);
            compare<float>(values, rows, columns, weights, k, 0.1, shared, Dtype::f32, 1, name);
            compare<Bf16>(values, rows, columns, {}, k, 0.0, shared, Dtype::bf16, 1, name);
            compare<F16>(values, rows, columns, weights, k, 0.3, shared, Dtype::f16, 1, name);
            compare<F16>(values, rows, columns, {}, k, 0.0, shared, Dtype::f16, 1, name);
        }
    }
}

void test_values(const std::string& path) {
    constexpr float kInf = std::numeric_limits<float>::infinity();
    const float nan = std::nanf("");
    std::mt19937 random(0);
    std::normal_distribution<float> normal;
    for (const int columns : {1, 2, 7, 8, 9, 15, 16, 17, 33, 127, 128, 129, 300, 1369}) {
        const int rows = 3;
        std::vector<float> values(rows * columns);
        const auto fill = [&](const std::string& what, auto value) {
            for (int i = 0; i < rows * columns; ++i) values[i] = value(i);
            compare_all(values, rows, columns, path + " " + what);
        };
        fill("random", [&](int) { return normal(random); });
        fill("rising", [](int i) { return static_cast<float>(i); });
        fill("falling", [](int i) { return -static_cast<float>(i); });
        fill("constant", [](int) { return 0.25f; });
        fill("few", [&](int) { return static_cast<float>(random() % 3); });
        fill("zeros", [&](int) { return random() % 2 ? 0.0f : -0.0f; });
        fill("nan", [&](int) { return nan; });
        fill("some nan", [&](int) { return random() % 9 ? normal(random) : random() % 2 ? nan : -nan; });
        fill("infinite", [&](int) {
            const auto kind = random() % 7;
            return kind == 0 ? kInf : kind == 1 ? -kInf : normal(random);
        });
        fill("lowest", [&](int) { return -kInf; });
    }
}

// Many rows and threads, long rows: the results do not depend on either.
void test_threads() {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (const auto& [rows, columns] : {std::pair{70, 1369}, std::pair{2, 200704}, {5, 70001}}) {
        std::vector<float> values(static_cast<std::size_t>(rows) * columns), out[2];
        for (float& value : values) value = normal(random);
        std::vector<float> means[2], grads(rows, 1.0f);
        for (int i = 0; i < 2; ++i) {
            means[i].resize(rows);
            out[i].resize(values.size());
            std::vector<double> state(rows * kState);
            const TopkMean task{values.data(), nullptr, rows, columns, columns / 100, 0.0,
                                false, Dtype::f32, i == 0 ? 1 : 3};
            topk_mean(task, means[i].data(), state.data());
            topk_mean_backward(task, grads.data(), state.data(), out[i].data());
        }
        expect(means[0] == means[1] && out[0] == out[1], "threads change nothing");
        for (int r = 0; r < rows; ++r) {
            std::vector<float> row(values.begin() + r * columns, values.begin() + (r + 1) * columns);
            std::sort(row.begin(), row.end(), [](float a, float b) { return a > b; });
            double sum = 0;
            for (int i = 0; i < columns / 100; ++i) sum += static_cast<double>(row[i]);
            expect(close(means[0][r], sum / (columns / 100), 0x1p-24), "long rows");
        }
    }
}

void test_halves() {
    for (int bits = 0; bits < 0x10000; ++bits) {
        F16 half{static_cast<std::uint16_t>(bits)}, back;
        const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
        const double size = exponent == 31   ? (mantissa ? std::nan("") : HUGE_VAL)
                            : exponent == 0 ? std::ldexp(mantissa, -24)
                                            : std::ldexp(1024 + mantissa, exponent - 25);
        const double value = bits & 0x8000 ? -size : size;
        const double wide = static_cast<double>(widen(half));
        expect(std::isnan(value) ? std::isnan(wide) : wide == value, "half to float");
        narrow(widen(half), back);
        expect(std::isnan(value) || back.bits == bits, "half to float and back");
        Bf16 brain{static_cast<std::uint16_t>(bits)}, again;
        narrow(widen(brain), again);
        expect(std::isnan(widen(brain)) || again.bits == bits, "bfloat16 to float and back");
    }
    F16 half;
    for (const auto& [value, bits] : {std::pair{65519.0f, 0x7bff}, {65520.0f, 0x7c00},
                                      {0x1p-25f, 0}, {0x1.8p-25f, 1}, {0x1p-26f, 0},
                                      {1.0f + 0x1p-11f, 0x3c00}, {1.0f + 0x3p-11f, 0x3c02}}) {
        narrow(value, half);
        expect(half.bits == bits, "float to half rounds to nearest even");
    }
}

void test_keys() {
    const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
    const float rising[] = {-inf, -1.0f, -1e-45f, 0.0f, 1e-45f, 1.0f, inf, nan};
    for (int i = 0; i + 1 < 8; ++i) expect(key_of(rising[i]) < key_of(rising[i + 1]), "key order");
    expect(key_of(-0.0f) == key_of(0.0f) && key_of(-nan) == key_of(nan), "equal keys");
    expect(key_of(-inf) > kNone, "nothing is below every score");
    for (int i = 0; i < 7; ++i) expect(value_of(key_of(rising[i])) == rising[i], "key and back");
}

void test_path_names() {
    for (const char* name : {"fast", "AVX2"}) {
        setenv("ROBUSTAD_TOPK_MEAN", name, 1);
        try {
            topk_mean({nullptr, nullptr, 0, 1, 1, 0.0, false, Dtype::f32, 1}, nullptr, nullptr);
            expect(false, "an unknown path is refused");
        } catch (const std::invalid_argument&) {
        }
    }
    unsetenv("ROBUSTAD_TOPK_MEAN");
}

}  // namespace

int main() {
    test_halves();
    test_keys();
    test_path_names();
    int count = 0;
    const char* const* names = topk_mean_paths(&count);
    for (int i = 0; i < count; ++i) {
        setenv("ROBUSTAD_TOPK_MEAN", names[i], 1);
        test_values(names[i]);
        test_threads();
    }
    if (failures) std::printf("%d checks failed\n", failures);
    return failures ? 1 : 0;
}
