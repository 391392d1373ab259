"""Data sets: published layouts, your own folders, generated surfaces, shots and splits."""

from robustad.data.dataset import Dataset, Sample
from robustad.data.folder import Folder, folder
from robustad.data.hashing import content_hash, sample_hash
from robustad.data.registry import categories, load, names
from robustad.data.splits import calibration_split, shots
from robustad.data.write import write_mvtec

__all__ = [
    "Dataset",
    "Folder",
    "Sample",
    "calibration_split",
    "categories",
    "content_hash",
    "folder",
    "load",
    "names",
    "sample_hash",
    "shots",
    "write_mvtec",
]
