"""Triton: kernels of the gradients of degree, statistics and output of attention.

One kernel keeps rows and passes over the columns, for the queries; the other keeps columns and
passes over the rows, for keys and values. No sum is shared, so results do not vary between runs.
With P over all tokens, S without the prefix and s(x) the sigmoid of (x - delta) / tau, both make

    P (dout.v - dsum) + S (a s(1 - s) + b S + c log S + r)

again from the saved log-sum-exps.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

import triton
import triton.language as tl

from robustad.kernels.aot import Variant
from robustad.kernels.attention_degree import LN2, load_rows, products
from robustad.kernels.attention_degree_tiles import (
    LOG2E,
    key_tiles,
    query_tiles,
    tuned,
    variants_of,
)

LOG2_E = tl.constexpr(LOG2E)


@triton.jit
def score_gradient(
    z,  # scores in units of log(2)
    dp,  # dout.v
    lse,  # as broadcast to z, like the rest; base e
    dsum,
    patch_lse,
    a,
    b,
    c,
    r,
    degree,  # where row and column are neither of the prefix nor beyond the end
    output,  # where they are not beyond the end
    delta,
    slope2,
    weight,
    SOFT: tl.constexpr,
    STATISTICS: tl.constexpr,
    FUSED: tl.constexpr,
):
    """Gradient of scores, and the output's weights."""
    log_s = z - patch_lse * LOG2_E
    s = tl.exp2(log_s)
    inner = r
    if SOFT:
        t = 1.0 / (1.0 + tl.exp2((delta - s) * slope2))
        inner = inner + a * t * (1.0 - t)
    if STATISTICS:
        inner = inner + b * s + c * log_s * LN2
    gradient = tl.where(degree, s * inner, 0.0)
    weights = s
    if FUSED:
        weights = tl.where(output, tl.exp2(z - lse * LOG2_E), 0.0)
        gradient += weights * (dp * weight - dsum)
    return gradient, weights


