"""Triton: degree, statistics and output of softmax attention, without its matrix.

Two passes over the keys for each block of rows: the first gives the log-sum-exp (and the output, by
the online softmax), the second makes the scores again and counts. Exponents are base 2 in here.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

import torch
import triton
import triton.language as tl
from torch import Tensor

from robustad.kernels.aot import Variant
from robustad.kernels.attention_degree_tiles import (
    LOG2E,
    PREFIX_BLOCK,
    forward_tiles,
    head_values,
    padded,
    tuned,
    variants_of,
)

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def load_rows(pointer, rows, stop, stride, dims):
    """Rows of a matrix; zeros from `stop` on."""
    mask = rows[:, None] < stop
    return tl.load(pointer + rows[:, None] * stride + dims[None, :], mask=mask, other=0.0)


@triton.jit
def products(
    a_ptr,
    a_rows,
    a_stride,
    b_ptr,
    b_rows,
    b_stride,
    stop,
    HEAD: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Rows of a times rows of b, CHUNK dimensions at a time.

    float32 operands are split into parts: of whole rows these don't fit the registers.
    """
    found = tl.zeros((a_rows.shape[0], b_rows.shape[0]), tl.float32)
    for start in range(0, HEAD, CHUNK):
        dims = start + tl.arange(0, CHUNK)
        a = load_rows(a_ptr, a_rows, stop, a_stride, dims)
        b = load_rows(b_ptr, b_rows, stop, b_stride, dims)
        found = tl.dot(a, tl.trans(b), found, input_precision=PRECISION)
    return found


