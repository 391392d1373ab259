"""Exported detectors with numpy and onnxruntime alone: no torch on the line PC."""

from robustad.runtime._custom_ops import custom_ops_library
from robustad.runtime.golden import golden_bytes, golden_image
from robustad.runtime.loading import load
from robustad.runtime.onnx_detector import OnnxDetector

__all__ = ["OnnxDetector", "custom_ops_library", "golden_bytes", "golden_image", "load"]
