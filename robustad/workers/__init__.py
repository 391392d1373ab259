"""Work cut into pieces and given to several workers; one that dies costs its piece, no result.

Needs the standard library alone; what a worker does is up to its job. `robustad score`, `evaluate`
and `reproduce` give out their work by this.
"""

from robustad.workers.base import ATTEMPTS, Crew, Job, Piece
from robustad.workers.options import ENGINES, Workers
from robustad.workers.start import crew

__all__ = ["ATTEMPTS", "ENGINES", "Crew", "Job", "Piece", "Workers", "crew"]
