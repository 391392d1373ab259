import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from robustad.calibration import RawScore
from robustad.errors import InputError, MissingDependencyError
from robustad.metrics import trivial_f1
from robustad.report import page, write_report

DASH, TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
VOID = {"meta", "img", "br", "hr", "link", "input"}
HOSTILE = '<script>alert("x")</script>'


class Page(HTMLParser):
    """Tags, ids, links and table rows; fails on tags that do not balance."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.feed(self.text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += ("|" if self.open[-1] == "small" else "") + data

    def attributes(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.tags if name in attrs]

    def row(self, name: str) -> list[str]:
        return next(row for row in self.rows if row and row[0].split("|")[0] == name)

    def find(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def check(parsed: Page) -> Page:
    """What every report has to satisfy."""
    ids = parsed.attributes("id")
    assert len(ids) == len(set(ids))
    for link in parsed.attributes("href") + parsed.attributes("xlink:href"):
        assert link.startswith("#"), link
        assert link[1:] in ids
    for named in parsed.attributes("aria-labelledby"):
        assert named in ids
    for source in parsed.attributes("src"):
        assert source.startswith("data:image/")
    assert all(attrs["alt"] for attrs in parsed.find("img"))
    assert all(attrs.get("scope") for attrs in parsed.find("th"))
    assert all(attrs.get("aria-label") for attrs in parsed.find("svg") if "role" in attrs)
    for reference in re.findall(r"url\(([^)]*)\)", parsed.text):
        assert reference[0] == "#"
        assert reference[1:] in ids
    assert not re.search("https?:|@import", parsed.text)
    assert parsed.find("script") + parsed.find("link") == []
    used = set(re.findall(r"var\(--([\w-]+)\)", parsed.text))
    assert used <= set(re.findall(r"--([\w-]+):", parsed.text))
    assert "#0a0b" not in parsed.text  # no stand-in colour is left
    return parsed


def write(tmp_path: Path, evaluations, **options) -> Page:
    path = tmp_path / "report.html"
    assert write_report(evaluations, path, **options) == path
    return check(Page(path))


@pytest.fixture
def no_plots(monkeypatch) -> None:
    """Leave the plots blank where they are not the subject: they take most of the time."""
    monkeypatch.setattr(
        page.figures, "draw", lambda key, size, paint, *, alt: "<svg role='img' aria-label='-'/>"
    )


def test_table_holds_the_metrics(tmp_path, evaluation, examples) -> None:
    parsed = write(tmp_path, evaluation, examples=examples)
    floor = trivial_f1(float(np.mean(evaluation.labels)))
    heading = parsed.row("condition")
    assert heading[1:] == [
        "AUROC|95% interval", "AP", f"F1-max|floor {floor:.3f}", "G-mean", "FPR", "FNR",
        "px AUROC", "AUPRO", "entropy", "deferred", "flag AUROC",
    ]  # fmt: skip
    for name, one in evaluation.conditions.items():
        cells = parsed.row(name.replace("_case", " case"))[1:]
        metrics = one.metrics
        expected = [
            *(f"{v:.3f}" for v in (metrics.auroc, metrics.ap, metrics.f1_max, metrics.gmean_max)),
            *(f"{100 * v:.1f}%" for v in (metrics.fpr, metrics.fnr)),
            *(DASH if v is None else f"{v:.3f}" for v in (metrics.pixel_auroc, metrics.aupro)),
            f"{one.entropy_mean:.3f}",
            f"{100 * one.flag_rate:.1f}%",
            DASH if one.flag_auroc is None else f"{one.flag_auroc:.3f}",
        ]
        assert [cell.split("|")[0] for cell in cells] == expected
        low, high = (float(end) for end in cells[0].split("|")[1].split(DASH))
        assert low <= round(metrics.auroc, 3) <= high
    for name in ("ece_positive", "ece_top_label", "nll", "brier"):
        pair = [f"{getattr(evaluation.calibration, when).__dict__[name]:.3f}"
                for when in ("before", "after")]  # fmt: skip
        assert pair in [row[1:] for row in parsed.rows]


def test_shows_every_part(tmp_path, evaluation, examples) -> None:
    parsed = write(
        tmp_path,
        evaluation,
        examples=examples,
        title="A title",
        notes=["First note.", "Second note."],
        verification={"passed": True, "differences": {"score": 3.1e-6}, "images": 16},
    )
    assert len([a for a in parsed.find("svg") if a.get("class") == "plot"]) == 6
    assert len(parsed.find("img")) == 5 * len(examples)
    words = " ".join(parsed.words)
    for expected in (
        "A title", "First note.", "Second note.", "ONNX export: verified", "3.1e-06",
        "20 normal + 24 anomalous images", "8/255", "platt, 11 images", "detector.sigma",
        f"difference {TIMES}16", examples[0].name,
    ):  # fmt: skip
        assert expected in words, expected


@pytest.mark.usefixtures("no_plots")
def test_command_is_quoted(tmp_path, evaluation) -> None:
    one = evaluation.model_copy(deep=True)
    one.settings["command"] = "robustad evaluate --eps '8/255' <here>"
    parsed = write(tmp_path, one)
    assert "robustad evaluate --eps '8/255' <here>" in parsed.words
    assert [row for row in parsed.words if row.strip() == "command"] == []


def test_names_are_escaped(tmp_path, evaluation_of, examples_of) -> None:
    evaluation = evaluation_of(attacks=("pgd10", f"$x$ {HOSTILE} #0"), category=HOSTILE)
    evaluation.method = evaluation.dataset = HOSTILE
    evaluation.names = [HOSTILE + name for name in evaluation.names]
    evaluation.defects = [HOSTILE] * len(evaluation.names)
    evaluation.settings = {HOSTILE: HOSTILE, "command": HOSTILE}
    parsed = write(
        tmp_path,
        [evaluation, evaluation_of(attacks=())],
        examples={HOSTILE: examples_of(evaluation)},
        notes=HOSTILE,
        title=HOSTILE,
        verification={HOSTILE: HOSTILE, "passed": False},
    )
    assert "<script" not in parsed.text
    assert HOSTILE in parsed.words
    assert "verification failed" in " ".join(parsed.words)


def _no_flag(one):
    one.calibration.entropy_threshold = None
    for condition in one.conditions.values():
        condition.flag_rate = None
    return one


def _no_entropy(one):
    for condition in one.conditions.values():
        condition.entropy = condition.probability = None
    return one


def _raw(one):
    one.calibration.calibrator = RawScore().to_dict()
    one.calibration.score_threshold = 0.5
    one.calibration.names = []
    return one


def _constant(one):
    for condition in one.conditions.values():
        condition.score = [0.25] * len(one.labels)
    return one


def _far_threshold(one):
    one.calibration.score_threshold = 1e9
    return one


@pytest.mark.parametrize(
    ("options", "change", "absent"),
    [
        ({"calibrated": False}, None, ["Can the probability", "Does the detector know", "FPR"]),
        ({"attacks": ()}, None, ["under attack", "worst case", "flag AUROC"]),
        ({"pixel": False}, None, ["AUPRO", "Localisation"]),
        (
            {"attacks": (), "calibrated": False, "pixel": False},
            None,
            ["AUPRO", "entropy", "Fixed threshold", "attack"],
        ),
        ({"n": 1}, None, []),
        ({}, _no_flag, ["defers", "are deferred"]),
        ({}, _no_entropy, ["Can the probability", "Does the detector know"]),
        ({}, _raw, ["fitted on"]),
        ({}, _constant, []),
        ({}, _far_threshold, []),
        ({"attacks": tuple(f"attack{i}" for i in range(9))}, None, ["probe"]),
    ],
)
@pytest.mark.usefixtures("no_plots")
def test_missing_parts_leave_no_gap(
    tmp_path, evaluation_of, examples_of, options, change, absent
) -> None:
    one = evaluation_of(**options)
    one = change(one) if change else one
    parsed = write(tmp_path, one, examples=examples_of(one, masks=False))
    words = " ".join(word for word in parsed.words if "No attack was run" not in word)
    body = words[words.index("Skip to the report") :].replace("image attacked", "")
    body = body[: body.index("Gallery", body.index("ROC"))]  # captions there are fixed
    for word in absent:
        assert word not in body, word
    assert not re.search(r"\bNone\b|\bnan\b", body)
    assert "cyan line" not in " ".join(parsed.words)


@pytest.mark.usefixtures("no_plots")
def test_without_examples_no_gallery(tmp_path, evaluation) -> None:
    parsed = write(tmp_path, evaluation)
    assert not parsed.find("img")
    assert "Gallery" not in " ".join(parsed.words)


@pytest.mark.usefixtures("no_plots")
def test_several_evaluations(tmp_path, evaluation_of, examples_of) -> None:
    group = [
        evaluation_of(category="cloth", seed=1),
        evaluation_of(category="tray", seed=2),
        evaluation_of(category="tray", seed=3, method="patchguard", attacks=("pgd10",)),
    ]
    parsed = write(
        tmp_path,
        group,
        examples={
            "cloth": examples_of(group[0]),
            "patchguard/tray": examples_of(group[2], count=2),
        },
    )
    assert {"overview", "e1", "e2", "e3"} <= set(parsed.attributes("id"))
    assert {"#overview", "#e1", "#e2", "#e3"} <= set(parsed.attributes("href"))
    heading = parsed.row("evaluation")
    assert heading[2:] == [
        "clean", "fgsm_probe", "fgsm", "pgd10", "worst case", "AP", "px AUROC", "AUPRO"
    ]  # fmt: skip
    names = ["clean", "fgsm_probe", "fgsm", "pgd10", "worst_case"]
    rows = [row for row in parsed.rows if row and row[0].startswith("surfaces /")]
    for one, row in zip(group, rows, strict=True):
        for name, cell in zip(names, row[2:7], strict=True):
            known = one.conditions.get(name)
            shown = DASH if known is None else f"{known.metrics.auroc:.3f}"
            assert cell.split("|")[0] == shown
    mean = parsed.row("mean of anomaly_dino")
    expected = [
        np.mean([one.conditions[name].metrics.auroc for one in group[:2]]) for name in names
    ]
    assert mean[2:7] == [f"{value:.3f}" for value in expected]
    assert not [row for row in parsed.rows if row and row[0].startswith("mean of patchguard")]
    assert len(parsed.find("img")) == 5 * (4 + 2)


@pytest.mark.usefixtures("no_plots")
def test_examples_have_to_name_their_evaluation(tmp_path, evaluation_of, examples) -> None:
    path = tmp_path / "r.html"
    group = [evaluation_of(category="tray"), evaluation_of(category="tray", method="other")]
    with pytest.raises(InputError, match="mapping from category to examples for 2 evaluations"):
        write_report(group, path, examples=examples)
    with pytest.raises(InputError, match="'tray' names 2"):
        write_report(group, path, examples={"tray": examples})
    with pytest.raises(InputError, match=r"anomaly_dino/surfaces/tray.*'lid' names 0"):
        write_report(group, path, examples={"lid": examples})
    assert not path.exists()


@pytest.mark.usefixtures("no_plots")
def test_refuses_what_it_cannot_show(tmp_path, evaluation) -> None:
    with pytest.raises(InputError, match="expected at least one, got none"):
        write_report([], tmp_path / "r.html")
    bare = evaluation.model_copy(update={"conditions": {}})
    with pytest.raises(InputError, match="expected the condition 'clean' in each"):
        write_report(bare, tmp_path / "r.html")
    with pytest.raises(InputError, match="existing folder"):
        write_report(evaluation, tmp_path)


@pytest.mark.usefixtures("no_plots")
def test_a_failure_leaves_the_old_file(tmp_path, evaluation, monkeypatch) -> None:
    path = tmp_path / "new" / "r.html"
    write_report(evaluation, path)
    before = path.read_bytes()
    monkeypatch.setattr(page.figures, "roc", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(evaluation, path)
    monkeypatch.undo()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_report(evaluation, path, title="another")
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["r.html"]


@pytest.mark.parametrize("module", ["jinja2", "matplotlib"])
def test_says_how_to_install_what_is_missing(tmp_path, evaluation, monkeypatch, module) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        MissingDependencyError, match=rf"{module}.*pip install 'robustad\[report\]'"
    ):
        write_report(evaluation, tmp_path / "r.html")


def test_same_input_same_bytes(tmp_path, evaluation, examples) -> None:
    first = write_report(evaluation, tmp_path / "a.html", examples=examples).read_bytes()
    with matplotlib.rc_context({"font.size": 30.0, "svg.fonttype": "path"}):
        second = write_report(evaluation, tmp_path / "b.html", examples=examples).read_bytes()
        assert matplotlib.rcParams["font.size"] == 30.0
    assert first == second
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )


def test_eight_large_examples_stay_small(tmp_path, evaluation, examples_of) -> None:
    examples = examples_of(evaluation, count=8, size=(448, 448))
    path = write_report(evaluation, tmp_path / "r.html", examples=examples)
    assert path.stat().st_size < 3_000_000


@pytest.mark.usefixtures("no_plots")
def test_of_a_real_detector(tmp_path) -> None:
    from robustad import AnomalyDINO
    from robustad.data import Sample
    from robustad.evaluation import collect_examples, evaluate

    rng = np.random.default_rng(0)
    samples = []
    for index in range(12):
        pixels = rng.integers(90, 160, (64, 64, 3), dtype=np.uint8)
        mask = None
        if index % 2:
            pixels[20:40, 20:40] = 250
            mask = np.zeros((64, 64), np.bool_)
            mask[20:40, 20:40] = True
        samples.append(Sample(image=pixels, label=index % 2, mask=mask, name=f"{index:02}.png"))
    detector = AnomalyDINO("filters", image_size=64).fit([s.read() for s in samples[:2:2]])
    result = evaluate(detector, samples[6:], calibration=samples[:6], attacks=("fgsm",))
    shown = collect_examples(detector, samples[6:], result, count=1, attack_name="fgsm")
    parsed = write(tmp_path, result, examples=shown)
    cell = parsed.row("fgsm")[1]
    assert cell.startswith(f"{result.conditions['fgsm'].metrics.auroc:.3f}|")
    assert len(parsed.find("img")) == 10
