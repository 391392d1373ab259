#include "attention_degree.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "attention_degree_kernels.h"

namespace robustad {
namespace {

// Scores held at once by a thread: what a core's second-level cache has room for.
constexpr std::int64_t kScores = 64 * 1024;
constexpr std::int64_t kMostRows = 48;

bool cpu_has_avx2() {
#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return false;
#endif
}

bool cpu_has_avx512() {
#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
    return __builtin_cpu_supports("avx512f");
#else
    return false;
#endif
}

const AttentionKernels* find(const char* path) {
    const std::string wanted = path;
    const AttentionKernels* found[] = {
        cpu_has_avx512() ? attention_kernels_avx512() : nullptr,
        cpu_has_avx2() ? attention_kernels_avx2() : nullptr,
        attention_kernels_portable(),
    };
    for (const AttentionKernels* kernels : found)
        if (kernels && (wanted.empty() || wanted == kernels->name)) return kernels;
    return nullptr;
}

const AttentionKernels& require(const char* path) {
    const AttentionKernels* kernels = find(path);
    if (!kernels) throw std::invalid_argument(std::string("path: not available here: ") + path);
    return *kernels;
}

std::int64_t up(std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; }

// A part of one head's rows, worked on by one thread.
struct Task {
    std::int64_t head, begin, end, part;
};

// Sizes and scratch memory of one call. Everything is padded so that no tile is cut.
class Plan {
public:
    Plan(const AttentionProblem& problem, const AttentionKernels& kernels, std::int64_t most_parts)
        : problem_(problem),
          dim(up(problem.dim, kernels.columns)),
          tokens(up(up(problem.tokens, kernels.columns), kernels.rows)),
          // the last vector of a row may begin at any column
          row(tokens + kernels.columns),
          rows(up(std::clamp(kScores / row, std::int64_t{1}, kMostRows), kernels.rows)) {
        const std::int64_t threads = std::max(problem.threads, 1);
        if (problem.heads < 2 * threads && problem.heads > 0)
            parts = std::clamp((2 * threads + problem.heads - 1) / problem.heads, std::int64_t{1},
                               std::max(std::int64_t{1}, std::min(most_parts, problem.tokens / rows)));
    }

    std::int64_t tasks() const { return problem_.heads * parts; }

