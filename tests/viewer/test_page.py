"""The page in a headless Chromium: the runtime's numbers, nothing sent, readable at any width."""

import json
import warnings

import numpy as np
import pytest

from robustad import runtime
from robustad.verdict import Policy
from robustad.viewer import write_viewer

ROWS = "[...document.querySelectorAll('tbody tr')].map((row) => ({ ...row.dataset }))"
OPENED = "document.body.dataset.golden !== undefined"


@pytest.fixture
def viewer(engine, browser, serve, tmp_path):
    """Open the page, with a detector or without; gives it and what the server was asked."""

    def start(model=None, **size):
        out = write_viewer(tmp_path / "viewer", model=model, runtime_dir=engine)
        address, asked = serve(out)
        page = browser(address, **size)
        page.until("!document.querySelector('main').hidden")
        if model is not None:
            page.until(OPENED)
        return page, asked

    return start


def scored(page, files):
    page.choose("#image-files", files)
    page.until(f"document.body.dataset.scored === '{len(files)}'")
    return page.run(ROWS)


def predicted(path, images):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # 16 bits are rounded for the file with bytes
        return runtime.load(path, threads=1).predict(images)


def slide(page, key, value):
    """Move a slider of the policy, as a hand does."""
    page.run(
        f"(() => {{ const one = document.getElementById('at-{key}'); one.value = {value}; "
        "one.dispatchEvent(new Event('input')) })()"
    )


def verdicts(page):
    return [row["verdict"] for row in page.run(ROWS)]


@pytest.mark.parametrize("form", ["floats", "bytes"])
def test_scores_and_verdicts_are_the_runtimes(viewer, exported, photographs, form):
    path = getattr(exported, form)
    page, _ = viewer(path)
    assert float(page.run("document.body.dataset.golden")) < 1e-5
    rows = scored(page, photographs)
    wanted = predicted(path, photographs)
    for i, (row, image) in enumerate(zip(rows, photographs, strict=True)):
        assert float(row["score"]) == pytest.approx(wanted.score[i], abs=1e-5), image.name
        assert float(row["probability"]) == pytest.approx(wanted.probability[i], abs=1e-5)
        assert float(row["entropy"]) == pytest.approx(wanted.entropy[i], abs=1e-5)
        assert float(row["pValue"]) == wanted.p_value[i]
        assert row["verdict"] == row["graphVerdict"] == str(wanted.verdict[i]), image.name
    assert len({row["verdict"] for row in rows}) >= 2
    assert page.said() == []


def test_moving_a_threshold_judges_anew_and_asks_nobody(viewer, exported, photographs):
    page, asked = viewer(exported.floats)
    scored(page, photographs)
    wanted = predicted(exported.floats, photographs)
    before = list(asked)
    own = Policy(threshold=0.3, entropy_threshold=0.65, p_value_threshold=0.1)
    assert verdicts(page) == [str(one) for one in wanted.verdict]

    model = runtime.load(exported.floats, threads=1)
    p_values = np.array(wanted.p_value)
    for threshold, p_value in ((0.9, 0.1), (0.9, 0.05), (0.05, 0.05), (0.3, 0.95)):
        slide(page, "threshold", threshold)
        slide(page, "p_value_threshold", p_value)
        model.policy = Policy(
            threshold=threshold, entropy_threshold=0.65, p_value_threshold=p_value
        )
        made = [str(one) for one in model.predict(photographs).verdict]
        assert verdicts(page) == made
    assert p_values.size == len(photographs)
    page.run("document.getElementById('on-p_value_threshold').click()")  # off
    slide(page, "threshold", 0.5)
    model.policy = Policy(threshold=0.5, entropy_threshold=0.65)
    assert verdicts(page) == [str(one) for one in model.predict(photographs).verdict]
    assert "Changed here" in page.run("document.getElementById('policy-state').textContent")

    page.run("document.getElementById('reset').click()")
    model.policy = own
    assert verdicts(page) == [str(one) for one in model.predict(photographs).verdict]
    assert page.run("document.getElementById('policy-state').textContent").startswith("The file's")
    assert asked == before


def test_the_table_can_be_saved(viewer, exported, photographs, tmp_path):
    page, _ = viewer(exported.floats)
    rows = scored(page, photographs[:3])
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "saved"))
    page.run("document.getElementById('save').click()")
    path = tmp_path / "saved" / "verdicts.csv"
    for _ in range(200):
        if path.is_file():
            break
        page.run("new Promise((done) => setTimeout(done, 50))")
    head, *lines = path.read_text().splitlines()
    assert head == "name,verdict,probability,score,entropy,p_value,error"
    assert [line.split(",")[3] for line in lines] == [row["score"] for row in rows]


