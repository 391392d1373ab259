"""Exported detectors behind HTTP: the KServe V2 protocol, image upload, health and metrics."""

from robustad.serve.app import create_app
from robustad.serve.limits import Limits
from robustad.serve.server import serve

__all__ = ["Limits", "create_app", "serve"]
