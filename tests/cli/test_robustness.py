"""The verbs that attack: evaluate over radii and shards, compare, audit, attack."""

import json
import re

import pytest

import robustad
from robustad.attacks import PRESETS
from robustad.attacks.images import load_adversarial
from robustad.evaluation.audit_result import Audit


@pytest.fixture
def evaluate(run, detector, surfaces_root):
    def call(*options, attacks=("fgsm", "pgd2")):
        return run(
            "evaluate", detector, "--dataset", "mvtec", "--data", surfaces_root, "--category",
            "tray", "--attack", *attacks, "--quiet", "--batch-size", 4, *options,
        )  # fmt: skip

    return call


def without_times(path):
    document = json.loads(path.read_text())
    document["settings"].pop("command")
    for condition in document["conditions"].values():
        condition.pop("seconds")
    return document


def test_radii_shards_and_a_resumed_run_make_one_result(evaluate, tmp_path):
    radii = ("--eps", "8/255", "2/255")
    whole = tmp_path / "whole.json"
    code, out, err = evaluate(*radii, "--out", whole, "--report", tmp_path / "r.html")
    assert code == 0, err
    assert list(robustad.Evaluation.load(whole).conditions) == [
        "clean", "fgsm", "pgd2", "worst_case", "fgsm@2/255", "pgd2@2/255", "worst_case@2/255",
    ]  # fmt: skip
    assert "worst_case@2/255" in out
    report = (tmp_path / "r.html").read_text()
    for part in ("Can the attacks be trusted?", "Over the radius", "randomised"):
        assert part in report
    for i in (1, 2):
        store = tmp_path / f"s{i}"
        code, out, err = evaluate(*radii, "--shard", f"{i}/2", "--store", store)
        assert (code, out) == (0, ""), err
        assert f"shard {i}/2 is complete" in err
    merged, result = tmp_path / "s", tmp_path / "merged.json"
    code, _, err = evaluate(
        *radii, "--store", merged, "--merge", tmp_path / "s1", tmp_path / "s2", "--out", result
    )
    assert code == 0, err
    assert "copied" in err
    assert without_times(result) == without_times(whole)


def test_selfcheck_and_leaderboard_then_compare(evaluate, run, tmp_path):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    code, _, err = evaluate("--leaderboard", a, "--selfcheck")
    assert code == 0, err
    assert evaluate("--out", b, attacks=("fgsm",))[0] == 0
    entry = json.loads(a.read_text())
    assert entry["schema_version"] == 1
    assert all(check["fired"] is not None for check in entry["checks"])
    code, out, err = run("compare", a, b)
    assert code == 0, err
    assert "worst_case at 8/255" in out
    assert "not comparable: only the first faced pgd2" in err
    code, out, _ = run("compare", a, a, "--json")
    assert code == 0
    assert json.loads(out)["comparable"] is True


def test_audit_writes_json_and_a_report(run, detector, category, tmp_path):
    out = tmp_path / "audit"
    code, printed, err = run(
        "audit", detector, "--data", category / "test" / "good", "--out", out, "--eps", "1/255",
        "4/255", "--attack", "fgsm", "--threshold", 0.05, "--quiet",
    )  # fmt: skip
    assert code == 0, err
    found = Audit.load(out / "audit.json")
    assert (len(found.images), found.access, len(found.eps)) == (6, "white", 2)
    assert found.verdict().split(".")[0] in printed.replace("\n", " ")
    assert "robustad audit" in (out / "report.html").read_text()


def test_attack_saves_images(run, detector, category, tmp_path):
    out = tmp_path / "adversarial"
    options = ("--data", category / "test" / "good", "--attack", "pgd2", "--eps", "4/255")
    code, printed, err = run("attack", detector, *options, "--out", out, "--quiet")
    assert code == 0, err
    assert len(printed.splitlines()) == 6
    saved = load_adversarial(out)
    assert all(one.score > one.clean_score for one in saved.images)
    code, _, err = run("attack", detector, *options, "--out", out, "--quiet")
    assert code == 1
    assert "--out: expected a new or empty folder" in err


def test_attack_tells_what_went_wrong_and_takes_starts_and_stand_ins(
    run, detector, category, tmp_path
):
    good, bad = (
        category / "test" / "good",
        next(one for one in sorted((category / "test").iterdir()) if one.name != "good"),
    )
    given = ("--data", bad, "--anomalous", "--attack", "hopskipjump", "--queries", 25, "--quiet")
    code, printed, err = run("attack", detector, *given, "--threshold", -9, "--out", tmp_path / "a")
    assert code == 0, err
    assert "(unchanged)" in printed
    assert "note: no_start: for some image no image across the threshold was found" in err
    pool = ("--pool", good, "--threshold", 0.0)
    code, _, err = run("attack", detector, *given, *pool, "--out", tmp_path / "b")
    assert code == 0, err
    transfer = ("--data", good, "--attack", "transfer", "--quiet", "--out", tmp_path / "c")
    code, _, err = run("attack", detector, *transfer)
    assert code == 1
    assert "surrogate: attack 'transfer' needs a differentiable stand-in" in err
    code, printed, err = run("attack", detector, *transfer, "--surrogate", detector)
    assert code == 0, err
    assert "unchanged" not in printed
    code, _, err = run("attack", detector, "--data", good, "--attack", "fgsm", "--queries", 9,
                       "--quiet", "--out", tmp_path / "d")  # fmt: skip
    assert code == 1
    assert "queries: attack 'fgsm' does not take it" in err


def test_evaluate_takes_stand_ins(evaluate, detector, tmp_path):
    code, _, err = evaluate(attacks=("transfer",))
    assert code == 1
    assert "surrogates: attack 'transfer' needs a differentiable stand-in" in err
    out = tmp_path / "r.json"
    code, _, err = evaluate("--surrogate", detector, "--out", out, attacks=("transfer",))
    assert code == 0, err
    found = robustad.Evaluation.load(out)
    assert found.conditions["transfer"].metrics.auroc <= found.clean.metrics.auroc


def test_help_and_list_name_every_attack(run):
    for verb in ("evaluate", "attack", "audit"):
        code, out, _ = run(verb, "--help")
        assert code == 0
        words = set(re.findall(r"\w+", out))
        assert set(PRESETS) <= words, verb
    code, out, _ = run("attack", "--list")
    assert code == 0
    for name, one in PRESETS.items():
        assert name in out
        assert one.summary.split()[0] in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--shard", "1/2"), "--shard: expected --store with it"),
        (("--merge", "x"), "--merge: expected --store with it"),
        (("--shard", "3/2", "--store", "s"), "--shard: expected I/N with 1 <= I <= N"),
        (("--shard", "1/2", "--store", "s", "--skip-beaten"), "it can't be sharded"),
        (("--precision", "fp8"), "precision: expected fp32 or bf16"),
        (("--eps", "8/255", "8/255"), "eps: expected each once, got 8/255 several times"),
    ],
)
def test_bad_options_of_evaluate(evaluate, options, message):
    code, _, err = evaluate(*options)
    assert code == 1
    assert message in err.replace("\n", " ")


def test_bad_models_and_files(run, tmp_path):
    code, _, err = run("audit", "nowhere", "--data", tmp_path)
    assert code == 1
    assert "model: expected a .safetensors or .onnx file or module:callable" in err
    code, _, err = run("compare", tmp_path / "a.json", tmp_path / "b.json")
    assert code == 1
    assert "no such leaderboard or evaluation file" in err
