"""Registration of `robustad::cosine_nn` and of the packing of its bank."""

import os
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from robustad import _C
from robustad.errors import InputError
from robustad.ops._library import register
from robustad.ops.reference.cosine_nn import unit_vectors

PATH = "ROBUSTAD_COSINE_NN"  # forces an instruction set, for tests and comparisons


def _path() -> str:
    path = os.environ.get(PATH, "")
    if path and path not in (known := _C.cosine_nn_paths()):
        raise InputError(f"{PATH}: expected one of {known} on this processor, got {path!r}")
    return path


def choose_path(paths: list[str], unit: Tensor) -> str:
    """Path to pack a bank for: the fastest, unless its eight bits of mantissa are too few.

    bfloat16 is off by up to 2^-8 of a vector's length, so it can't tell the rows of a bank apart
    whose vectors all point one way, and nearly all of them would be scored again in float32.
    """
    if paths[0] == "amx" and len(paths) > 1 and float(unit.mean(dim=0).square().sum()) > 0.75:
        return paths[1]
    return paths[0]


def normalised(bank: Tensor) -> tuple[Tensor, bool]:
    """Rows (M, D), float32, at length 1, and whether all were finite.

    In one pass where the C++ core can do it: torch would take seven, each as slow as memory.
    """
    plain = bank.device.type == "cpu" and bank.dtype == torch.float32 and not bank.requires_grad
    if not plain or torch.compiler.is_compiling():
        finite = torch.compiler.is_compiling() or bool(torch.isfinite(bank).all())
        return unit_vectors(bank), finite
    bank = bank.contiguous()
    unit = torch.empty_like(bank)
    threads = torch.get_num_threads()
    rows, dim = bank.shape
    finite = _C.cosine_nn_normalise(bank.data_ptr(), rows, dim, unit.data_ptr(), threads, _path())
    return unit, finite


def _pack_cpu(unit: Tensor) -> tuple[Tensor, Tensor]:
    unit = unit.contiguous()
    path = _path() or choose_path(_C.cosine_nn_paths(), unit)
    return _packed(unit, path), unit.new_empty(0)  # the bound is in the buffer's header


def _packed(unit: Tensor, path: str) -> Tensor:
    rows, dim = unit.shape
    coarse = unit.new_empty(_packed_size(rows, dim), dtype=torch.uint8)
    coarse[_C.cosine_nn_packed_bytes(rows, dim, path) :] = 0  # the same bytes every time
    threads = torch.get_num_threads()
    _C.cosine_nn_pack(unit.data_ptr(), rows, dim, coarse.data_ptr(), threads, path)
    return coarse


def _pack_cuda(unit: Tensor) -> tuple[Tensor, Tensor]:
    from robustad.kernels.cosine_nn import pack

    return pack(unit.contiguous())


def _pack_fake(unit: Tensor) -> tuple[Tensor, Tensor]:
    rows, dim = unit.shape
    if unit.device.type == "cuda":
        from robustad.kernels.cosine_nn import packed_shapes

        coarse, side = packed_shapes(rows, dim)
        return unit.new_empty(coarse, dtype=torch.float16), unit.new_empty(side)
    return unit.new_empty(_packed_size(rows, dim), dtype=torch.uint8), unit.new_empty(0)


def _packed_size(rows: Any, dim: Any) -> Any:
    """Bytes of a bank for any path, as what was compiled with one may run with another."""
    # Rows are packed 32 at a time, and may be symbolic.
    known = {
        tuple(_C.cosine_nn_packed_bytes(count, int(dim), path) for count in (32, 64))
        for path in _C.cosine_nn_paths()
    }
    sizes = [least + (rows - 1) // 32 * (more - least) for least, more in sorted(known)]
    return reduce(torch.sym_max, sizes)


pack = register(
    "cosine_nn_pack(Tensor unit) -> (Tensor, Tensor)",
    cpu=_pack_cpu,
    cuda=_pack_cuda,
    fake=_pack_fake,
)


def _search_cpu(
    queries: Tensor, unit: Tensor, coarse: Tensor, side: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    queries, unit, path = queries.contiguous(), unit.contiguous(), _path()
    count, dim = queries.shape
    rows = unit.shape[0]
    known = [path] if path else _C.cosine_nn_paths()
    buffer = coarse.data_ptr(), coarse.numel(), rows, dim
    fitting = [name for name in known if _C.cosine_nn_packed_for(*buffer, name)]
    if fitting:
        path = fitting[0]
    else:  # another path was in force when it was packed, or it comes from another machine
        path = path or choose_path(known, unit)
        coarse = _packed(unit, path)
    distances = queries.new_empty(count, k)  # of no default dtype: the core writes float32
    indices = queries.new_empty(count, k, dtype=torch.int64)
    _C.cosine_nn_search(
        queries.data_ptr(),
        count,
        dim,
        unit.data_ptr(),
        rows,
        coarse.data_ptr(),
        coarse.numel(),
        k,
        distances.data_ptr(),
        indices.data_ptr(),
        torch.get_num_threads(),
        path,
    )
    return distances, indices


def _search_cuda(
    queries: Tensor, unit: Tensor, coarse: Tensor, side: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    from robustad.kernels.cosine_nn import search

    return search(queries, unit, coarse, side, k)


def _search_fake(
    queries: Tensor, unit: Tensor, coarse: Tensor, side: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], k)
    return queries.new_empty(shape), queries.new_empty(shape, dtype=torch.int64)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    queries, unit = inputs[:2]
    ctx.save_for_backward(queries, unit, output[1])


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    """Of `1 - q.b / |q|` through the chosen rows, which are constants of the backward pass."""
    queries, unit, indices = ctx.saved_tensors
    unit_queries = unit_vectors(queries)
    grad_queries = grad_unit = None
    if ctx.needs_input_grad[0]:
        towards = -(grad.unsqueeze(2) * unit[indices]).sum(dim=1)  # of the unit queries
        across = towards - unit_queries * (unit_queries * towards).sum(dim=1, keepdim=True)
        # The largest component is taken out: its square may be too large or small for a float32.
        largest = queries.detach().abs().amax(dim=1, keepdim=True)
        scale = torch.where(largest > 0, largest, 1.0)
        length = torch.linalg.vector_norm(queries / scale, dim=1, keepdim=True)
        grad_queries = torch.where(length > 0, across / length / scale, 0.0)
    if ctx.needs_input_grad[1]:
        parts = -grad.unsqueeze(2) * unit_queries.unsqueeze(1)
        grad_unit = torch.zeros_like(unit).index_add(0, indices.flatten(), parts.flatten(0, 1))
    return grad_queries, grad_unit, None, None, None


search = register(
    "cosine_nn(Tensor queries, Tensor unit, Tensor coarse, Tensor side, int k) -> (Tensor, Tensor)",
    cpu=_search_cpu,
    cuda=_search_cuda,
    fake=_search_fake,
    setup_context=_setup_context,
    backward=_backward,
)