def test_a_file_without_calibration_says_so(viewer, exported, photographs):
    page, _ = viewer(exported.plain)
    rows = scored(page, photographs[:2])
    wanted = predicted(exported.plain, photographs[:2])
    for i, row in enumerate(rows):
        assert row["verdict"] == "uncalibrated" == str(wanted.verdict[i])
        assert row["probability"] == row["pValue"] == "NaN"
        assert float(row["score"]) == pytest.approx(wanted.score[i], abs=1e-5)
    assert page.run("document.getElementById('at-threshold').disabled")


def test_other_files_are_refused_with_a_reason(viewer, exported, photographs, tmp_path):
    page, _ = viewer()
    note = tmp_path / "note.onnx"
    note.write_text("not a model")
    error = "document.getElementById('model-error').textContent"
    page.choose("#model-file", [note])
    page.until(f"{error}.includes('note.onnx: not an ONNX file that can be run')")
    torn = tmp_path / "torn.png"
    torn.write_bytes(photographs[0].read_bytes()[:-50])
    tiff = tmp_path / "text.tif"
    tiff.write_text("no image")
    page.choose("#image-files", [torn, tiff, photographs[0]])
    assert [row.get("verdict") for row in page.run(ROWS)] == [None] * 3  # no detector yet
    page.choose("#model-file", [exported.floats])  # now they are scored
    page.until("document.body.dataset.scored === '3'")
    first, second, third = page.run(ROWS)
    assert first["error"] == "torn.png: cannot be read as an image: truncated"
    assert "text.tif: this browser cannot read it as an image" in second["error"]
    assert third["verdict"] == str(predicted(exported.floats, photographs[0]).verdict[0])
    page.choose("#model-file", [note])  # the detector at work stays
    page.until(f"{error}.includes('note.onnx')")
    assert page.run("document.getElementById('model-name').textContent") == "floats.onnx"


def test_a_wrong_golden_output_is_told(viewer, exported, tmp_path):
    import onnx

    model = onnx.load(exported.floats)
    [entry] = model.metadata_props
    document = json.loads(entry.value)
    document["golden"]["outputs"]["score"] += 0.01
    entry.value = json.dumps(document)
    onnx.save(model, tmp_path / "changed.onnx")
    page, _ = viewer(tmp_path / "changed.onnx")
    said = page.run("document.getElementById('model-error').textContent")
    assert "does not reproduce the file's golden outputs" in said


def test_nothing_can_be_sent_elsewhere(viewer, exported, photographs, serve, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    elsewhere, heard = serve(tmp_path / "elsewhere")
    page, asked = viewer(exported.floats)
    scored(page, photographs[:2])
    assert {method for method, _ in asked} == {"GET"}
    send = f"fetch('{elsewhere}/', {{ method: 'POST', mode: 'no-cors', body: 'x' }})"
    tried = f"{send}.then(() => 'sent', (error) => error.name)"
    assert page.run(tried) == "TypeError"
    # Images are read in a worker, which has to be bound by the same policy.
    assert page.worker_run(tried) == "TypeError"
    assert heard == []
    assert any("Content Security Policy" in text for text in page.said())


def test_the_page_fits_its_window(viewer, exported, photographs, tmp_path):
    page, _ = viewer(exported.floats)
    scored(page, photographs[:4])
    page.run("document.querySelectorAll('tbody tr')[1].click()")
    page.until("document.getElementById('photo').complete")
    box = "(({{ x, y, width, height }}) => [x, y, width, height])({}.getBoundingClientRect())"
    # hot where the square is: rows 20..29 and columns 26..39 of 60 x 80
    opacity = "document.getElementById('heat').getContext('2d').getImageData({}, {}, 1, 1).data[3]"
    assert page.run(opacity.format(32, 25)) > 150
    assert page.run(opacity.format(5, 55)) < 100
    for width in (1280, 400):
        page.resize(width, 900)
        page.until(f"window.innerWidth === {width}")
        page.run(
            "new Promise(requestAnimationFrame).then(() => new Promise(requestAnimationFrame))"
        )
        assert page.run("document.documentElement.scrollWidth") <= width
        photo, heat = (page.run(box.format(f"document.getElementById('{name}')"))
                       for name in ("photo", "heat"))  # fmt: skip
        np.testing.assert_allclose(photo, heat, atol=1)
        for scheme in ("light", "dark"):
            feature = {"name": "prefers-color-scheme", "value": scheme}
            page.call("Emulation.setEmulatedMedia", features=[feature])
            back = page.run("getComputedStyle(document.body).backgroundColor")
            assert (int(back[4:].split(",")[0]) < 80) == (scheme == "dark")
            page.screenshot(tmp_path / "page.png")
            assert (tmp_path / "page.png").stat().st_size > 10_000
