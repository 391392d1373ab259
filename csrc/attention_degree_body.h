// Body of the tables in attention_degree_kernels.h, over the vector type `Vec` and the tile height
// `kRows` of the file that includes it, inside that file's unnamed namespace.

constexpr std::int64_t kWidth = Vec::width;
constexpr std::int64_t kColumns = 2 * kWidth;
// Columns of z in one go: a slice of b of this height stays in the cache for all rows of z.
constexpr std::int64_t kSlice = 256;

// Within 2 ulp on [-87, 88], beyond which it stays at the end's value; NaN stays NaN.
inline Vec exponential(Vec x) {
    x = minimum(Vec(88.0f), maximum(Vec(-87.0f), x));
    const Vec n = nearest(x * Vec(1.44269504088896341f));
    Vec r = fused(n, Vec(-0.693359375f), x);
    r = fused(n, Vec(2.12194440e-4f), r);
    Vec p = Vec(1.9875691500e-4f);
    p = fused(p, r, Vec(1.3981999507e-3f));
    p = fused(p, r, Vec(8.3334519073e-3f));
    p = fused(p, r, Vec(4.1665795894e-2f));
    p = fused(p, r, Vec(1.6666665459e-1f));
    p = fused(p, r, Vec(5.0000001201e-1f));
    p = fused(p, r * r, r + Vec(1.0f));
    return times_power_of_two(p, n);
}

// acc[i][.] = sum_p a[i * row_step + p * step] * b[p * ldb + .]
inline void tile(const float* a, std::int64_t row_step, std::int64_t step, const float* b,
                 std::int64_t ldb, std::int64_t count, Vec (&acc)[kRows][2]) {
    for (std::int64_t p = 0; p < count; ++p) {
        const Vec b0 = Vec::load(b), b1 = Vec::load(b + kWidth);
        for (int i = 0; i < kRows; ++i) {
            const Vec x(a[i * row_step]);
            acc[i][0] = fused(x, b0, acc[i][0]);
            acc[i][1] = fused(x, b1, acc[i][1]);
        }
        a += step;
        b += ldb;
    }
}

void pack(const float* in, std::int64_t n, std::int64_t dim, float* panels) {
    for (std::int64_t start = 0; start < n; start += kColumns)
        for (std::int64_t p = 0; p < dim; ++p)
            for (std::int64_t j = start; j < start + kColumns; ++j)
                *panels++ = j < n ? in[j * dim + p] : 0.0f;
}

void scores(const float* a, std::int64_t lda, std::int64_t m, const float* panels, std::int64_t n,
            std::int64_t dim, float scale, float* z, std::int64_t ldz) {
    for (std::int64_t j = 0; j < n; j += kColumns, panels += dim * kColumns)
        for (std::int64_t i = 0; i < m; i += kRows) {
            Vec acc[kRows][2] = {};
            tile(a + i * lda, lda, 1, panels, kColumns, dim, acc);
            for (int t = 0; t < kRows; ++t) {
                float* row = z + (i + t) * ldz + j;
                (acc[t][0] * Vec(scale)).store(row);
                (acc[t][1] * Vec(scale)).store(row + kWidth);
            }
        }
}

inline void add_tile(const Vec (&acc)[kRows][2], float* c, std::int64_t ldc) {
    for (int t = 0; t < kRows; ++t) {
        float* row = c + t * ldc;
        (Vec::load(row) + acc[t][0]).store(row);
        (Vec::load(row + kWidth) + acc[t][1]).store(row + kWidth);
    }
}

void accumulate(const float* z, std::int64_t ldz, std::int64_t m, std::int64_t n, const float* b,
                std::int64_t ldb, float* c) {
    for (std::int64_t p = 0; p < n; p += kSlice) {
        const std::int64_t count = n - p < kSlice ? n - p : kSlice;
        for (std::int64_t i = 0; i < m; i += kRows)
            for (std::int64_t j = 0; j < ldb; j += kColumns) {
                Vec acc[kRows][2] = {};
                tile(z + i * ldz + p, ldz, 1, b + p * ldb + j, ldb, count, acc);
                add_tile(acc, c + i * ldb + j, ldb);
            }
    }
}

