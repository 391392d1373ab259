// Softmax attention's degree, effective degree and entropy, with or without its output, and their
// gradients, without a matrix of all scores. No torch in here.
#pragma once

#include <cstdint>

namespace robustad {

struct AttentionProblem {
    std::int64_t heads;   // batch x heads, each on its own
    std::int64_t tokens;  // rows of q, k and v, the prefix included
    std::int64_t prefix;  // leading tokens that take part in the output but not in the degree
    std::int64_t dim;
    float scale;  // of the scores q.k
    float delta;  // an entry of at least this much counts
    float tau;    // width of the soft count; 0 counts hard
    int threads;
};

// All matrices contiguous: q, k, v, out: [heads, tokens, dim]; the rest one number a token: without
// the prefix [heads, tokens - prefix], `lse` [heads, tokens].
struct AttentionForward {
    const float* q;
    const float* k;
    const float* v;    // null: no output
    float* out;        // null without v
    float* lse;        // null without v: log-sum-exp of a row over all tokens
    float* degree;
    float* effective;  // null: neither effective degree nor entropy
    float* entropy;
    float* patch_lse;  // log-sum-exp of a row without the prefix
    float* moment;     // sum_j S s(1 - s), s the sigmoid; null if counted hard
};

// The gradient of the scores of row i is
//   P (dout.v - dsum) + S (a s(1 - s) + b S + c log S + r),
// with P over all tokens and S without the prefix.
struct AttentionBackward {
    const float* q;
    const float* k;
    const float* v;     // null: no output, nor the three after it
    const float* dout;
    const float* lse;
    const float* dsum;  // [heads, tokens]: dout.out of each row
    const float* patch_lse;
    const float* a;     // null: no such term; likewise b, c and r
    const float* b;
    const float* c;
    const float* r;
    float* dq;
    float* dk;
    float* dv;  // null without v
};

void attention_forward(const AttentionProblem& problem, const AttentionForward& data,
                       const char* path);
void attention_backward(const AttentionProblem& problem, const AttentionBackward& data,
                        const char* path);

// Instruction set used for `path`: "portable", "avx2" or "avx512", or "" for the best there is.
// Null if this machine or this build does not have it.
const char* attention_path(const char* path);

}  // namespace robustad
