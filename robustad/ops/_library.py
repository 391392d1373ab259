"""The `robustad::` operator library: one way to register an operator with torch.

An operator is an opaque node for `torch.compile` and `torch.export`: its shape and dtype come from
`fake`, its derivative from `backward`, and its computation from one kernel a device. The low-level
`torch.library.Library` is used because a call through it costs a fifth of one through `custom_op`.
"""

from collections.abc import Callable
from typing import Any

import torch

_torch_library: Any = torch.library  # partly without types
# Kept for the life of the process: torch removes an operator when its library object dies.
LIBRARY = _torch_library.Library("robustad", "DEF")


def register(
    schema: str,
    *,
    cpu: Callable[..., Any],
    cuda: Callable[..., Any],
    fake: Callable[..., Any],
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
    autocast: torch.dtype | None = None,
) -> Any:
    """Define an operator with its kernels and return its default overload.

    Parameters
    ----------
    schema : str
        `name(arguments) -> results`, in torch's schema language. Arguments reach the kernels
        unchecked: the public function checks them first, for eager and traced calls alike.
    cpu, cuda : callable
        Kernels of the two devices.
    fake : callable
        Results' shapes and dtypes without their values.
    setup_context, backward : callable, optional
        As for `torch.library.register_autograd`; without them the operator has no gradient.
    autocast : torch.dtype, optional
        Floating-point arguments are cast to it where autocast is on; without it they keep theirs.
    """
    name = f"{LIBRARY.ns}::{schema.partition('(')[0]}"
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, cpu, "CPU")
    LIBRARY.impl(name, cuda, "CUDA")
    _torch_library.register_fake(name, fake, lib=LIBRARY)
    if backward is not None:
        _torch_library.register_autograd(name, backward, setup_context=setup_context, lib=LIBRARY)
    if autocast is not None:
        for device in ("cpu", "cuda"):
            _torch_library.register_autocast(name, device, autocast, lib=LIBRARY)
    return getattr(torch.ops.robustad, name.partition("::")[2]).default
