"""Inputs and outputs kept where the model runs, so that a GPU is not waited for at every tensor."""

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import numpy.typing as npt


class Binding:
    """Runs a session through onnxruntime's IO binding.

    Input buffers on the device are kept and filled again while the shape stays the same; outputs
    are allocated there and copied back together. One call at a time.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        The model.
    device : str
        `cpu`, `cuda`, ...; where its provider keeps tensors.
    device_id : int, default 0
        Which one.
    """

    def __init__(self, session: Any, device: str, device_id: int = 0) -> None:
        self._session = session
        self._device = (device, device_id)
        self._inputs: dict[str, Any] = {}
        self._lock = Lock()

    def run(self, names: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[Any]:
        """Outputs of these names, as numpy arrays in this order."""
        import onnxruntime as ort

        with self._lock:
            binding = self._session.io_binding()
            for name, array in feeds.items():
                kept = self._inputs.get(name)
                if kept is None or tuple(kept.shape()) != array.shape:
                    kept = ort.OrtValue.ortvalue_from_numpy(array, *self._device)
                    self._inputs[name] = kept
                else:
                    kept.update_inplace(array)
                binding.bind_ortvalue_input(name, kept)
            for name in names:
                binding.bind_output(name, *self._device)
            self._session.run_with_iobinding(binding)
            return [value.numpy() for value in binding.get_outputs()]
