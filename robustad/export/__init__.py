"""From a detector to a self-describing ONNX file, and the proof that both agree."""

from robustad.export.metadata import ArtefactMetadata
from robustad.export.onnx import export_onnx
from robustad.export.parity import write_parity
from robustad.export.target import TargetReport, export_fastest
from robustad.export.translations import translation_table
from robustad.export.triton import write_triton
from robustad.export.verification import Verification, verify

__all__ = [
    "ArtefactMetadata",
    "TargetReport",
    "Verification",
    "export_fastest",
    "export_onnx",
    "translation_table",
    "verify",
    "write_parity",
    "write_triton",
]
