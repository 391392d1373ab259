"""Tile sizes of the attention degree's kernels, and how they are tuned and compiled.

No tile spills registers on sm_80 or sm_90 in any variant; which of a pair is faster depends on the
GPU, and is tried at the first call.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton

from robustad.kernels.aot import Variant

LOG2E = 1.4426950408889634
# Columns of the prefix worked on at once: the least that a matrix instruction takes.
PREFIX_BLOCK = 16


class Tile(NamedTuple):
    """Rows and columns of scores in one step, and how a kernel is launched."""

    m: int
    n: int
    warps: int
    stages: int


Tiles = Callable[[int, int, bool], list[Tile]]


def forward_tiles(head: int, size: int, fused: bool) -> list[Tile]:
    """Tiles of the forward pass for a padded head size and an element size in bytes."""
    if size == 4:
        wide = head == 128 and fused
        return [Tile(32, 32, 4, 2) if wide else Tile(64, 32, 8, 2), Tile(32, 32, 8, 2)]
    if head <= 32:
        return [Tile(64, 32, 4, 2)]
    wide = head == 128 and fused
    return [Tile(128, 32 if wide else 64, 8, 2), Tile(64, 32, 4, 2)]


def query_tiles(head: int, size: int, fused: bool) -> list[Tile]:
    """Tiles of the gradient of the queries: m rows stay, n columns pass by."""
    if size == 4:
        return [Tile(32, 32, 4, 1), Tile(32, 32, 8, 1)]
    return [Tile(64 if fused else 128, 64, 8, 2), Tile(64, 32, 4, 2)]


def key_tiles(head: int, size: int, fused: bool) -> list[Tile]:
    """Tiles of the gradient of keys and values: n columns stay, m rows pass by."""
    if size == 4:
        if fused:
            return [Tile(16, 32, 4 if head <= 32 else 8, 1)]
        return [Tile(32, 32, 8, 1), Tile(16, 32, 4, 1)]
    if head == 128:
        return [Tile(32, 64, 8, 2), Tile(16, 64, 4, 2) if fused else Tile(32, 128, 8, 2)]
    if head <= 32:
        return [Tile(64, 128, 8, 2)] if fused else [Tile(64, 64, 4, 2)]
    if not fused:
        return [Tile(64, 128, 8, 2), Tile(64, 64, 4, 2)]
    return [Tile(32, 128, 8, 2), Tile(32, 64, 4, 2)]


def config(tile: Tile) -> Any:
    """Triton's configuration of a tile."""
    values = {"BLOCK_M": tile.m, "BLOCK_N": tile.n}
    return triton.Config(values, num_warps=tile.warps, num_stages=tile.stages)


def tuned(kernel: Any, tiles: Tiles) -> Any:
    """A kernel that tries the tiles of its head size, dtype and kind at its first call."""
    if not isinstance(kernel, triton.JITFunction):  # the interpreter cannot tune
        return triton.autotune(configs=[config(Tile(32, 32, 4, 1))], key=[])(kernel)
    cases = [(head, size, f) for head in HEADS for size in (2, 4) for f in (False, True)]
    every = list(dict.fromkeys(tile for case in cases for tile in tiles(*case)))

    def fitting(configs: list[Any], named: dict[str, Any], **values: Any) -> list[Any]:
        wanted = tiles(values["HEAD"], named["q_ptr"].element_size(), values["FUSED"])
        return [one for one, tile in zip(configs, every, strict=True) if tile in wanted]

    return triton.autotune(
        configs=[config(tile) for tile in every],
        key=["HEAD", "SOFT", "STATISTICS", "FUSED", "PRECISION"],
        prune_configs_by={"early_config_prune": fitting},
    )(kernel)


HEADS = (16, 32, 64, 128)


def padded(d: int) -> int:
    """Head size the kernels work with: a power of two, of at least 16."""
    return max(HEADS[0], int(triton.next_power_of_2(d)))


def head_values(d: int, size: int) -> dict[str, Any]:
    """Compile-time arguments that follow from head size and element size in bytes.

    Three products of tf32 have float32's precision; only float32 operands are affected.
    """
    head = padded(d)
    return {
        "HEAD": head,
        "CHUNK": min(head, 32) if size == 4 else head,
        "PRECISION": "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3",
    }


# dtype, head size, kind, soft, and whether all tiles are compiled ahead of time, or the first.
CASES = (
    ("fp16", 64, "degree", True, False),
    ("bf16", 16, "degree", False, False),
    ("fp32", 64, "degree", True, False),
    ("fp32", 32, "statistics", True, False),
    ("bf16", 80, "statistics", True, True),
    ("fp32", 128, "degree", True, False),
    ("bf16", 64, "fused", True, True),
    ("fp16", 128, "fused", True, True),
    ("fp32", 128, "fused", True, True),
    ("fp16", 32, "fused", False, False),
)


def variants_of(
    kernel: Any,
    tiles: Tiles,
    like_q: tuple[str, ...],
    floats: tuple[str, ...],
    steps: tuple[str, ...],
    more: dict[str, Any],
) -> list[Variant]:
    """Variants of one kernel; `more` are its further compile-time arguments.

    `like_q` and `floats` name pointers, of the inputs' dtype and of float32; `steps` tensors whose
    strides are arguments.
    """
    strides = tuple(f"{name}_{axis}" for name in steps for axis in "bhn")
    found = []
    for dtype, d, kind, soft, all_tiles in CASES:
        fused, size = kind == "fused", 4 if dtype == "fp32" else 2
        signature = (
            dict.fromkeys(like_q, f"*{dtype}")
            | dict.fromkeys(floats, "*fp32")
            | dict.fromkeys((*strides, "heads", "tokens", "prefix"), "i32")
            | dict.fromkeys(("scale", "scale2", "delta", "slope2"), "fp32")
        )
        flags = {
            "SOFT": soft,
            "STATISTICS": kind == "statistics",
            "FUSED": fused,
            **head_values(d, size),
            **more,
        }
        mine = tiles(padded(d), size, fused)
        found += [
            Variant(
                name=f"{kernel.__name__}: {kind}, {'soft' if soft else 'hard'}, {dtype}, d {d}, "
                f"{tile.m}x{tile.n}, {tile.warps} warps",
                kernel=kernel,
                signature=signature,
                constexprs={
                    **flags,
                    **head_values(d, size),
                    **more,
                    "BLOCK_M": tile.m,
                    "BLOCK_N": tile.n,
                },
                num_warps=tile.warps,
                num_stages=tile.stages,
                # what stays is the side of 64 that a Hopper matrix instruction has
                expect_wgmma=(tile.n if kernel.__name__ == "key_gradient" else tile.m) >= 64,
                aligned=strides,
            )
            for tile in (mine if all_tiles else mine[:1])
        ]
    return found