void accumulate_transposed(const float* z, std::int64_t ldz, std::int64_t m, std::int64_t n,
                           const float* b, std::int64_t ldb, float* c) {
    for (std::int64_t i = 0; i < n; i += kRows)
        for (std::int64_t j = 0; j < ldb; j += kColumns) {
            Vec acc[kRows][2] = {};
            tile(z + i, 1, ldz, b + j, ldb, m, acc);
            add_tile(acc, c + i * ldb + j, ldb);
        }
}

struct All {
    Vec operator()(Vec x) const { return x; }
};

struct Some {
    Vec mask;
    Vec operator()(Vec x) const { return where_at_least(mask, Vec(1.0f), x); }
};

// f(column, keep) a vector: keep(x) is x where columns exist and 0 beyond n, whatever lies there.
template <typename F>
inline void for_columns(std::int64_t n, F f) {
    std::int64_t j = 0;
    for (; j + kWidth <= n; j += kWidth) f(j, All{});
    if (j < n) {
        float mask[kWidth];
        for (std::int64_t i = 0; i < kWidth; ++i) mask[i] = j + i < n ? 1.0f : 0.0f;
        f(j, Some{Vec::load(mask)});
    }
}

inline float largest(const float* x, std::int64_t n) {
    Vec best(-INFINITY);
    std::int64_t j = 0;
    for (; j + kWidth <= n; j += kWidth) best = maximum(best, Vec::load(x + j));
    float all[kWidth], top = -INFINITY;
    best.store(all);
    for (std::int64_t i = 0; i < kWidth; ++i) top = all[i] > top || all[i] != all[i] ? all[i] : top;
    for (; j < n; ++j) top = x[j] > top || x[j] != x[j] ? x[j] : top;
    return top;
}

template <bool kSoft, bool kStatistics, bool kOutput>
void statistics(float* z, std::int64_t n, float factor, float inverse, float log_sum, float mean,
                const RowTerms& terms, const RowForward& out) {
    const Vec inv(inverse), delta(terms.delta), inv_tau(terms.inv_tau), weight(factor);
    Vec degree(0.0f), moment(0.0f), squares(0.0f);
    for_columns(n, [&](std::int64_t j, auto keep) {
        const Vec e = Vec::load(z + j);
        const Vec s = e * inv;
        if (kSoft) {
            const Vec w = exponential((delta - s) * inv_tau);
            const Vec t = keep(Vec(1.0f) / (Vec(1.0f) + w));
            degree = degree + t;
            moment = fused(s * t, w * t, moment);
        } else {
            degree = degree + keep(where_at_least(s, delta, Vec(1.0f)));
        }
        if (kStatistics) squares = fused(s, keep(s), squares);
        if (kOutput) keep(e * weight).store(z + j);
    });
    *out.degree = degree.sum();
    if (kSoft) *out.moment = moment.sum();
    if (kStatistics) {
        *out.effective = 1.0f / squares.sum();
        *out.entropy = log_sum - mean;
    }
}

template <bool kSoft, bool kStatistics>
void statistics(float* z, std::int64_t n, float factor, float inverse, float log_sum, float mean,
                const RowTerms& terms, const RowForward& out) {
    if (out.lse)
        statistics<kSoft, kStatistics, true>(z, n, factor, inverse, log_sum, mean, terms, out);
    else
        statistics<kSoft, kStatistics, false>(z, n, factor, inverse, log_sum, mean, terms, out);
}

void row_forward(float* z, std::int64_t prefix, std::int64_t n, const RowTerms& terms,
                 const RowForward& out) {
    float* patches = z + prefix;
    const std::int64_t count = n - prefix;
    const float top = largest(patches, count);
    Vec sums[2] = {Vec(0.0f), Vec(0.0f)}, mean(0.0f);
    int turn = 0;
    for_columns(count, [&](std::int64_t j, auto keep) {
        const Vec x = Vec::load(patches + j) - Vec(top);
        const Vec e = keep(exponential(x));
        sums[turn] = sums[turn] + e;
        turn ^= 1;
        if (out.effective) mean = mean + keep(e * x);
        e.store(patches + j);
    });
    const float sum = (sums[0] + sums[1]).sum(), log_sum = logf(sum);
    float factor = 1.0f;
    if (out.lse) {
        const float whole_top = prefix ? fmaxf(top, largest(z, prefix)) : top;
        float whole = sum * expf(top - whole_top);
        for (std::int64_t j = 0; j < prefix; ++j) whole += z[j] = expf(z[j] - whole_top);
        for (std::int64_t j = 0; j < prefix; ++j) z[j] /= whole;
        factor = expf(top - whole_top) / whole;
        *out.lse = whole_top + logf(whole);
    }
    if (!out.degree) {  // a row of the prefix: the output alone
        for_columns(count, [&](std::int64_t j, auto keep) {
            keep(Vec::load(patches + j) * Vec(factor)).store(patches + j);
        });
        return;
    }
    *out.patch_lse = top + log_sum;
    auto* f = terms.soft ? (out.effective ? statistics<true, true> : statistics<true, false>)
                         : (out.effective ? statistics<false, true> : statistics<false, false>);
    const float average = out.effective ? mean.sum() / sum : 0.0f;
    f(patches, count, factor, 1.0f / sum, log_sum, average, terms, out);
}

