// Every path of the attention degree against sums in double, and its gradient against differences.
#include "attention_degree.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

using namespace robustad;

namespace {

int failures = 0;

void expect(bool holds, const std::string& what) {
    if (!holds && ++failures < 20) std::printf("FAILED: %s\n", what.c_str());
}

using Floats = std::vector<float>;

Floats numbers(std::int64_t count, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    Floats found(static_cast<std::size_t>(count));
    for (float& x : found) x = normal(generator);
    return found;
}

// Exactly as large as needed, so that the sanitizer sees every step beyond.
struct Made {
    Floats out, lse, degree, effective, entropy, patch_lse, moment;
};

Made forward(const AttentionProblem& p, const Floats& q, const Floats& k, const Floats& v,
             bool output, const char* path) {
    const auto rows = static_cast<std::size_t>(p.heads * (p.tokens - p.prefix));
    const auto all = static_cast<std::size_t>(p.heads * p.tokens);
    Made made;
    for (Floats* x : {&made.degree, &made.effective, &made.entropy, &made.patch_lse, &made.moment})
        x->resize(rows);
    if (output) made.out.resize(q.size());
    if (output) made.lse.resize(all);
    attention_forward(p,
                      {q.data(), k.data(), output ? v.data() : nullptr,
                       output ? made.out.data() : nullptr, output ? made.lse.data() : nullptr,
                       made.degree.data(), made.effective.data(), made.entropy.data(),
                       made.patch_lse.data(), made.moment.data()},
                      path);
    return made;
}

// Row i of head h: weights over columns first.., in double.
std::vector<double> row(const AttentionProblem& p, const Floats& q, const Floats& k,
                        std::int64_t h, std::int64_t i, std::int64_t first) {
    std::vector<double> s;
    double top = -1e300, sum = 0.0;
    for (std::int64_t j = first; j < p.tokens; ++j) {
        double z = 0.0;
        for (std::int64_t c = 0; c < p.dim; ++c)
            z += static_cast<double>(q[static_cast<std::size_t>((h * p.tokens + i) * p.dim + c)]) *
                 static_cast<double>(k[static_cast<std::size_t>((h * p.tokens + j) * p.dim + c)]);
        s.push_back(z * static_cast<double>(p.scale));
        top = std::max(top, s.back());
    }
    for (double& x : s) sum += x = std::exp(x - top);
    for (double& x : s) x /= sum;
    return s;
}

// Sum over the rows of w0 degree + w1 effective + w2 entropy (without output), or of
// w0 degree + w . out (with it), in double.
double loss(const AttentionProblem& p, const Floats& q, const Floats& k, const Floats& v,
            const Floats& w, bool output) {
    double sum = 0.0;
    const double tau = static_cast<double>(p.tau), delta = static_cast<double>(p.delta);
    for (std::int64_t h = 0; h < p.heads; ++h)
        for (std::int64_t i = 0; i < p.tokens; ++i) {
            const auto weight = [&](std::int64_t n) {
                return static_cast<double>(w[static_cast<std::size_t>(n) % w.size()]);
            };
            if (i >= p.prefix) {
                double degree = 0.0, squares = 0.0, entropy = 0.0;
                for (double s : row(p, q, k, h, i, p.prefix)) {
                    degree += tau > 0 ? 1.0 / (1.0 + std::exp((delta - s) / tau)) : 0.0;
                    squares += s * s;
                    entropy -= s > 0 ? s * std::log(s) : 0.0;
                }
                const std::int64_t at = 3 * (h * (p.tokens - p.prefix) + i - p.prefix);
                sum += tau > 0 ? weight(at) * degree : 0.0;
                if (!output) sum += weight(at + 1) / squares + weight(at + 2) * entropy;
            }
            if (!output) continue;
            const std::vector<double> s = row(p, q, k, h, i, 0);
            for (std::int64_t c = 0; c < p.dim; ++c) {
                double out = 0.0;
                for (std::int64_t j = 0; j < p.tokens; ++j)
                    out += s[static_cast<std::size_t>(j)] *
                           static_cast<double>(
                               v[static_cast<std::size_t>((h * p.tokens + j) * p.dim + c)]);
                sum += out * weight((h * p.tokens + i) * p.dim + c);
            }
        }
    return sum;
}

void check_values(const AttentionProblem& p, const char* path) {
    const std::string name = std::string(path) + ", " + std::to_string(p.tokens) + " tokens of " +
                             std::to_string(p.dim) + ", prefix " + std::to_string(p.prefix);
    const std::int64_t size = p.heads * p.tokens * p.dim;
    const Floats q = numbers(size, 1), k = numbers(size, 2), v = numbers(size, 3);
    const Made plain = forward(p, q, k, v, false, path), fused = forward(p, q, k, v, true, path);
    for (std::int64_t h = 0; h < p.heads; ++h)
        for (std::int64_t i = 0; i < p.tokens; ++i) {
            if (i >= p.prefix) {
                const auto at = static_cast<std::size_t>(h * (p.tokens - p.prefix) + i - p.prefix);
                double degree = 0.0, squares = 0.0, entropy = 0.0;
                for (double s : row(p, q, k, h, i, p.prefix)) {
                    const double distance = s - static_cast<double>(p.delta);
                    degree += p.tau > 0 ? 1.0 / (1.0 + std::exp(-distance / static_cast<double>(p.tau)))
                                        : distance >= 0;
                    squares += s * s;
                    entropy -= s > 0 ? s * std::log(s) : 0.0;
                }
                for (const Made* made : {&plain, &fused}) {
                    expect(std::fabs(static_cast<double>(made->degree[at]) - degree) < 1e-3,
                           name + ": degree");
                    expect(std::fabs(static_cast<double>(made->effective[at]) * squares - 1.0) < 1e-4,
                           name + ": effective degree");
                    expect(std::fabs(static_cast<double>(made->entropy[at]) - entropy) < 1e-4,
                           name + ": entropy");
                }
            }
            const std::vector<double> s = row(p, q, k, h, i, 0);
            for (std::int64_t c = 0; c < p.dim; ++c) {
                double out = 0.0;
                for (std::int64_t j = 0; j < p.tokens; ++j)
                    out += s[static_cast<std::size_t>(j)] *
                           static_cast<double>(
                               v[static_cast<std::size_t>((h * p.tokens + j) * p.dim + c)]);
                const auto at = static_cast<std::size_t>((h * p.tokens + i) * p.dim + c);
                expect(std::fabs(static_cast<double>(fused.out[at]) - out) < 1e-5, name + ": output");
            }
        }
}

void check_gradient(const AttentionProblem& p, bool output, const char* path) {
    const std::int64_t size = p.heads * p.tokens * p.dim;
    const auto rows = static_cast<std::size_t>(p.heads * (p.tokens - p.prefix));
    const Floats q = numbers(size, 4), k = numbers(size, 5), v = numbers(size, 6);
    const Floats w = numbers(3 * size, 7);
    const Made made = forward(p, q, k, v, output, path);
    const bool soft = p.tau > 0;
    Floats a(rows), b(rows), c(rows), r(rows), dsum(static_cast<std::size_t>(p.heads * p.tokens));
    for (std::size_t i = 0; i < rows; ++i) {
        const float g = w[3 * i], g_effective = output ? 0.0f : w[3 * i + 1],
                    g_entropy = output ? 0.0f : w[3 * i + 2];
        a[i] = soft ? g / p.tau : 0.0f;
        b[i] = -2.0f * g_effective * made.effective[i] * made.effective[i];
        c[i] = -g_entropy;
        r[i] = -a[i] * (soft ? made.moment[i] : 0.0f) + 2.0f * g_effective * made.effective[i] -
               g_entropy * made.entropy[i];
    }
    for (std::size_t i = 0; output && i < q.size(); ++i)
        dsum[i / static_cast<std::size_t>(p.dim)] += made.out[i] * w[i];
    const Floats dout(w.begin(), w.begin() + static_cast<std::ptrdiff_t>(q.size()));
    Floats dq(q.size()), dk(q.size()), dv(q.size());
    attention_backward(p,
                       {q.data(), k.data(), output ? v.data() : nullptr,
                        output ? dout.data() : nullptr, output ? made.lse.data() : nullptr,
                        output ? dsum.data() : nullptr, made.patch_lse.data(),
                        soft ? a.data() : nullptr, output ? nullptr : b.data(),
                        output ? nullptr : c.data(), r.data(), dq.data(), dk.data(),
                        output ? dv.data() : nullptr},
                       path);
    const auto check = [&](const Floats& x, const Floats& found, const char* name, auto evaluate) {
        for (std::size_t i = 0; i < x.size(); i += x.size() / 5 + 1) {
            Floats up = x, down = x;
            up[i] += 1e-3f;
            down[i] -= 1e-3f;
            const double step = static_cast<double>(up[i]) - static_cast<double>(down[i]);
            const double slope = (evaluate(up) - evaluate(down)) / step;
            const double tolerance = 2e-3 * std::max(1.0, std::fabs(slope));
            expect(std::fabs(static_cast<double>(found[i]) - slope) < tolerance,
                   std::string(path) + (output ? ", output" : "") + (soft ? ", soft" : "") +
                       ", prefix " + std::to_string(p.prefix) + ": gradient of " + name + ", " +
                       std::to_string(found[i]) + " instead of " + std::to_string(slope));
        }
    };
    check(q, dq, "q", [&](const Floats& x) { return loss(p, x, k, v, w, output); });
    check(k, dk, "k", [&](const Floats& x) { return loss(p, q, x, v, w, output); });
    if (output) check(v, dv, "v", [&](const Floats& x) { return loss(p, q, k, x, w, true); });
}

}  // namespace

