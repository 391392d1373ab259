"""Soft attention degree, forward and backward, with and without the attention's output.

Peak memory is measured apart from the time, in one extra step: on CUDA what torch's allocator held
at the most; on the CPU how far the largest resident size of a child process grows during the step,
after a warm-up on a small shape. What the inputs and their gradients take is part of it.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustad.ops import attention_degree, attention_with_degree
from robustad.ops.reference import attention_degree as reference

TAU = 0.01
# Images, heads, tokens, head size: 518 pixels in patches of 14 with a class token; 896 pixels.
SHAPES = [
    (4, 6, 1370, 64),
    pytest.param((1, 6, 4097, 64), marks=pytest.mark.slow),
]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    ),
]
Step = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]


def eager(q: Tensor, k: Tensor) -> Tensor:
    weights = ((q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return torch.sigmoid((weights - 1 / q.shape[2]) / TAU).sum(dim=-1, dtype=torch.float32)


def degree_step(degree: Callable[[Tensor, Tensor], Tensor]) -> Step:
    def step(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(degree(q, k).mean(), (q, k))

    return step


def fused_step(both: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> Step:
    def step(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        out, degree = both(q, k, v)
        return torch.autograd.grad(out.float().square().mean() + degree.mean(), (q, k, v))

    return step


def sdpa_and_eager(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return F.scaled_dot_product_attention(q, k, v), eager(q, k)


def ours(q: Tensor, k: Tensor) -> Tensor:
    return attention_degree(q, k, 1 / q.shape[2], TAU)


def ours_fused(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return attention_with_degree(q, k, v, 1 / q.shape[2], TAU)


STEPS: dict[str, dict[str, Callable[[], Step]]] = {
    "attention_degree": {
        "robustad": lambda: degree_step(ours),
        "eager": lambda: degree_step(eager),
        "compiled eager": lambda: degree_step(torch.compile(eager)),
    },
    "attention_with_degree": {
        "robustad": lambda: fused_step(ours_fused),
        "SDPA and eager": lambda: fused_step(sdpa_and_eager),
        "compiled SDPA and eager": lambda: fused_step(torch.compile(sdpa_and_eager)),
        "SDPA alone": lambda: fused_step(
            lambda q, k, v: (F.scaled_dot_product_attention(q, k, v), q.new_zeros(1))
        ),
    },
}


def inputs(shape: tuple[int, ...], device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    made = [torch.randn(shape, generator=generator) for _ in range(3)]
    return [x.to(device, dtype).requires_grad_() for x in made]


def resident_growth(operation: str, impl: str, shape: tuple[int, ...]) -> int:
    """Bytes by which the largest resident size grows in a step; run in a process of its own."""
    import resource

    step = STEPS[operation][impl]()
    # The kernels of a compiled function depend on the shape: they are made before measuring.
    small = shape if impl.startswith("compiled") else (1, 1, 64, shape[-1])
    step(*inputs(small, "cpu"))
    arguments = inputs(shape, "cpu")
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")  # the largest size so far is forgotten
    before = resident()
    step(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    status = Path("/proc/self/status")
    if status.exists():
        peak = field(status.read_text(), "VmHWM")
    return max(0, peak - before)


def resident() -> int:
    return field(Path("/proc/self/status").read_text(), "VmRSS")


def field(text: str, name: str) -> int:
    line = next(x for x in text.splitlines() if x.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def peak_memory(operation: str, impl: str, shape: tuple[int, ...], device: str) -> int | None:
    if device == "cuda":
        step, arguments = STEPS[operation][impl](), inputs(shape, device)
        step(*arguments)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(*arguments)
        return torch.cuda.max_memory_allocated() - before
    if not sys.platform.startswith("linux"):
        return None
    command = [sys.executable, __file__, operation, impl, ",".join(map(str, shape))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return int(done.stdout.split()[-1])


def check(operation: str, step: Step, device: str) -> None:
    """Compare gradients with those of the torch twin in float64."""
    arguments = inputs((1, 2, 48, 64), device)
    exact = [x.detach().double().requires_grad_() for x in arguments]
    if operation == "attention_degree":
        wanted = degree_step(lambda q, k: reference.attention_degree(q, k, 1 / 48, TAU))(*exact)
    else:
        wanted = fused_step(lambda q, k, v: reference.attention_with_degree(q, k, v, 1 / 48, TAU))(
            *exact
        )
    tolerance = 1e-4 if device == "cpu" else 0.05  # bfloat16
    for grad, want in zip(step(*arguments), wanted, strict=True):
        assert (grad - want).abs().max() <= tolerance * want.abs().max()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize(
    ("operation", "impl"), [(name, impl) for name, steps in STEPS.items() for impl in steps]
)
def test_forward_and_backward(
    benchmark: Any, operation: str, impl: str, shape: tuple[int, ...], device: str
) -> None:
    benchmark.group = f"{operation}, {' x '.join(map(str, shape))}, {device}"
    step, arguments = STEPS[operation][impl](), inputs(shape, device)
    if not impl.startswith(("compiled", "SDPA alone")):
        check(operation, step, device)

    def timed() -> None:
        step(*arguments)
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(timed, rounds=5, warmup_rounds=2)
    if not benchmark.disabled:
        benchmark.extra_info["peak_bytes"] = peak_memory(operation, impl, shape, device)
    b, h, n, d = shape
    products = 3 if operation == "attention_degree" else 6  # that nobody can do without
    benchmark.extra_info.update(
        items=b,
        flops=2 * products * b * h * n * n * d,
        device=device,
        dtype=str(arguments[0].dtype).removeprefix("torch."),
    )


if __name__ == "__main__":
    print(resident_growth(sys.argv[1], sys.argv[2], tuple(map(int, sys.argv[3].split(",")))))
