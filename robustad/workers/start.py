"""The crew of an engine."""

from __future__ import annotations

from robustad.workers.base import Crew, Job
from robustad.workers.options import Workers


def crew(job: Job, workers: Workers) -> Crew:
    """Workers that do pieces of a job, and stay between pieces.

    Parameters
    ----------
    job : Job
        How pieces are done.
    workers : Workers
        How many, and where.

    Returns
    -------
    Crew
        A context manager that ends its workers; `run` gives them pieces. If this process dies,
        local workers end at once and Ray's with its connection.

    Raises
    ------
    MissingDependencyError
        If Ray is asked for and not installed.
    """
    if workers.engine == "ray":
        from robustad.workers.on_ray import RayCrew

        return RayCrew(job, workers)
    from robustad.workers.local import LocalCrew

    return LocalCrew(job, workers)
