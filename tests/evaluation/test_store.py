import json

import numpy as np
import pytest

from robustad.errors import InputError
from robustad.evaluation import evaluate, evaluate_shard, merge_stores
from robustad.evaluation.store import ARRAYS, Outcome, Store, unit_key

ATTACKS = ("fgsm", "pgd3_flip")
OPTIONS = {"attacks": ATTACKS, "eps": (0.03, 0.01), "batch_size": 3}


def without_times(evaluation):
    document = evaluation.model_dump()
    for condition in document["conditions"].values():
        condition.pop("seconds")
    return document


@pytest.fixture
def passes(redness):
    """A detector that counts its passes and may be made to fail."""

    class Counted(redness):
        count, limit = 0, None

        def patch_scores(self, x):
            type(self).count += len(x)
            if self.limit is not None and type(self).count > self.limit:
                raise KeyboardInterrupt
            return super().patch_scores(x)

    return Counted


@pytest.mark.parametrize("limit", [7, 30, 61])
def test_a_resumed_run_is_bitwise_an_uninterrupted_one(passes, samples, tmp_path, limit):
    data, held_out = samples(0, 8), samples(100, 8)
    options = {**OPTIONS, "calibration": held_out}
    expected = evaluate(passes(), data, **options)
    passes.count, passes.limit = 0, limit + len(held_out)
    with pytest.raises(KeyboardInterrupt):
        evaluate(passes(), data, store=tmp_path, **options)
    kept = len(Store(tmp_path))
    passes.limit = None
    found = evaluate(passes(), data, store=tmp_path, **options)
    assert without_times(found) == without_times(expected)
    assert len(Store(tmp_path)) > kept


def test_a_finished_store_needs_no_attack(passes, samples, tmp_path):
    data = samples(0, 8)
    first = evaluate(passes(), data, store=tmp_path, **OPTIONS)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    passes.count = 0
    again = evaluate(passes(), data, store=tmp_path, **OPTIONS)
    assert again == first  # times are those of the first run as well
    assert passes.count <= 4 * len(data) + 4  # only the evaluation's questions to itself
    assert {path: path.stat().st_mtime_ns for path in files} == files
    evaluate(passes(), data, store=tmp_path, resume=False, **OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in files} != files


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_shards_make_the_whole(redness, samples, tmp_path, parts):
    data = samples(0, 10)
    stores = [tmp_path / str(i) for i in range(parts)]
    done = [
        evaluate_shard(redness(), data, shard=(i + 1, parts), store=store, **OPTIONS)
        for i, store in enumerate(stores)
    ]
    assert sum(done) == 4 * parts + 4 * 4
    merge_stores(tmp_path / "all", *stores)
    assert len(Store(tmp_path / "all")) == 4 + 4 * 4
    assert merge_stores(tmp_path / "all", *stores) == 0
    found = evaluate(redness(), data, store=tmp_path / "all", **OPTIONS)
    assert without_times(found) == without_times(evaluate(redness(), data, **OPTIONS))
    assert len(Store(tmp_path / "all")) == 4 + 4 * 4
    assert evaluate_shard(redness(), data, shard=(1, 1), store=tmp_path / "all", **OPTIONS) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"eps": (0.03, 0.02)},
        {"attacks": ("fgsm", "pgd4_flip")},
        {"seed": 1},
        {"restarts": 2},
        {"threshold": 0.3},
    ],
)
def test_other_work_has_other_names(redness, samples, tmp_path, change):
    data = samples(0, 4)
    evaluate_shard(redness(), data, shard=(1, 1), store=tmp_path, **OPTIONS)
    changed = {**OPTIONS, **change}
    assert evaluate_shard(redness(), data, shard=(1, 1), store=tmp_path, **changed) > 0


def test_other_detectors_and_images_have_other_names(redness, samples, tmp_path):
    data = samples(0, 4)
    evaluate_shard(redness(), data, shard=(1, 1), store=tmp_path, **OPTIONS)
    everything = len(Store(tmp_path))
    other = redness(gain=2.0)
    count = evaluate_shard(other, data, shard=(1, 1), store=tmp_path, **OPTIONS)
    assert count == everything
    moved = redness()
    moved.anchor += 1.0
    assert evaluate_shard(moved, data, shard=(1, 1), store=tmp_path, **OPTIONS) == everything
    data[0].image[0, 0, 0] += 1
    assert evaluate_shard(redness(), data, shard=(1, 1), store=tmp_path, **OPTIONS) > 0


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign"])
def test_damaged_units_are_computed_again(redness, samples, tmp_path, damage):
    data = samples(0, 6)
    expected = evaluate(redness(), data, store=tmp_path, **OPTIONS)
    for path in tmp_path.rglob("*.safetensors"):
        whole = path.read_bytes()
        path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "foreign": b"x"}[damage])
    assert without_times(evaluate(redness(), data, store=tmp_path, **OPTIONS)) == without_times(
        expected
    )
    assert not list(tmp_path.rglob("*.part*"))


def test_a_unit_survives_the_disk(tmp_path):
    store, parts = Store(tmp_path / "new"), {"attack": "pgd10", "eps": 8 / 255}
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(2, 3)).astype(np.float32) for name in ARRAYS}
    outcome = Outcome(**arrays, flags=("zero_gradient",), seconds=1.5)
    store.put(unit_key(parts), outcome, parts)
    found = store.get(unit_key(parts))
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(found, name), arrays[name])
    assert (found.flags, found.seconds) == (("zero_gradient",), 1.5)
    header = store.path(unit_key(parts)).read_bytes()[8:2000]
    assert json.dumps("pgd10").encode()[1:-1] in header


def test_draws_do_not_depend_on_batches_or_neighbours(redness, samples):
    data = samples(0, 8)
    options = {"attacks": ("pgd2",), "restarts": 3, "eps": 0.02}
    whole = evaluate(redness(), data, batch_size=8, **options)
    apart = evaluate(redness(), data, batch_size=1, **options)
    fewer = evaluate(redness(), data[2:-2], batch_size=8, **options)
    assert np.allclose(whole.scores("pgd2"), apart.scores("pgd2"), atol=1e-6)
    assert np.allclose(whole.scores("pgd2")[2:-2], fewer.scores("pgd2"), atol=1e-6)


def test_bad_stores_and_shards(redness, samples, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="store: expected a folder, got the file"):
        evaluate(redness(), samples(0, 4), attacks=(), store=file)
    with pytest.raises(InputError, match="store: expected a folder to merge from, got"):
        merge_stores(tmp_path / "a", tmp_path / "nowhere")
    for shard in ((0, 2), (3, 2)):
        with pytest.raises(InputError, match=r"shard: expected \(i, n\) with 1 <= i <= n"):
            evaluate_shard(redness(), samples(0, 4), shard=shard, store=tmp_path / "s")
