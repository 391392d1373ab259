"""The main job end to end on generated images, with nothing to download."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustad.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What `run_demo` made.

    Attributes
    ----------
    evaluations : list of Evaluation
        Of the few-shot detector, of PatchGuard and of its clean-trained twin.
    verified : bool
        Whether the ONNX file agrees with the few-shot detector.
    report, onnx, detector : Path
        Files in the demo's folder.
    """

    evaluations: list[Evaluation]
    verified: bool
    report: Path
    onnx: Path
    detector: Path


def run_demo(
    out: str | Path = "demo_out",
    *,
    category: str = "terrazzo",
    shots: int = 4,
    eps: float = 8 / 255,
    training: Mapping[str, Any] | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Demo:
    """Run the main job on the embedded data set; no weights and no network needed.

    Parameters
    ----------
    out : str or Path, default "demo_out"
        Folder for `report.html`, `detector.onnx`, `detector.safetensors`, `evaluation.json`,
        `verification.json`, and `patchguard/` and `patchguard_clean/`, from which an interrupted
        demo goes on.
    category : str, default "terrazzo"
        A category of `Surfaces`.
    shots : int, default 4
        Normal images the few-shot detector is fitted on.
    eps : float, default 8/255
        l-infinity radius of the attacks, in training too.
    training : mapping, optional
        Overrides of the preset `fast`, see `robustad.training.preset`.
    progress : bool, default True
        Show progress bars.
    say : callable, optional
        Called with a line about each step.

    Returns
    -------
    Demo
        The evaluations and the files.

    Raises
    ------
    VerificationError
        If the exported file disagrees with the detector.
    """
    from robustad.data import calibration_split
    from robustad.data.surfaces import Surfaces
    from robustad.demo.fewshot import run_fewshot
    from robustad.demo.robust import run_pair
    from robustad.report import write_report

    out = Path(out)
    say(f"1/8 data: rendering Surfaces/{category}")
    data = Surfaces(test_good=20, per_defect=6).load(category)
    held_out, samples = calibration_split(data.test, fraction=0.25)
    few = run_fewshot(
        data, held_out, samples, out, shots=shots, eps=eps, progress=progress, say=say
    )
    pair = run_pair(
        data,
        held_out,
        samples,
        out,
        eps=eps,
        overrides=training or {},
        progress=progress,
        say=say,
    )
    say("8/8 report")
    evaluations = [few.evaluation, *pair.evaluations]
    report = write_report(
        evaluations,
        out / "report.html",
        title=f"Three detectors on generated images: {data.category}",
        examples={f"{few.evaluation.method}/{data.category}": few.examples, **pair.examples},
        verification=few.verification,
    )
    return Demo(
        evaluations=evaluations,
        verified=bool(few.verification["passed"]),
        report=report,
        onnx=out / "detector.onnx",
        detector=out / "detector.safetensors",
    )
