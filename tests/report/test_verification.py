import json

import pytest

from robustad.report.verification import verification_box

OUTCOME = {
    "passed": False,
    "path": "/somewhere/private/model.onnx",
    "differences": {"score": 3.1e-6, "anomaly_map": 0.02, "probability": None},
    "tolerances": {"score": 1e-5, "anomaly_map": 1e-4, "probability": 1e-4},
    "mismatches": [],
    "mask_flips": 2,
    "images": 16,
    "shapes": [[1, 256, 256], [2, 256, 256], [1, 256, 320]],
    "providers": ["CPUExecutionProvider"],
    "failures": ["anomaly_map differs by 0.02 (allowed 0.0001)"],
}


def test_compares_each_output_with_its_tolerance() -> None:
    box = verification_box(OUTCOME)
    assert [(c.name, c.difference, c.allowed, c.within) for c in box.comparisons] == [
        ("score", "3.1e-06", "1e-05", True),
        ("anomaly_map", "0.02", "0.0001", False),
        ("probability", "no number", "0.0001", False),
    ]
    assert box.failures == OUTCOME["failures"]
    assert box.title == "ONNX export: verification failed"


def test_prints_the_rest_without_folders() -> None:
    details = dict(verification_box(OUTCOME).details)
    assert details["file"] == "model.onnx"
    assert "private" not in json.dumps(details)
    assert details["mask flips"] == "2"
    assert details["shapes"].startswith("3 batches of size 256")
    assert "mismatches" not in details


@pytest.mark.parametrize(
    ("passed", "title"), [(True, "verified"), (False, "verification failed"), (None, "compared")]
)
def test_title_follows_the_verdict(passed, title) -> None:
    assert verification_box({"passed": passed}).title == f"ONNX export: {title}"
    assert verification_box({}).title == "ONNX export: compared"


def test_takes_what_verify_returns() -> None:
    from robustad.export.verification import Verification

    box = verification_box(
        Verification(
            path="a/b.onnx",
            differences={"score": float("inf"), "entropy": 0.0},
            tolerances={"score": 1e-5, "entropy": 1e-5},
            mismatches=["policy"],
            mask_flips=0,
            images=3,
            shapes=[(1, 64, 64)],
            providers=["CPUExecutionProvider"],
        ).to_dict()
    )
    assert box.passed is False
    assert [c.within for c in box.comparisons] == [False, True]
    assert "policy" in box.failures
