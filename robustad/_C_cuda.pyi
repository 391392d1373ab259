# Addresses of contiguous memory on a GPU, and of a CUDA stream; nothing is checked.
def device_count() -> int: ...
def topk_mean(
    scores: int,
    weights: int,
    rows: int,
    columns: int,
    k: int,
    fraction: float,
    shared: bool,
    dtype: int,
    device: int,
    stream: int,
    means: int,
    state: int,
) -> None: ...
def topk_mean_backward(
    scores: int,
    weights: int,
    rows: int,
    columns: int,
    dtype: int,
    device: int,
    stream: int,
    grad: int,
    state: int,
    out: int,
) -> None: ...
