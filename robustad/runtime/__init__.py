"""Exported detectors with numpy and onnxruntime alone: no torch on the line PC."""

from robustad.runtime.golden import golden_bytes, golden_image
from robustad.runtime.onnx_detector import OnnxDetector, load

__all__ = ["OnnxDetector", "golden_bytes", "golden_image", "load"]
