"""Exported detectors at work: a watched folder, and large sets of images scored in shards.

Needs what `robustad.runtime` needs, numpy and onnxruntime, and Pillow to read files.
"""

from robustad.deploy.score import ScoreSummary, score
from robustad.deploy.watch import WatchSummary, watch

__all__ = ["ScoreSummary", "WatchSummary", "score", "watch"]
