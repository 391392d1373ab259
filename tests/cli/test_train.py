import pytest

import robustad

TINY = (
    "train", "--preset", "fast", "--quiet", "--set", "network.image_size=32", "network.depth=1",
    "network.embed_dim=32", "network.discriminator_hidden=32", "optimiser.epochs=2",
    "optimiser.repeats=1", "attack.steps=1", "validation.every=1", "validation.steps=1",
)  # fmt: skip


def test_it_trains_and_says_how_to_go_on(run, surfaces_root, tmp_path):
    data = ("--dataset", "mvtec", "--data", surfaces_root, "--category", "tray")
    code, out, err = run(*TINY, *data, "--out", tmp_path / "my run")
    assert code == 0, err
    assert out == ""
    file = tmp_path / "my run" / "detector.safetensors"
    assert robustad.load(file).network.grid == (4, 4)
    assert "detector.safetensors; 4 x 4 patches" in err.replace("\n", " ")
    said = [line for line in err.splitlines() if line.startswith("next: ")]
    expected = f"--dataset mvtec --data {surfaces_root} --category tray --attack pgd100"
    assert expected in said[0]
    assert f"robustad evaluate '{file}'" in said[0]


def test_only_the_first_process_speaks(run, surfaces_root, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    data = ("--dataset", "mvtec", "--data", surfaces_root, "--category", "tray")
    code, _, err = run(*TINY, *data, "--out", tmp_path)
    assert code == 0
    assert "wrote" not in err


def test_a_folder_for_foregrounds(run, surfaces_root, tmp_path, monkeypatch):
    from robustad import training

    given = {}

    def instead(data, preset, **options):
        given.update(options)
        raise robustad.errors.InputError("enough")

    monkeypatch.setattr(training, "train", instead)
    run(*TINY, "--category", "tray", "--cache", tmp_path / "masks", "--out", tmp_path / "run")
    assert given["cache"] == tmp_path / "masks"
    assert "network.image_size=32" in given["overrides"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--preset", "robst"), "did you mean robust?"),
        (("--set", "optimizer.epochs=3"), "did you mean optimiser.epochs?"),
        (("--set", "optimiser.epochs"), "expected FIELD=VALUE"),
        (("--category", "tary"), "tary"),
    ],
)
def test_what_is_unknown(run, tmp_path, more, message):
    arguments = ("train", "--category", "tray", "--quiet", "--out", tmp_path / "run", *more)
    code, _, err = run(*arguments)
    assert code == 1
    assert err.startswith("robustad: error: ")
    assert message in err
    assert not (tmp_path / "run").exists()
