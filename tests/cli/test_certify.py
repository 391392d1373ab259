"""The verbs of certificates and defences: fit's options, certify, reproduce defences."""

import json

import pytest

import robustad
from robustad.certificates import Certification, SmoothedDetector
from robustad.detectors import BankEnsemble


@pytest.fixture
def certify(run, surfaces_root):
    def call(model, *options, n=64):
        return run(
            "certify", model, "--dataset", "mvtec", "--data", surfaces_root, "--n", n, "--alpha",
            0.05, "--quiet", *options,
        )  # fmt: skip

    return call


@pytest.fixture(scope="module")
def smoothed(tmp_path_factory, category):
    from robustad import AnomalyDINO

    path = tmp_path_factory.mktemp("smoothed") / "smoothed.safetensors"
    made = SmoothedDetector(AnomalyDINO("filters", image_size=32), sigma=0.1, draws=5)
    made.fit(category / "train" / "good").save(path)
    return path


def test_fit_makes_smoothed_pruned_and_ensemble_detectors(run, category, tmp_path):
    good, out = category / "train" / "good", tmp_path / "x.safetensors"
    common = ("fit", good, "--backbone", "filters", "--image-size", 32, "--out", out, "--quiet")
    code, _, err = run(*common, "--smooth", 0.1, "--draws", 7, "--prune", 0.1)
    assert code == 0, err
    made = robustad.load(out)
    assert isinstance(made, SmoothedDetector)
    assert (made.sigma, made.draws, made.base.config().prune) == (0.1, 7, 0.1)
    code, _, err = run(*common, "--banks", 3, "--neighbours", 2, "--reduce", "max")
    assert code == 0, err
    made = robustad.load(out)
    assert isinstance(made, BankEnsemble)
    assert (made.members, made.views[0].config().reduce) == (3, "max")
    code, _, err = run(
        "fit", good, "--backbone", "resnet18", "--weights", "random", "--image-size", 32, "--out",
        out, "--quiet", "--layers", 1, 2, "--each-layer",
    )  # fmt: skip
    assert code == 0, err
    assert [v.backbone.config.layers for v in robustad.load(out).views] == [(1,), (2,)]
    for options, message in (
        (("--each-layer",), "--each-layer: expected --layers with it"),
        (("--prune", 1.5), "prune: "),
        (("--reduce", "median"), "reduce: "),
    ):
        code, _, err = run(*common, *options)
        assert code == 1
        assert message in err


def test_certify_writes_json_and_a_report_and_goes_on(certify, smoothed, tmp_path):
    out, store = tmp_path / "c.json", tmp_path / "store"
    code, printed, err = certify(
        smoothed, "--radii", "0.01", "16/255", "--out", out, "--report", tmp_path / "c.html",
        "--store", store, "--attack", "pgd1_l2", "--attack-draws", 2, "--angles", 2,
    )  # fmt: skip
    assert code == 0, err
    found = Certification.load(out)
    assert found.radii == pytest.approx([0.01, 16 / 255])
    assert (found.sigma, found.n, found.dataset, found.category) == (0.1, 64, "mvtec", "tray")
    assert found.violations == 0
    assert found.settings["command"].startswith("robustad certify")
    assert found.features.points[0].degrees == 2.0
    assert "l2 radius" in printed
    assert "confidence of a row" in err.replace("\n", " ")
    assert "What no attack can do" in (tmp_path / "c.html").read_text()
    kept = len([*store.rglob("*.safetensors")])
    code, printed, err = certify(
        smoothed, "--radii", "0.01", "--store", store, "--json", "--two-sided", "--simultaneous"
    )
    assert code == 0, err
    assert len([*store.rglob("*.safetensors")]) == kept
    again = json.loads(printed)
    assert (again["sides"], again["simultaneous"]) == ("two", True)
    assert [one["score"] for one in again["images"]] == [one.score for one in found.images]


def test_a_callable_with_a_denoiser(certify, tmp_path, monkeypatch):
    (tmp_path / "shop.py").write_text(
        "def bright(x):\n    return x.amax(dim=(1, 2, 3))\n"
        "def half(x):\n    return x.clamp(0, 1) / 2\n"
    )
    monkeypatch.chdir(tmp_path)
    code, printed, err = certify(
        "shop:bright", "--image-size", 16, "--denoiser", "shop:half", "--radii", 0.01, "--sigma",
        0.05, "--threshold", 0.4, "--test-draws", 20, "--json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(printed)
    assert (found["denoiser"], found["test_draws"], found["thresholds"]) == ("half", 20, [0.4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--radii", "far"), "--radii: expected numbers such as 0.25 or 64/255, got 'far'"),
        (("--radii", "0.5", "--sigma", "0"), "sigma"),
        (("--attack", "pgd10"), "expected l2 attacks, 'pgd10' is one in linf"),
        (("--alpha", "0"), "alpha: expected a chance in (0, 1)"),
        (("--early",), "early: expected thresholds with it"),
        (("--denoiser", "nowhere:f"), "cannot be imported"),
    ],
)
def test_bad_options(certify, smoothed, options, message):
    code, _, err = certify(smoothed, *options)
    assert code == 1
    assert message in err.replace("\n", " ")


def test_too_few_draws(certify, smoothed):
    code, _, err = certify(smoothed, n=1)
    assert code == 1
    assert "n: expected at least 5 copies for a level of 0.05" in err.replace("\n", " ")


def test_reproduce_defences(run, surfaces_root, tmp_path):
    out = tmp_path / "runs"
    options = (
        "reproduce", "defences", "--dataset", "mvtec", "--data", surfaces_root, "--backbone",
        "filters", "--image-size", 32, "--defence", "none", "prune20", "--shots", 2, "--images", 4,
        "--attack", "fgsm", "--eps", "2/255", "--out", out, "--quiet",
    )  # fmt: skip
    code, printed, err = run(*options)
    assert code == 0, err
    assert "prune20" in printed
    code, printed, err = run(*options, "--json")
    assert code == 0, err
    assert err.count("on disk") == 2
    assert set(json.loads(printed)["figures"]["tray"]) == {"none", "prune20"}
    code, _, err = run("reproduce", "defences")
    assert code == 1
    assert "--data: expected the folder of folder" in err


def test_the_help_text_names_all_defences():
    from robustad.cli.reproduce_defences import defences
    from robustad.reproduce.defence_kinds import DEFAULT_DEFENCES, FORM

    [option] = defences.__annotations__["defence"].__metadata__
    assert FORM in option.help
    assert ", ".join(DEFAULT_DEFENCES) in option.help
