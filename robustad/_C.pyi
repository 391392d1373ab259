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
def cosine_nn_paths() -> list[str]: ...
def cosine_nn_packed_bytes(rows: int, dim: int, path: str = "") -> int: ...
def cosine_nn_normalise(
    vectors: int, rows: int, dim: int, unit: int, threads: int, path: str = ""
) -> bool: ...
def cosine_nn_pack(
    unit: int, rows: int, dim: int, packed: int, threads: int, path: str = ""
) -> None: ...
def cosine_nn_packed_for(packed: int, bytes: int, rows: int, dim: int, path: str = "") -> bool: ...
def cosine_nn_search(
    queries: int,
    count: int,
    dim: int,
    unit: int,
    rows: int,
    packed: int,
    bytes: int,
    k: int,
    distances: int,
    indices: int,
    threads: int,
    path: str = "",
) -> None: ...

# Heads, tokens, prefix, dim; then scale, delta, tau; then the addresses that AttentionForward and
# AttentionBackward in csrc/attention_degree.h list, the number of threads and the path.
def attention_forward(shape: tuple[int, ...], *numbers: float | str) -> None: ...
def attention_backward(shape: tuple[int, ...], *numbers: float | str) -> None: ...
def attention_path(path: str) -> str | None: ...
