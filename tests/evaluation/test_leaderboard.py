import json
from pathlib import Path

import pytest

from robustad.errors import InputError, StateError
from robustad.evaluation import evaluate
from robustad.evaluation.compare import compare
from robustad.evaluation.leaderboard import (
    Entry,
    leaderboard_schema,
    write_leaderboard_schema,
)

DOCS = Path(__file__).resolve().parents[2] / "docs"
EPS = 0.02


@pytest.fixture
def found(redness, samples):
    def build(gain=1.0, first=0, attacks=("fgsm", "pgd3_flip"), eps=(EPS, 0.01)):
        return evaluate(
            redness(gain), samples(first), attacks=attacks, eps=eps, dataset="set", category="red"
        )

    return build


def test_schema_file_is_up_to_date(tmp_path):
    write_leaderboard_schema(tmp_path / "schema.json")
    assert (tmp_path / "schema.json").read_text() == leaderboard_schema()
    assert (DOCS / "leaderboard.schema.json").read_text() == leaderboard_schema(), (
        "run robustad.evaluation.leaderboard.write_leaderboard_schema"
        "('docs/leaderboard.schema.json')"
    )


def test_an_entry_holds_the_figures_and_what_they_rest_on(found, tmp_path):
    evaluation = found()
    entry = Entry.of(evaluation)
    assert entry.threat_model.norm == ["linf"]
    assert entry.threat_model.access == ["white"]
    assert entry.threat_model.eps == [EPS, 0.01]
    assert entry.detector.sha256 == evaluation.hashes["detector"]
    assert (entry.data.normal, entry.data.anomalous) == (4, 4)
    assert [(a.name, a.eps) for a in entry.attacks] == [
        ("fgsm", EPS), ("pgd3_flip", EPS), ("fgsm", 0.01), ("pgd3_flip", 0.01),
    ]  # fmt: skip
    assert entry.attacks[0].forward == 1.0
    worst = evaluation.conditions["worst_case"].metrics
    assert entry.figure().auroc == worst.auroc
    assert entry.figure().auroc_interval == worst.auroc_interval
    assert entry.figure("worst_case", 0.01).auroc == (
        evaluation.conditions["worst_case@2.55/255"].metrics.auroc
    )
    assert entry.figure("clean").eps is None
    assert entry.figure("pgd10") is None
    entry.save(tmp_path / "entry.json")
    evaluation.save(tmp_path / "evaluation.json")
    assert Entry.load(tmp_path / "entry.json") == entry
    assert Entry.load(tmp_path / "evaluation.json") == entry


def test_hashes_tell_what_was_evaluated(found):
    one, same, detector, data = found(), found(), found(gain=2.0), found(first=20)
    assert one.hashes == same.hashes
    assert detector.hashes["detector"] != one.hashes["detector"]
    assert detector.hashes["data"] == one.hashes["data"]
    assert data.hashes["data"] != one.hashes["data"]
    assert data.hashes["detector"] == one.hashes["detector"]


def test_the_same_threats_compare(found, tmp_path):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    found().save(a)
    Entry.of(found(gain=2.0)).save(b)
    compared = compare(a, b)
    assert compared.comparable
    rows = {(row.condition, row.measure): row for row in compared.rows}
    row = rows["worst_case at 5.1/255", "auroc"]
    assert row.apart is False
    assert row.difference == pytest.approx(row.second - row.first)
    assert ("worst_case at 2.55/255", "auroc") in rows
    assert ("clean", "auroc") in rows
    assert any("worst-case AUROC" in line for line in compared.remarks)
    assert "it is the same detector in both" in compare(a, a).remarks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": 20}, "the images differ in content (set/red, 4 normal and 4 anomalous in both)"),
        ({"attacks": ("fgsm",)}, "only the first faced pgd3_flip"),
        ({"attacks": ("fgsm", "pgd3_flip", "pgd2")}, "only the second faced pgd2"),
        ({"eps": 0.03}, "no radius is common: 2.55/255, 5.1/255 against 7.65/255"),
        ({"attacks": ("fgsm", "pgd3_flip", "pgd2_l2")}, "norms differ: linf against l2, linf"),
    ],
)
def test_other_threats_do_not_compare(found, change, message):
    compared = compare(Entry.of(found()), Entry.of(found(**change)))
    assert not compared.comparable
    assert any(message in obstacle for obstacle in compared.obstacles)


def test_a_doubtful_evaluation_is_named(found):
    entry = Entry.of(found())
    entry.checks[0].fired = True
    assert any(
        f"the second is in doubt, these of its checks fired: {entry.checks[0].name}" in line
        for line in compare(Entry.of(found()), entry).remarks
    )


def test_bad_files(found, tmp_path):
    path = tmp_path / "e.json"
    with pytest.raises(InputError, match=r"e\.json: no such leaderboard or evaluation file"):
        Entry.load(path)
    path.write_text("{")
    with pytest.raises(StateError, match=r"e\.json: not a JSON document"):
        Entry.load(path)
    path.write_text("[]")
    with pytest.raises(StateError, match=r"e\.json: not an evaluation"):
        Entry.load(path)
    document = json.loads(Entry.of(found()).model_dump_json())
    path.write_text(json.dumps(document | {"schema_version": 2}))
    with pytest.raises(StateError, match=r"written by a newer robustad \(leaderboard version 2"):
        Entry.load(path)
    path.write_text(json.dumps(document | {"figures": 3}))
    with pytest.raises(StateError, match="not a leaderboard entry: figures"):
        Entry.load(path)
    with pytest.raises(InputError, match="at least one attack, got the clean pass alone"):
        Entry.of(found(attacks=()))
    old = found()
    old.hashes = {}
    with pytest.raises(InputError, match="expected hashes of detector and data"):
        Entry.of(old)
