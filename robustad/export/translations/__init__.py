"""ONNX translations of the `robustad::` operators."""

from collections.abc import Callable
from typing import Any


def translation_table() -> dict[Any, Callable[..., Any]]:
    """Gather the translations, for `torch.onnx.export(custom_translation_table=...)`.

    Returns
    -------
    dict
        From an operator's overload to an onnxscript function.
    """
    from robustad.export.translations import attention_degree, cosine_nn

    return {**attention_degree.TRANSLATIONS, **cosine_nn.TRANSLATIONS}
