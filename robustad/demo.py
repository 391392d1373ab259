"""The main job end to end on generated images: fit, attack, calibrate, export, verify, report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from robustad._files import write_text
from robustad.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What `run_demo` made.

    Attributes
    ----------
    evaluation : Evaluation
        Clean and attacked.
    verified : bool
        Whether the ONNX file agrees with the detector.
    report, onnx, detector : Path
        Files in the demo's folder.
    """

    evaluation: Evaluation
    verified: bool
    report: Path
    onnx: Path
    detector: Path


def run_demo(
    out: str | Path = "demo_out",
    *,
    category: str = "cloth",
    shots: int = 4,
    eps: float = 8 / 255,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Demo:
    """Run the main job on the embedded data set with the embedded backbone; no network needed.

    Parameters
    ----------
    out : str or Path, default "demo_out"
        Folder for `report.html`, `detector.onnx`, `detector.safetensors`, `evaluation.json` and
        `verification.json`.
    category : str, default "cloth"
        A category of `Surfaces`.
    shots : int, default 4
        Normal images the detector is fitted on.
    eps : float, default 8/255
        l-infinity radius of the attacks.
    progress : bool, default True
        Show progress bars.
    say : callable, optional
        Called with a line about each step.

    Returns
    -------
    Demo
        The evaluation and the files.

    Raises
    ------
    VerificationError
        If the exported file disagrees with the detector.
    """
    from robustad.calibration import calibrate
    from robustad.data import calibration_split
    from robustad.data import shots as take_shots
    from robustad.data.surfaces import Surfaces
    from robustad.detectors import AnomalyDINO
    from robustad.evaluation import collect_examples, evaluate
    from robustad.export import export_onnx, verify
    from robustad.report import write_report

    out = Path(out)
    say(f"1/6 data: rendering Surfaces/{category}")
    data = Surfaces(test_good=20, per_defect=6).load(category)
    held_out, samples = calibration_split(data.test, fraction=0.25)
    say(f"2/6 fit: AnomalyDINO on {shots} normal images, embedded filter bank")
    references = take_shots(data, shots)
    detector = AnomalyDINO("filters", image_size=256)
    detector.fit([sample.image for sample in references.train])
    say(f"3/6 attack: {len(samples)} test images, clean and at {eps * 255:.0f}/255")
    evaluation = evaluate(
        detector,
        samples,
        calibration=held_out,
        eps=eps,
        dataset=data.name,
        category=data.category,
        progress=progress,
    )
    evaluation.settings["command"] = f"robustad demo --category {category} --shots {shots}"
    evaluation.save(out / "evaluation.json")
    say(f"4/6 calibrate: Platt scaling on {len(held_out)} other images")
    scores = detector.predict([sample.image for sample in held_out]).score
    calibrate(detector, scores, [sample.label for sample in held_out])
    detector.save(out / "detector.safetensors")
    say("5/6 export and verify: torch against onnxruntime")
    onnx = export_onnx(detector, out / "detector.onnx")
    found = verify(detector, onnx, images=[sample.image for sample in samples[:8]])
    write_text(out / "verification.json", json.dumps(found.to_dict(), indent=1) + "\n")
    found.raise_if_failed()
    say("6/6 report")
    examples = collect_examples(detector, samples, evaluation)
    report = write_report(
        evaluation, out / "report.html", examples=examples, verification=found.to_dict()
    )
    return Demo(
        evaluation=evaluation,
        verified=found.passed,
        report=report,
        onnx=onnx,
        detector=out / "detector.safetensors",
    )
