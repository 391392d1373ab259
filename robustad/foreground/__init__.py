"""Where the object is in an image: by Grad-CAM, patch tokens, given masks, or everywhere."""

from robustad.foreground.config import ForegroundConfig, default_method
from robustad.foreground.estimate import estimate, source_hash

__all__ = ["ForegroundConfig", "default_method", "estimate", "source_hash"]
