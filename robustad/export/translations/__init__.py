"""ONNX translations of the `robustad::` operators."""

from collections.abc import Callable
from typing import Any


def translation_table(*, custom_ops: bool = False) -> dict[Any, Callable[..., Any]]:
    """Gather the translations, for `torch.onnx.export(custom_translation_table=...)`.

    Parameters
    ----------
    custom_ops : bool, default False
        Translate to robustad's own ONNX operators where there are any.

    Returns
    -------
    dict
        From an operator's overload to a function of onnxscript values.

    Examples
    --------
    >>> sorted({str(target).split('.')[1] for target in translation_table()})
    ['attention_degree', 'attention_statistics', 'attention_with_degree', 'cosine_nn',
     'cosine_nn_pack', 'integer_products', 'topk_mean']
    """
    from robustad.export.translations import attention_degree, banks, cosine_nn, topk_mean

    return {
        **attention_degree.TRANSLATIONS,
        **banks.TRANSLATIONS,
        **(cosine_nn.CUSTOM if custom_ops else cosine_nn.TRANSLATIONS),
        **topk_mean.TRANSLATIONS,
    }
