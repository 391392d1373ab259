"""A static page that runs exported detectors in a browser, without network or upload."""

from robustad.viewer.write import write_viewer

__all__ = ["write_viewer"]
