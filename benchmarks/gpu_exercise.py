"""Small jobs for the GPU: `gpu_exercise.py kernels` or `gpu_exercise.py ceilings`.

`kernels` runs every CUDA and Triton kernel on small inputs and compares with torch; it is what the
GPU suite puts under compute-sanitizer. `ceilings` prints as JSON what the GPU reaches in matrix
products and copies of torch's own: the roofline of the benchmarks.
"""

import json
import statistics
import sys
import traceback
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(shape, device="cuda", generator=generator)


def exercise_topk_mean() -> None:
    from robustad.ops import topk_mean

    for rows, columns, k in ((3, 1369, 14), (1, 7, 7), (2, 70001, 700)):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            scores = random(rows, columns).to(dtype).requires_grad_()
            means = topk_mean(scores, k)
            means.sum().backward()
            expected = scores.detach().float().topk(k, dim=1).values.mean(dim=1)
            torch.testing.assert_close(means.float(), expected, rtol=1e-2, atol=1e-2)
            assert scores.grad is not None
            # k entries of 1/k a row, in the rounding of the dtype
            assert abs(float(scores.grad.float().sum()) / rows - 1) < 1e-2


def exercise_cosine_nn() -> None:
    from robustad.kernels import cosine_nn as kernels
    from robustad.kernels import cosine_nn_dense as dense_pass
    from robustad.ops import cosine_nn, pack_bank

    usual = dense_pass.limit
    for limit in (usual, lambda groups: 0):  # the second sends every query to the dense pass
        dense_pass.limit = limit
        for rows, size, dim, k in ((5, 300, 37, 1), (130, 700, 384, 4)):
            queries = F.normalize(random(rows, dim))
            bank = F.normalize(random(size, dim, seed=1))
            exact = queries.double() @ bank.double().T
            _, nearest = kernels.search(queries, bank, *kernels.pack(bank), k)
            lost = exact.topk(k, dim=1).values - exact.gather(1, nearest)
            assert float(lost.abs().max()) <= 1e-6
    dense_pass.limit = usual
    queries = random(9, 64).requires_grad_()
    distances, _ = cosine_nn(queries, pack_bank(random(200, 64, seed=1)), 2)
    distances.sum().backward()
    assert queries.grad is not None
    assert bool(queries.grad.isfinite().all())


def exercise_attention_degree() -> None:
    from robustad.ops import attention_degree, attention_statistics, attention_with_degree

    for dtype, size in ((torch.float32, 70), (torch.float16, 197), (torch.bfloat16, 197)):
        q, k = (random(1, 2, size, 64, seed=s).to(dtype).requires_grad_() for s in (0, 1))
        degree = attention_degree(q, k, 1 / size, 0.1 / size, prefix_tokens=1)
        degree.float().mean().backward()
        assert q.grad is not None
        assert bool(degree.isfinite().all())
        assert bool(q.grad.isfinite().all())
        # and what shares the pass with it
        attention_statistics(q.detach(), k.detach(), 1 / size, prefix_tokens=1)
        output, _ = attention_with_degree(q, k, k, 1 / size, 0.1 / size, prefix_tokens=1)
        expected = F.scaled_dot_product_attention(q, k, k)
        torch.testing.assert_close(output, expected, rtol=2e-2, atol=2e-2)
        output.float().sum().backward()


EXERCISES = {
    "topk_mean": exercise_topk_mean,
    "cosine_nn": exercise_cosine_nn,
    "attention_degree": exercise_attention_degree,
}


def kernels() -> int:
    """Run all exercises, failing ones included, and say how each went."""
    bad = 0
    for name, exercise in EXERCISES.items():
        try:
            exercise()
            torch.cuda.synchronize()
            print(f"{name}: ok")
        except Exception:  # the others should still run
            bad += 1
            print(f"{name}: failed\n{traceback.format_exc()}")
    return 1 if bad else 0


def seconds(work: Callable[[], object], rounds: int = 20) -> float:
    """Median time of one call on the GPU."""
    times = []
    for _ in range(rounds + 5):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times[5:])


def ceilings() -> int:
    """Measure matrix products and copies."""
    torch.backends.cuda.matmul.allow_tf32 = False
    found = {}
    for name, dtype, size in (
        ("bf16_flops", torch.bfloat16, 8192),
        ("fp16_flops", torch.float16, 8192),
        ("fp32_flops", torch.float32, 4096),
    ):
        left, right = random(size, size).to(dtype), random(size, size, seed=1).to(dtype)
        out = torch.empty_like(left)
        found[name] = 2 * size**3 / seconds(lambda a=left, b=right, c=out: torch.mm(a, b, out=c))
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    found["bytes"] = 2 * source.numel() / seconds(lambda: target.copy_(source))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit({"kernels": kernels, "ceilings": ceilings}[sys.argv[1]]())
