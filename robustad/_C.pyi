# Addresses of contiguous memory, as `Tensor.data_ptr()` gives them; nothing is checked.
def topk_mean(
    scores: int,
    weights: int,
    rows: int,
    columns: int,
    k: int,
    fraction: float,
    shared: bool,
    dtype: int,
    threads: int,
    means: int,
    state: int,
) -> None: ...
def topk_mean_backward(
    scores: int,
    weights: int,
    rows: int,
    columns: int,
    dtype: int,
    threads: int,
    grad: int,
    state: int,
    out: int,
) -> None: ...
def topk_mean_paths() -> list[str]: ...
