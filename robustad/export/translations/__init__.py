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
    >>> sorted({str(target).split('.')[1] for target in translation_table()})
    ['attention_degree', 'attention_statistics', 'attention_with_degree', 'cosine_nn',
     'cosine_nn_pack', 'topk_mean']
    """
    from robustad.export.translations import attention_degree, cosine_nn, topk_mean

    return {
        **attention_degree.TRANSLATIONS,
        **cosine_nn.TRANSLATIONS,
        **topk_mean.TRANSLATIONS,
    }