@triton.jit
def forward(
    q_ptr,  # (B, H, N, HEAD), the last dimension contiguous; likewise k, v and out
    k_ptr,
    v_ptr,
    out_ptr,
    lse_ptr,  # (B H, N) float32, all tokens; the rest (B H, N - prefix) float32
    degree_ptr,
    effective_ptr,
    entropy_ptr,
    patch_lse_ptr,
    moment_ptr,
    q_b,
    q_h,
    q_n,
    k_b,
    k_h,
    k_n,
    v_b,
    v_h,
    v_n,
    out_b,
    out_h,
    out_n,
    heads,
    tokens,
    prefix,
    scale2,  # scale * log2(e)
    delta,
    slope2,  # log2(e) / tau
    SOFT: tl.constexpr,
    STATISTICS: tl.constexpr,
    FUSED: tl.constexpr,
    HEAD: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
    PREFIX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """BLOCK_M rows of one head: their statistics, and with FUSED their output."""
    blocks = tl.cdiv(tokens, BLOCK_M)
    head = (tl.program_id(0) // blocks).to(tl.int64)
    rows = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, HEAD)
    q_ptr += (head // heads) * q_b + (head % heads) * q_h
    k_ptr += (head // heads) * k_b + (head % heads) * k_h
    if CHUNK == HEAD:
        q = load_rows(q_ptr, rows, tokens, q_n, dims)
    top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    if FUSED:
        v_ptr += (head // heads) * v_b + (head % heads) * v_h
        sums = tl.zeros((BLOCK_M, HEAD), tl.float32)

    for start in range(prefix, tokens, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        if CHUNK == HEAD:
            k = load_rows(k_ptr, columns, tokens, k_n, dims)
            z = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        else:
            z = products(q_ptr, rows, q_n, k_ptr, columns, k_n, tokens, HEAD, CHUNK, PRECISION)
        z = tl.where(columns[None, :] < tokens, z * scale2, float("-inf"))
        new_top = tl.maximum(top, tl.max(z, axis=1))
        kept = tl.exp2(top - new_top)
        weights = tl.exp2(z - new_top[:, None])
        total = total * kept + tl.sum(weights, axis=1)
        if FUSED:
            v = load_rows(v_ptr, columns, tokens, v_n, dims)
            sums = sums * kept[:, None]
            sums = tl.dot(weights.to(v.dtype), v, sums, input_precision=PRECISION)
        top = new_top
    # Kept apart: of their log-sum-exp, equal scores would make less than 1 / N.
    patch_top = top
    patch_total = total

    if FUSED:
        # The prefix comes last: the degree needs a log-sum-exp that it is not part of.
        for start in range(0, prefix, PREFIX):
            columns = start + tl.arange(0, PREFIX)
            if CHUNK == HEAD:
                k = load_rows(k_ptr, columns, tokens, k_n, dims)
                z = tl.dot(q, tl.trans(k), input_precision=PRECISION)
            else:
                z = products(q_ptr, rows, q_n, k_ptr, columns, k_n, tokens, HEAD, CHUNK, PRECISION)
            z = tl.where(columns[None, :] < prefix, z * scale2, float("-inf"))
            new_top = tl.maximum(top, tl.max(z, axis=1))
            kept = tl.exp2(top - new_top)
            weights = tl.exp2(z - new_top[:, None])
            total = total * kept + tl.sum(weights, axis=1)
            v = load_rows(v_ptr, columns, prefix, v_n, dims)
            sums = sums * kept[:, None]
            sums = tl.dot(weights.to(v.dtype), v, sums, input_precision=PRECISION)
            top = new_top
        out_ptr += (head // heads) * out_b + (head % heads) * out_h
        mask = rows[:, None] < tokens
        out = (sums / total[:, None]).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + rows[:, None] * out_n + dims[None, :], out, mask=mask)
        lse = (top + tl.log2(total)) * LN2
        tl.store(lse_ptr + head * tokens + rows, lse, mask=rows < tokens)

    inverse = tl.div_rn(tl.full((BLOCK_M,), 1.0, tl.float32), patch_total)
    degree = tl.zeros((BLOCK_M,), tl.float32)
    moment = tl.zeros((BLOCK_M,), tl.float32)
    squares = tl.zeros((BLOCK_M,), tl.float32)
    mean = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(prefix, tokens, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        inside = columns[None, :] < tokens
        if CHUNK == HEAD:
            k = load_rows(k_ptr, columns, tokens, k_n, dims)
            z = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        else:
            z = products(q_ptr, rows, q_n, k_ptr, columns, k_n, tokens, HEAD, CHUNK, PRECISION)
        z = z * scale2 - patch_top[:, None]
        s = tl.where(inside, tl.exp2(z) * inverse[:, None], 0.0)
        if SOFT:
            t = tl.where(inside, 1.0 / (1.0 + tl.exp2((delta - s) * slope2)), 0.0)
            degree += tl.sum(t, axis=1)
            moment += tl.sum(s * t * (1.0 - t), axis=1)
        else:
            degree += tl.sum(tl.where(inside & (s >= delta), 1.0, 0.0), axis=1)
        if STATISTICS:
            squares += tl.sum(s * s, axis=1)
            mean += tl.sum(s * z, axis=1)

    at = head * (tokens - prefix) + rows - prefix
    mask = (rows >= prefix) & (rows < tokens)
    tl.store(degree_ptr + at, degree, mask=mask)
    log_total = tl.log2(patch_total)
    tl.store(patch_lse_ptr + at, (patch_top + log_total) * LN2, mask=mask)
    if SOFT:
        tl.store(moment_ptr + at, moment, mask=mask)
    if STATISTICS:
        tl.store(effective_ptr + at, 1.0 / squares, mask=mask)
        tl.store(entropy_ptr + at, (log_total - mean) * LN2, mask=mask)


tuned_forward = tuned(forward, forward_tiles)


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    delta: float,
    tau: float | None,
    prefix: int,
    scale: float,
    statistics: bool,
) -> dict[str, Tensor]:
    b, h, n, d = q.shape
    q, k = laid_out(q), laid_out(k)
    made = {
        name: q.new_empty((b, h, n - prefix), dtype=torch.float32)
        for name in ["degree", "patch_lse"] + ["effective", "entropy"] * statistics
    }
    made["moment"] = q.new_empty((0,) if tau is None else (b, h, n - prefix), dtype=torch.float32)
    if v is not None:
        v = laid_out(v)
        made["out"] = q.new_empty(q.shape)
        made["lse"] = q.new_empty((b, h, n), dtype=torch.float32)
    if b * h == 0:
        return made
    unused = made["degree"]  # stands for what this variant does not touch
    v_, out = (q, q) if v is None else (v, made["out"])
    names = ("lse", "degree", "effective", "entropy", "patch_lse", "moment")
    tuned_forward[lambda values: (b * h * triton.cdiv(n, values["BLOCK_M"]),)](
        q,
        k,
        v_,
        out,
        *(made.get(name, unused) for name in names),
        *(step for x in (q, k, v_, out) for step in x.stride()[:3]),
        h,
        n,
        prefix,
        scale * LOG2E,
        delta,
        0.0 if tau is None else LOG2E / tau,
        SOFT=tau is not None,
        STATISTICS=statistics,
        FUSED=v is not None,
        **head_values(d, q.element_size()),
        PREFIX=PREFIX_BLOCK,
    )
    if v is not None and q.shape[3] != d:
        made["out"] = made["out"][..., :d].contiguous()
    return made


def laid_out(x: Tensor) -> Tensor:
    """Copy a tensor only if the kernels cannot read it where it lies.

    They take their own head sizes, rows in one piece, and heads that 32-bit offsets span.
    """
    missing = padded(x.shape[3]) - x.shape[3]
    if missing:
        return torch.nn.functional.pad(x, (0, missing))
    readable = x.stride(3) == 1 and x.shape[2] * x.stride(2) < 2**31
    return x if readable else x.contiguous()


def degree(
    q: Tensor, k: Tensor, delta: float, tau: float | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Degree, log-sum-exp and moment (B, H, N) of q and k (B, H, N, d)."""
    made = _run(q, k, None, delta, tau, 0, scale, statistics=False)
    return made["degree"], made["patch_lse"], made["moment"]


def statistics(
    q: Tensor, k: Tensor, delta: float, tau: float | None, scale: float
) -> tuple[Tensor, ...]:
    """Degree, effective degree, entropy, log-sum-exp and moment (B, H, N) of q and k."""
    made = _run(q, k, None, delta, tau, 0, scale, statistics=True)
    return tuple(made[x] for x in ("degree", "effective", "entropy", "patch_lse", "moment"))


def with_degree(
    q: Tensor, k: Tensor, v: Tensor, delta: float, tau: float | None, prefix: int, scale: float
) -> tuple[Tensor, ...]:
    """Output (B, H, N, d), degree, log-sum-exp with and without the prefix, and moment."""
    made = _run(q, k, v, delta, tau, prefix, scale, statistics=False)
    return tuple(made[x] for x in ("out", "degree", "lse", "patch_lse", "moment"))


def variants() -> list[Variant]:
    """List the variants to be compiled ahead of time."""
    rows = ("lse", "degree", "effective", "entropy", "patch_lse", "moment")
    return variants_of(
        forward,
        forward_tiles,
        ("q_ptr", "k_ptr", "v_ptr", "out_ptr"),
        tuple(f"{name}_ptr" for name in rows),
        ("q", "k", "v", "out"),
        {"PREFIX": PREFIX_BLOCK},
    )
