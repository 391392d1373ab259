// What each instruction set supplies to attention_degree.cpp: the same table, compiled with its own
// flags from attention_degree_body.h. Those files instantiate nothing with external linkage, so
// that the linker cannot put wide instructions where a narrow machine would run them.
#pragma once

#include <cstdint>

namespace robustad {

struct RowTerms {
    float scale, delta, inv_tau;
    bool soft;
};

struct RowForward {
    float* degree;     // null for a row of the prefix
    float* effective;  // null: neither this nor the entropy
    float* entropy;
    float* patch_lse;  // null for a row of the prefix
    float* moment;
    float* lse;  // null: no output, the row may be left as it is
};

struct RowBackward {
    const float *patch_lse, *a, *b, *c, *r;  // null: no such term
    const float *lse, *dsum;                 // null: no output
};

struct AttentionKernels {
    const char* name;
    std::int64_t rows;     // rows of a register tile
    std::int64_t columns;  // columns of a register tile

    // panels[columns / tile][dim][tile] = the rows of `in` [n, dim], padded with zeros.
    void (*pack)(const float* in, std::int64_t n, std::int64_t dim, float* panels);
    // z[i, j] = scale * a[i] . in[j]: a [m, lda], m a multiple of `rows`, z [m, ldz].
    void (*scores)(const float* a, std::int64_t lda, std::int64_t m, const float* panels,
                   std::int64_t n, std::int64_t dim, float scale, float* z, std::int64_t ldz);
    // c[m, ldb] += z[m, n] b[n, ldb]; ldb a multiple of `columns`, m of `rows`.
    void (*accumulate)(const float* z, std::int64_t ldz, std::int64_t m, std::int64_t n,
                       const float* b, std::int64_t ldb, float* c);
    // c[n, ldb] += z[m, n]^T b[m, ldb]; n is rounded up to a multiple of `rows`.
    void (*accumulate_transposed)(const float* z, std::int64_t ldz, std::int64_t m, std::int64_t n,
                                  const float* b, std::int64_t ldb, float* c);
    // Scores -> statistics; with an output, the scores become its weights.
    void (*row_forward)(float* z, std::int64_t prefix, std::int64_t n, const RowTerms& terms,
                        const RowForward& out);
    // Scores -> their gradient (times the scale), and dout.v -> the output's weights.
    void (*row_backward)(float* z, float* dp, std::int64_t prefix, std::int64_t n,
                         const RowTerms& terms, const RowBackward& in);
};

const AttentionKernels* attention_kernels_portable();
const AttentionKernels* attention_kernels_avx2();    // null if not built
const AttentionKernels* attention_kernels_avx512();  // null if not built

}  // namespace robustad
