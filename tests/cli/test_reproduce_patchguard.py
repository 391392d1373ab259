import json

import pytest

TINY = (
    "--preset", "fast", "--attack", "pgd2_flip", "pgd2", "--quiet",
    "--set", "network.image_size=32", "network.depth=1", "network.embed_dim=32",
    "network.discriminator_hidden=32", "optimiser.epochs=1", "optimiser.repeats=1",
    "attack.steps=1", "validation.every=0",
)  # fmt: skip


def test_runs_are_listed_without_data(run):
    code, out, _ = run(
        "reproduce", "patchguard", "--list", "--table", "main", "7", "--category", "tile", "wood"
    )
    assert code == 0
    assert out.splitlines() == [
        "   1  not yet  tile (main: PatchGuard)",
        "   2  not yet  wood (main: PatchGuard)",
        "   3  not yet  tile (7: trained clean)",
        "   4  not yet  wood (7: trained clean)",
    ]


def test_shards_of_the_list(run):
    base = ("reproduce", "patchguard", "--list", "--json", "--dataset", "visa", "--table", "20")
    _, out, _ = run(*base)
    everything = json.loads(out)
    assert [entry["index"] for entry in everything] == list(range(1, 37))
    parts = [json.loads(run(*base, "--shard", f"{place}/5")[1]) for place in range(1, 6)]
    assert [entry["index"] for entry in parts[1]] == [2, 7, 12, 17, 22, 27, 32]
    together = sorted((entry for part in parts for entry in part), key=lambda e: e["index"])
    assert together == everything


def test_tables_end_to_end_then_listed_as_done(run, surfaces_root, tmp_path):
    arguments = (
        "reproduce", "patchguard", "--data", surfaces_root, "--out", tmp_path,
        "--table", "main", "19", *TINY,
    )  # fmt: skip
    code, out, err = run(*arguments)
    assert code == 0, err
    assert "88.1 / 71.1" in out
    assert "without discriminator, AD" in out
    assert "1/2 tray (main: PatchGuard, 19: with discriminator)" in err
    code, out, err = run(*arguments, "--json")
    assert err.count("on disk") == 2
    document = json.loads(out)
    assert [entry["done"] for entry in document["runs"]] == [True, True]
    assert (tmp_path / "mvtec" / "tables.md").is_file()
    _, out, _ = run(*arguments, "--list")
    assert [line.split()[1] for line in out.splitlines()] == ["done", "done"]


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/2/3", "/"])
def test_shards_are_checked(run, shard):
    code, _, err = run("reproduce", "patchguard", "--dataset", "surfaces", "--shard", shard)
    assert code == 1
    assert err.startswith("robustad: error: --shard: expected I/N with 1 <= I <= N")


def test_data_is_asked_for(run):
    code, _, err = run("reproduce", "patchguard")
    assert code == 1
    assert "--data: expected the folder of mvtec, got none" in err
