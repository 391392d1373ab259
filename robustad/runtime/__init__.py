"""Exported detectors with numpy and onnxruntime alone: no torch on the line PC."""

from robustad.runtime._custom_ops import custom_ops_library
from robustad.runtime.golden import golden_image
from robustad.runtime.onnx_detector import OnnxDetector, load

__all__ = ["OnnxDetector", "custom_ops_library", "golden_image", "load"]