    Task task(std::int64_t index) const {
        const std::int64_t part = index % parts, size = up((problem_.tokens + parts - 1) / parts, rows);
        return {index / parts, std::min(part * size, problem_.tokens),
                std::min((part + 1) * size, problem_.tokens), index};
    }

private:
    const AttentionProblem& problem_;

public:
    const std::int64_t dim, tokens, row, rows;
    std::int64_t parts = 1;
};

// Hands out pieces of one allocation.
struct Arena {
    float* next;
    float* take(std::int64_t count) {
        float* piece = next;
        next += count;
        return piece;
    }
};

void copy_rows(const float* in, std::int64_t count, std::int64_t dim, std::int64_t padded,
               float* out) {
    for (std::int64_t i = 0; i < count; ++i, in += dim, out += padded)
        std::memcpy(out, in, static_cast<std::size_t>(dim) * sizeof(float));
}

// Runs body(task, arena) over all tasks, each thread with `scratch` zeroed floats of its own.
template <typename Body>
void run(const AttentionProblem& problem, const Plan& plan, std::int64_t scratch, Body body) {
    const int threads = static_cast<int>(std::clamp<std::int64_t>(
        plan.tasks(), 1, std::max(problem.threads, 1)));
    scratch = up(scratch, 16);
    std::vector<float> memory(static_cast<std::size_t>(scratch * threads));
    const std::int64_t tasks = plan.tasks();
#pragma omp parallel num_threads(threads)
    {
        std::int64_t mine = 0;
#ifdef _OPENMP
        mine = omp_get_thread_num();
#endif
#pragma omp for schedule(dynamic, 1)
        for (std::int64_t i = 0; i < tasks; ++i)
            body(plan.task(i), Arena{memory.data() + mine * scratch});
    }
}

}  // namespace

const char* attention_path(const char* path) {
    const AttentionKernels* kernels = find(path);
    return kernels ? kernels->name : nullptr;
}

void attention_forward(const AttentionProblem& problem, const AttentionForward& data,
                       const char* path) {
    const AttentionKernels& kernels = require(path);
    const std::int64_t n = problem.tokens, prefix = problem.prefix, d = problem.dim;
    const Plan plan(problem, kernels, n);
    const bool output = data.v != nullptr;
    const RowTerms terms = {problem.scale, problem.delta,
                            problem.tau > 0 ? 1.0f / problem.tau : 0.0f, problem.tau > 0};
    const std::int64_t side = plan.tokens * plan.dim;
    const std::int64_t scratch =
        side * (output ? 2 : 1) + plan.rows * (2 * plan.dim + plan.row);
    run(problem, plan, scratch, [&](const Task& task, Arena arena) {
        const float* q = data.q + task.head * n * d;
        float* panels = arena.take(side);
        float* block = arena.take(plan.rows * plan.dim);
        float* z = arena.take(plan.rows * plan.row);
        kernels.pack(data.k + task.head * n * d, n, d, panels);
        float *v = nullptr, *sums = nullptr;
        if (output) {
            v = arena.take(side);
            sums = arena.take(plan.rows * plan.dim);
            copy_rows(data.v + task.head * n * d, n, d, plan.dim, v);
        }
        for (std::int64_t begin = task.begin; begin < task.end; begin += plan.rows) {
            const std::int64_t count = std::min(plan.rows, task.end - begin);
            const std::int64_t padded = up(count, kernels.rows);
            copy_rows(q + begin * d, count, d, plan.dim, block);
            kernels.scores(block, plan.dim, padded, panels, n, d, problem.scale, z, plan.row);
            for (std::int64_t i = 0; i < count; ++i) {
                const std::int64_t token = begin + i;
                const std::int64_t at = task.head * (n - prefix) + token - prefix;
                RowForward out = {};
                if (output) out.lse = data.lse + task.head * n + token;
                if (token >= prefix) {
                    out.degree = data.degree + at;
                    out.patch_lse = data.patch_lse + at;
                    if (data.moment) out.moment = data.moment + at;
                    if (data.effective) out.effective = data.effective + at;
                    if (data.effective) out.entropy = data.entropy + at;
                } else if (!output) {
                    continue;
                }
                kernels.row_forward(z + i * plan.row, prefix, n, terms, out);
            }
            if (!output) continue;
            std::fill_n(sums, padded * plan.dim, 0.0f);
            kernels.accumulate(z, plan.row, padded, n, v, plan.dim, sums);
            for (std::int64_t i = 0; i < count; ++i)
                std::copy_n(sums + i * plan.dim, d, data.out + (task.head * n + begin + i) * d);
        }
    });
}

void attention_backward(const AttentionProblem& problem, const AttentionBackward& data,
                        const char* path) {
    const AttentionKernels& kernels = require(path);
    const std::int64_t n = problem.tokens, prefix = problem.prefix, d = problem.dim;
    // Parts of a head have sums of their own; so many that these stay a fraction of N x N.
    const Plan plan(problem, kernels, (n + 4 * d - 1) / (4 * d));
    const bool output = data.v != nullptr;
    const RowTerms terms = {problem.scale, problem.delta,
                            problem.tau > 0 ? 1.0f / problem.tau : 0.0f, problem.tau > 0};
    const std::int64_t side = plan.tokens * plan.dim;
    const std::int64_t scratch = side * (output ? 5 : 3) +
                                 plan.rows * (output ? 3 * plan.dim + 2 * plan.row
                                                     : 2 * plan.dim + plan.row);
    const bool split = plan.parts > 1;
    const std::int64_t whole = n * d;
    std::vector<float> partial(
        split ? static_cast<std::size_t>(plan.tasks() * whole * (output ? 2 : 1)) : 0);
    run(problem, plan, scratch, [&](const Task& task, Arena arena) {
        const std::int64_t offset = task.head * whole;
        float* panels = arena.take(side);
        float* k = arena.take(side);
        float* dk = arena.take(side);
        float* block = arena.take(plan.rows * plan.dim);
        float* dq = arena.take(plan.rows * plan.dim);
        float* z = arena.take(plan.rows * plan.row);
        kernels.pack(data.k + offset, n, d, panels);
        copy_rows(data.k + offset, n, d, plan.dim, k);
        std::fill_n(dk, side, 0.0f);
        float *v_panels = nullptr, *dv = nullptr, *dout = nullptr, *dp = nullptr;
        if (output) {
            v_panels = arena.take(side);
            dv = arena.take(side);
            dout = arena.take(plan.rows * plan.dim);
            dp = arena.take(plan.rows * plan.row);
            kernels.pack(data.v + offset, n, d, v_panels);
            std::fill_n(dv, side, 0.0f);
        }
        for (std::int64_t begin = task.begin; begin < task.end; begin += plan.rows) {
            const std::int64_t count = std::min(plan.rows, task.end - begin);
            const std::int64_t padded = up(count, kernels.rows);
            copy_rows(data.q + offset + begin * d, count, d, plan.dim, block);
            kernels.scores(block, plan.dim, padded, panels, n, d, problem.scale, z, plan.row);
            if (output) {
                copy_rows(data.dout + offset + begin * d, count, d, plan.dim, dout);
                kernels.scores(dout, plan.dim, padded, v_panels, n, d, 1.0f, dp, plan.row);
            }
            for (std::int64_t i = 0; i < count; ++i) {
                const std::int64_t token = begin + i;
                const std::int64_t at = task.head * (n - prefix) + token - prefix;
                RowBackward in = {};
                if (output) {
                    in.lse = data.lse + task.head * n + token;
                    in.dsum = data.dsum + task.head * n + token;
                }
                if (token >= prefix) {
                    in.patch_lse = data.patch_lse + at;
                    if (data.a) in.a = data.a + at;
                    if (data.b) in.b = data.b + at;
                    if (data.c) in.c = data.c + at;
                    if (data.r) in.r = data.r + at;
                }
                kernels.row_backward(z + i * plan.row, output ? dp + i * plan.row : nullptr, prefix,
                                     n, terms, in);
            }
            std::fill_n(dq, padded * plan.dim, 0.0f);
            kernels.accumulate(z, plan.row, padded, n, k, plan.dim, dq);
            for (std::int64_t i = 0; i < count; ++i)
                std::copy_n(dq + i * plan.dim, d, data.dq + offset + (begin + i) * d);
            kernels.accumulate_transposed(z, plan.row, count, n, block, plan.dim, dk);
            if (output) kernels.accumulate_transposed(dp, plan.row, count, n, dout, plan.dim, dv);
        }
        float* to_dk = split ? partial.data() + task.part * whole : data.dk + offset;
        float* to_dv = split ? partial.data() + (plan.tasks() + task.part) * whole
                             : data.dv + offset;
        for (std::int64_t j = 0; j < n; ++j) {
            std::copy_n(dk + j * plan.dim, d, to_dk + j * d);
            if (output) std::copy_n(dv + j * plan.dim, d, to_dv + j * d);
        }
    });
    if (!split) return;
    const std::int64_t sums = problem.heads * whole * (output ? 2 : 1);
#pragma omp parallel for num_threads(std::max(problem.threads, 1))
    for (std::int64_t i = 0; i < sums; ++i) {
        const bool second = i >= problem.heads * whole;
        const std::int64_t at = second ? i - problem.heads * whole : i;
        const std::int64_t head = at / whole, element = at % whole;
        const float* parts =
            partial.data() + ((second ? plan.tasks() : 0) + head * plan.parts) * whole + element;
        float sum = 0.0f;
        for (std::int64_t part = 0; part < plan.parts; ++part) sum += parts[part * whole];
        (second ? data.dv : data.dk)[at] = sum;
    }
}

}  // namespace robustad
