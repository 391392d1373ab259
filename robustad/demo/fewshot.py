"""The few-shot detector on generated images: fit, attack, calibrate, export, verify."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustad._files import write_text
from robustad.data import Dataset, Sample
from robustad.evaluation import Evaluation, Example


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """What the few-shot part of the demo made.

    Attributes
    ----------
    evaluation : Evaluation
        Clean and attacked.
    examples : list of Example
        For the report's gallery.
    verification : dict
        How the ONNX file compares with the detector.
    """

    evaluation: Evaluation
    examples: list[Example]
    verification: dict[str, Any]


def run_fewshot(
    data: Dataset,
    held_out: Sequence[Sample],
    samples: Sequence[Sample],
    out: Path,
    *,
    shots: int,
    eps: float,
    progress: bool,
    say: Callable[[str], None],
) -> FewShot:
    """Fit AnomalyDINO on a few images, attack it, calibrate it, export it and check the file.

    Writes `evaluation.json`, `detector.safetensors`, `detector.onnx` and `verification.json`.

    Raises
    ------
    VerificationError
        If the exported file disagrees with the detector.
    """
    from robustad.calibration import calibrate
    from robustad.data import shots as take_shots
    from robustad.detectors import AnomalyDINO
    from robustad.evaluation import collect_examples, evaluate
    from robustad.export import export_onnx, verify

    say(f"2/8 fit: AnomalyDINO on {shots} normal images, embedded filter bank")
    references = take_shots(data, shots)
    detector = AnomalyDINO("filters", image_size=256)
    detector.fit([sample.image for sample in references.train])
    say(f"3/8 attack: {len(samples)} test images, clean and at {eps * 255:.0f}/255")
    evaluation = evaluate(
        detector,
        samples,
        calibration=held_out,
        eps=eps,
        dataset=data.name,
        category=data.category,
        progress=progress,
    )
    evaluation.settings["command"] = f"robustad demo --category {data.category} --shots {shots}"
    evaluation.save(out / "evaluation.json")
    say(f"4/8 calibrate: Platt scaling on {len(held_out)} other images")
    scores = detector.predict([sample.image for sample in held_out]).score
    calibrate(detector, scores, [sample.label for sample in held_out])
    detector.save(out / "detector.safetensors")
    say("5/8 export and verify: torch against onnxruntime")
    onnx = export_onnx(detector, out / "detector.onnx")
    found = verify(detector, onnx, images=[sample.image for sample in samples[:8]])
    write_text(out / "verification.json", json.dumps(found.to_dict(), indent=1) + "\n")
    found.raise_if_failed()
    return FewShot(
        evaluation=evaluation,
        examples=collect_examples(detector, samples, evaluation),
        verification=found.to_dict(),
    )
