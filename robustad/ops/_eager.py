"""When an operator may run its kernel at once instead of asking torch's dispatcher for it."""

from torch import _C, Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.nn import Parameter

# Looked up once: half of what the question costs.
modes = _C._len_torch_dispatch_stack
transform = _C._functorch.peek_interpreter_stack
is_batched = _C._functorch.is_legacy_batchedtensor
is_tracing = _C._is_tracing


def is_plain(tensor: Tensor) -> bool:
    """Whether nothing but the kernel would see a call with this tensor.

    A call through the dispatcher, with its gradient, costs about 40 us more than one that goes
    straight to the kernel. That is right only for tensors with memory of their own, while nothing
    records or transforms operations: no compiler, tracer, `torch.func` transform or mode.

    Examples
    --------
    >>> import torch
    >>> is_plain(torch.zeros(2)), is_plain(torch.zeros(2, device="meta"))
    (True, False)
    """
    return (
        not is_compiling()
        and (type(tensor) is Tensor or type(tensor) is Parameter)
        and (tensor.is_cpu or tensor.is_cuda)
        and not tensor.is_neg()
        and not tensor._is_zerotensor()
        and not modes()
        and transform() is None
        and not is_batched(tensor)
        and not is_tracing()
    )


def is_transformed() -> bool:
    """Whether a `torch.func` transform or forward-mode differentiation is at work.

    They need operations that they know: a registered operator has no forward derivative, and torch
    would take it for a constant without a word.

    Examples
    --------
    >>> import torch
    >>> is_transformed(), torch.func.vmap(lambda x: x + is_transformed())(torch.zeros(2))
    (False, tensor([1., 1.]))
    """
    return not is_compiling() and (transform() is not None or forward_ad._current_level >= 0)
