"""Triton kernels for NVIDIA GPUs; importing this package does not import Triton.

Each kernel has its torch reference in `robustad.ops` under the same stem. Use the operations from
`robustad.ops`: they choose the implementation by device.
"""

from importlib.util import find_spec


def triton_available() -> bool:
    """Whether Triton is installed; it ships with the CUDA builds of torch.

    Examples
    --------
    >>> isinstance(triton_available(), bool)
    True
    """
    return find_spec("triton") is not None