@triton.jit
def query_gradient(
    q_ptr,  # (B, H, N, HEAD), the last dimension contiguous; likewise k, v, dout and dq
    k_ptr,
    v_ptr,
    dout_ptr,
    dq_ptr,
    lse_ptr,  # (B H, N) float32, likewise dsum; the rest (B H, N - prefix)
    dsum_ptr,
    patch_lse_ptr,
    a_ptr,
    b_ptr,
    c_ptr,
    r_ptr,
    size_ptr,  # (B H,) float32: unit of the gradients in a, b, c, r and dsum
    q_b,
    q_h,
    q_n,
    k_b,
    k_h,
    k_n,
    v_b,
    v_h,
    v_n,
    dout_b,
    dout_h,
    dout_n,
    dq_b,
    dq_h,
    dq_n,
    heads,
    tokens,
    prefix,
    scale,
    scale2,  # scale * log2(e)
    delta,
    slope2,  # log2(e) / tau
    SOFT: tl.constexpr,
    STATISTICS: tl.constexpr,
    FUSED: tl.constexpr,
    HEAD: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Gradient of BLOCK_M queries of one head."""
    blocks = tl.cdiv(tokens, BLOCK_M)
    head = (tl.program_id(0) // blocks).to(tl.int64)
    rows = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, HEAD)
    q_ptr += (head // heads) * q_b + (head % heads) * q_h
    k_ptr += (head // heads) * k_b + (head % heads) * k_h
    if CHUNK == HEAD:
        q = load_rows(q_ptr, rows, tokens, q_n, dims)
    size = tl.load(size_ptr + head)
    at = head * (tokens - prefix) + rows - prefix
    patch_rows = (rows >= prefix) & (rows < tokens)
    patch_lse = tl.load(patch_lse_ptr + at, mask=patch_rows, other=0.0)[:, None]
    r = tl.load(r_ptr + at, mask=patch_rows, other=0.0)[:, None]
    a = r
    if SOFT:
        a = tl.load(a_ptr + at, mask=patch_rows, other=0.0)[:, None]
    b, c = r, r
    if STATISTICS:
        b = tl.load(b_ptr + at, mask=patch_rows, other=0.0)[:, None]
        c = tl.load(c_ptr + at, mask=patch_rows, other=0.0)[:, None]
    lse, dsum, first = r, r, prefix
    if FUSED:
        v_ptr += (head // heads) * v_b + (head % heads) * v_h
        dout_ptr += (head // heads) * dout_b + (head % heads) * dout_h
        if CHUNK == HEAD:
            dout = load_rows(dout_ptr, rows, tokens, dout_n, dims)
        lse = tl.load(lse_ptr + head * tokens + rows, mask=rows < tokens, other=0.0)[:, None]
        dsum = tl.load(dsum_ptr + head * tokens + rows, mask=rows < tokens, other=0.0)[:, None]
        first = 0
    dq = tl.zeros((BLOCK_M, HEAD), tl.float32)
    for start in range(first, tokens, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        k = load_rows(k_ptr, columns, tokens, k_n, dims)
        if CHUNK == HEAD:
            z = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        else:
            z = products(q_ptr, rows, q_n, k_ptr, columns, k_n, tokens, HEAD, CHUNK, PRECISION)
        z = z * scale2
        dp = z
        if FUSED:
            if CHUNK == HEAD:
                v = load_rows(v_ptr, columns, tokens, v_n, dims)
                dp = tl.dot(dout, tl.trans(v), input_precision=PRECISION)
            else:
                dp = products(
                    dout_ptr, rows, dout_n, v_ptr, columns, v_n, tokens, HEAD, CHUNK, PRECISION
                )
        inside = columns[None, :] < tokens
        degree = patch_rows[:, None] & inside & (columns[None, :] >= prefix)
        gradient, _ = score_gradient(
            z,
            dp,
            lse,
            dsum,
            patch_lse,
            a,
            b,
            c,
            r,
            degree,
            inside,
            delta,
            slope2,
            1.0 / size,
            SOFT,
            STATISTICS,
            FUSED,
        )
        dq = tl.dot(gradient.to(k.dtype), k, dq, input_precision=PRECISION)
    dq_ptr += (head // heads) * dq_b + (head % heads) * dq_h
    mask = rows[:, None] < tokens
    dq = (dq * (scale * size)).to(dq_ptr.dtype.element_ty)
    tl.store(dq_ptr + rows[:, None] * dq_n + dims[None, :], dq, mask=mask)


@triton.jit
def key_gradient(
    q_ptr,  # as of query_gradient
    k_ptr,
    v_ptr,
    dout_ptr,
    dk_ptr,
    dv_ptr,
    lse_ptr,
    dsum_ptr,
    patch_lse_ptr,
    a_ptr,
    b_ptr,
    c_ptr,
    r_ptr,
    size_ptr,
    q_b,
    q_h,
    q_n,
    k_b,
    k_h,
    k_n,
    v_b,
    v_h,
    v_n,
    dout_b,
    dout_h,
    dout_n,
    dk_b,
    dk_h,
    dk_n,
    heads,
    tokens,
    prefix,
    scale,
    scale2,
    delta,
    slope2,
    SOFT: tl.constexpr,
    STATISTICS: tl.constexpr,
    FUSED: tl.constexpr,
    HEAD: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Gradient of BLOCK_N keys, and with FUSED values, of one head.

    The tile of scores is transposed: columns down, rows across.
    """
    blocks = tl.cdiv(tokens, BLOCK_N)
    head = (tl.program_id(0) // blocks).to(tl.int64)
    columns = (tl.program_id(0) % blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    dims = tl.arange(0, HEAD)
    q_ptr += (head // heads) * q_b + (head % heads) * q_h
    k_ptr += (head // heads) * k_b + (head % heads) * k_h
    if CHUNK == HEAD:
        k = load_rows(k_ptr, columns, tokens, k_n, dims)
    size = tl.load(size_ptr + head)
    dk = tl.zeros((BLOCK_N, HEAD), tl.float32)
    if FUSED:
        v_ptr += (head // heads) * v_b + (head % heads) * v_h
        dout_ptr += (head // heads) * dout_b + (head % heads) * dout_h
        if CHUNK == HEAD:
            v = load_rows(v_ptr, columns, tokens, v_n, dims)
        dv = tl.zeros((BLOCK_N, HEAD), tl.float32)
    for start in range(0, tokens, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        q = load_rows(q_ptr, rows, tokens, q_n, dims)
        at = head * (tokens - prefix) + rows - prefix
        patch_rows = (rows >= prefix) & (rows < tokens)
        patch_lse = tl.load(patch_lse_ptr + at, mask=patch_rows, other=0.0)[None, :]
        r = tl.load(r_ptr + at, mask=patch_rows, other=0.0)[None, :]
        a = r
        if SOFT:
            a = tl.load(a_ptr + at, mask=patch_rows, other=0.0)[None, :]
        b, c = r, r
        if STATISTICS:
            b = tl.load(b_ptr + at, mask=patch_rows, other=0.0)[None, :]
            c = tl.load(c_ptr + at, mask=patch_rows, other=0.0)[None, :]
        if CHUNK == HEAD:
            z = tl.dot(k, tl.trans(q), input_precision=PRECISION)
        else:
            z = products(k_ptr, columns, k_n, q_ptr, rows, q_n, tokens, HEAD, CHUNK, PRECISION)
        z = z * scale2
        lse, dsum, dp = r, r, z
        if FUSED:
            dout = load_rows(dout_ptr, rows, tokens, dout_n, dims)
            if CHUNK == HEAD:
                dp = tl.dot(v, tl.trans(dout), input_precision=PRECISION)
            else:
                dp = products(
                    v_ptr, columns, v_n, dout_ptr, rows, dout_n, tokens, HEAD, CHUNK, PRECISION
                )
            lse = tl.load(lse_ptr + head * tokens + rows, mask=rows < tokens, other=0.0)[None, :]
            dsum = tl.load(dsum_ptr + head * tokens + rows, mask=rows < tokens, other=0.0)[None, :]
        inside = rows[None, :] < tokens
        degree = patch_rows[None, :] & (columns[:, None] >= prefix)
        gradient, weights = score_gradient(
            z,
            dp,
            lse,
            dsum,
            patch_lse,
            a,
            b,
            c,
            r,
            degree,
            inside,
            delta,
            slope2,
            1.0 / size,
            SOFT,
            STATISTICS,
            FUSED,
        )
        if FUSED:
            dv = tl.dot(weights.to(dout.dtype), dout, dv, input_precision=PRECISION)
        dk = tl.dot(gradient.to(q.dtype), q, dk, input_precision=PRECISION)
    dk_ptr += (head // heads) * dk_b + (head % heads) * dk_h
    mask = columns[:, None] < tokens
    to = columns[:, None] * dk_n + dims[None, :]
    tl.store(dk_ptr + to, (dk * (scale * size)).to(dk_ptr.dtype.element_ty), mask=mask)
    if FUSED:  # dv lies in memory as dk does
        dv_ptr += (head // heads) * dk_b + (head % heads) * dk_h
        tl.store(dv_ptr + to, dv.to(dv_ptr.dtype.element_ty), mask=mask)


tuned_query_gradient = tuned(query_gradient, query_tiles)
tuned_key_gradient = tuned(key_gradient, key_tiles)


def variants() -> list[Variant]:
    """List the variants to be compiled ahead of time."""
    pointers = ("q_ptr", "k_ptr", "v_ptr", "dout_ptr")
    rows = ("lse", "dsum", "patch_lse", "a", "b", "c", "r", "size")
    floats = tuple(f"{name}_ptr" for name in rows)
    steps = ("q", "k", "v", "dout")
    query = (query_gradient, query_tiles, (*pointers, "dq_ptr"), floats, (*steps, "dq"))
    key = (key_gradient, key_tiles, (*pointers, "dk_ptr", "dv_ptr"), floats, (*steps, "dk"))
    return variants_of(*query, {}) + variants_of(*key, {})
