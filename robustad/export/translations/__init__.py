"""ONNX translations of the `robustad::` operators."""

from collections.abc import Callable
from typing import Any


def translation_table() -> dict[Any, Callable[..., Any]]:
    """Gather the translations, for `torch.onnx.export(custom_translation_table=...)`.

    Returns
    -------
    dict
        From an operator's overload to a function of onnxscript values.

    Examples
    --------
    >>> [str(target) for target in translation_table()]
    ['robustad.topk_mean.default']
    """
    from robustad.export.translations.topk_mean import topk_mean
    from robustad.ops.topk_mean import TOPK_MEAN

    return {TOPK_MEAN: topk_mean}