int main() {
    int paths = 0;
    for (const char* path : {"portable", "avx2", "avx512"}) {
        if (!attention_path(path)) continue;
        ++paths;
        for (std::int64_t tokens : {1, 7, 16, 33, 130})
            for (std::int64_t prefix : {0, 1, 5})
                for (std::int64_t dim : {1, 16, 40})
                    if (prefix < tokens)
                        for (float tau : {0.0f, 0.02f})
                            check_values({2, tokens, prefix, dim, 0.3f, 1.01f / 16, tau, 2}, path);
        for (std::int64_t prefix : {0, 3})
            for (float tau : {0.0f, 0.1f})
                for (bool output : {false, true})
                    for (int threads : {1, 3})
                        check_gradient({1, 25, prefix, 6, 0.4f, 0.05f, tau, threads}, output, path);
        // Parts of one head, each with sums of its own.
        check_gradient({1, 90, 1, 3, 0.4f, 0.02f, 0.1f, 3}, true, path);
    }
    expect(paths > 0 && attention_path("") && !attention_path("abacus"), "paths");
    bool refused = false;
    try {
        attention_forward({}, {}, "abacus");
    } catch (const std::exception&) {
        refused = true;
    }
    expect(refused, "an unknown path");
    attention_forward({0, 5, 0, 4, 1.0f, 0.1f, 0.0f, 2}, {}, "");
    std::printf("attention_degree: %d paths, %d failures\n", paths, failures);
    return failures != 0;
}