template <bool kSoft, bool kStatistics, bool kOutput>
void gradient(float* z, float* dp, std::int64_t n, const RowTerms& terms, const RowBackward& in) {
    const Vec lse(*in.patch_lse), delta(terms.delta), inv_tau(terms.inv_tau), scale(terms.scale);
    const Vec a(kSoft ? *in.a : 0.0f), r(in.r ? *in.r : 0.0f);
    const Vec b(kStatistics && in.b ? *in.b : 0.0f), c(kStatistics && in.c ? *in.c : 0.0f);
    const Vec ratio(kOutput ? expf(*in.patch_lse - *in.lse) : 0.0f);
    const Vec dsum(kOutput ? *in.dsum : 0.0f);
    for_columns(n, [&](std::int64_t j, auto keep) {
        const Vec log_s = Vec::load(z + j) - lse;
        const Vec s = exponential(log_s);
        Vec ds = r;
        if (kSoft) {
            const Vec w = exponential((delta - s) * inv_tau);
            const Vec t = Vec(1.0f) / (Vec(1.0f) + w);
            ds = fused(a * t, w * t, ds);
        }
        if (kStatistics) ds = fused(b, s, fused(c, log_s, ds));
        if (kOutput) {
            ds = fused(ratio, Vec::load(dp + j) - dsum, ds);
            keep(s * ratio).store(dp + j);
        }
        keep(s * ds * scale).store(z + j);
    });
}

void row_backward(float* z, float* dp, std::int64_t prefix, std::int64_t n, const RowTerms& terms,
                  const RowBackward& in) {
    if (in.lse) {
        // A row of the prefix has no degree: all its columns are treated like the prefix's.
        const std::int64_t end = in.patch_lse ? prefix : n;
        const Vec lse(*in.lse), dsum(*in.dsum), scale(terms.scale);
        float kept[kWidth], kept_dp[kWidth];  // the last vector reaches into columns after `end`
        const std::int64_t spill = end < n ? (kWidth - end % kWidth) % kWidth : 0;
        for (std::int64_t i = 0; i < spill; ++i) kept[i] = z[end + i], kept_dp[i] = dp[end + i];
        for_columns(end, [&](std::int64_t j, auto keep) {
            const Vec p = keep(exponential(Vec::load(z + j) - lse));
            keep(p * (Vec::load(dp + j) - dsum) * scale).store(z + j);
            p.store(dp + j);
        });
        for (std::int64_t i = 0; i < spill; ++i) z[end + i] = kept[i], dp[end + i] = kept_dp[i];
    } else {  // the prefix takes part in nothing
        const std::int64_t end = in.patch_lse ? prefix : n;
        for (std::int64_t j = 0; j < end; ++j) z[j] = 0.0f;
    }
    if (!in.patch_lse) return;
    const bool statistics = in.b || in.c;
    float *patches = z + prefix, *patch_dp = dp ? dp + prefix : nullptr;
    auto* f = &gradient<false, false, true>;
    if (in.lse)
        f = in.a ? &gradient<true, false, true> : &gradient<false, false, true>;
    else if (in.a)
        f = statistics ? &gradient<true, true, false> : &gradient<true, false, false>;
    else
        f = &gradient<false, true, false>;
    f(patches, patch_dp, n - prefix, terms, in);
}

const AttentionKernels* table(const char* name) {
    static const AttentionKernels kernels = {
        name,       kRows,       kColumns,   pack, scores,
        accumulate, accumulate_transposed, row_forward, row_backward};
    return &kernels;
}
