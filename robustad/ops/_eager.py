"""When an operator may run its kernel at once instead of asking torch's dispatcher for it."""

import torch
from torch import Tensor


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
        (type(tensor) is Tensor or type(tensor) is torch.nn.Parameter)
        and not torch.compiler.is_compiling()
        and (tensor.is_cpu or tensor.is_cuda)
        and not tensor.is_neg()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and not torch.jit.is_tracing()
    )
