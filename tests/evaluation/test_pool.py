"""Evaluations give attacks the clean images of the other class, and stand-ins."""

import numpy as np
import pytest
import torch
from PIL import Image

from robustad.data import Sample
from robustad.detectors import AnomalyDINO
from robustad.errors import InputError
from robustad.evaluation import evaluate, evaluate_shard, merge_stores
from robustad.evaluation.attacked import attack_folder
from robustad.evaluation.audit import audit
from robustad.evaluation.pool import COUNT, ClassPool


def striped(count, size=16):
    """Half of the images are stripes, half are checks: neither noise nor a blur passes for any."""
    made = []
    for index in range(count):
        image = np.zeros((size, size, 3), np.uint8)
        if index % 2:
            image[::2, ::2] = image[1::2, 1::2] = 190 + index // 2
        else:
            image[:, ::2] = 190 + index // 2
        made.append(Sample(image=image, label=index % 2, name=f"{index:03d}"))
    return made


def checked(x):
    """How far images are from stripes."""
    wanted = torch.zeros_like(x)
    wanted[..., ::2] = 0.8
    return (x - wanted).abs().mean(dim=(1, 2, 3))


@pytest.fixture
def stripes(redness):
    class Stripes(redness):
        method = "stripes"

        def patch_scores(self, x):
            return checked(x)[:, None].expand(-1, 4)

        def patch_grid(self, height, width):
            return 2, 2

    return Stripes()


def test_images_are_spread_over_a_class_and_of_one_size(redness):
    detector = redness()
    samples = [*striped(80), *(Sample(image=s.image, label=1, name="x" + s.name)
                               for s in striped(2, size=24))]  # fmt: skip
    pool = ClassPool(detector, samples)
    assert pool.chosen[0] == [round(k * 39 / 15) * 2 for k in range(COUNT)]
    assert all(samples[i].label == 1 for i in pool.chosen[1])
    whole = ClassPool(detector, samples[:4]).at(16, 16)
    assert torch.equal(whole[0], detector.prepare([samples[i].image for i in (0, 2)]))
    assert ClassPool(detector, samples[:1]).at(16, 16).keys() == {0}
    assert ClassPool(detector, samples[:4]).at(24, 24) == {}
    assert ClassPool(detector, samples[:4], [1, 1, 1, 1]).chosen == {0: [], 1: [0, 1, 2, 3]}


def test_hopskipjump_has_a_start_in_an_evaluation(stripes, tmp_path):
    samples = striped(6)
    options = {"attacks": ("hopskipjump60",), "eps": 0.75, "threshold": 0.1}
    found = evaluate(stripes, samples, store=tmp_path / "s", **options)
    assert "no_start" not in found.conditions["hopskipjump60"].flags
    assert found.conditions["worst_case"].metrics.auroc < found.clean.metrics.auroc
    # without the pool normal images find noise, anomalous ones nothing
    alone = evaluate(stripes, [samples[1], *samples[::2]], **options)
    assert "no_start" not in alone.conditions["hopskipjump60"].flags
    # another pool makes other units, and shards share one
    for i in (1, 2):
        evaluate_shard(
            stripes, samples, shard=(i, 2), store=tmp_path / f"{i}", batch_size=2, **options
        )
    merge_stores(tmp_path / "m", tmp_path / "1", tmp_path / "2")
    parts = [evaluate(stripes, samples, batch_size=2, store=store, **options)
             for store in (tmp_path / "m", None)]  # fmt: skip
    scores = [one.conditions["hopskipjump60"].score for one in parts]
    assert scores[0] == scores[1]
    count = len(list((tmp_path / "s").rglob("*.safetensors")) or list((tmp_path / "s").rglob("*")))
    evaluate(stripes, samples, store=tmp_path / "s", **options)
    after = len(list((tmp_path / "s").rglob("*.safetensors")) or list((tmp_path / "s").rglob("*")))
    assert count == after


def write(folder, samples):
    folder.mkdir(parents=True, exist_ok=True)
    for sample in samples:
        Image.fromarray(sample.image).save(folder / f"{sample.name}.png")
    return folder


def test_attacked_folders_start_from_the_other_class(tmp_path):
    samples = striped(4)
    checks = write(tmp_path / "checks", samples[1::2])
    lines = write(tmp_path / "stripes", samples[::2])
    from robustad.evaluation.target import load_target

    target = load_target(checked, image_size=16)
    options = {"attack": "hopskipjump", "queries": 80, "eps": 0.75, "threshold": 0.1}
    lost = attack_folder(target, checks, tmp_path / "a", anomalous=True, **options)
    assert all(one["score"] == pytest.approx(one["clean_score"], abs=1e-5) for one in lost)
    found = attack_folder(target, checks, tmp_path / "b", anomalous=True, pool=lines, **options)
    assert all(one["score"] < one["clean_score"] - 0.1 for one in found)
    with pytest.raises(InputError, match="pool: attack 'fgsm' does not start from other images"):
        attack_folder(target, checks, tmp_path / "c", attack="fgsm", pool=lines)
    root = tmp_path / "both"
    for name, some in (("train/good", samples[:1]), ("test/good", samples[::2]),
                       ("test/check", samples[1::2])):  # fmt: skip
        write(root / name, some)
    both = attack_folder(target, root, tmp_path / "d", **options)
    assert all(abs(one["score"] - one["clean_score"]) > 0.1 for one in both)
    with pytest.raises(InputError, match="pool: images of both classes are attacked"):
        attack_folder(target, root, tmp_path / "e", pool=lines, **options)


def test_an_audit_of_verdicts_starts_from_what_the_model_calls_the_other_class(tmp_path):
    folder = write(tmp_path / "all", striped(4))
    found = audit(
        lambda x: checked(x) >= 0.1, folder, image_size=16, eps=[0.75], attacks=["hopskipjump80"]
    )
    assert found.access == "decision"
    assert all(one.flips_at == 0.75 for one in found.images)


def test_transfer_takes_stand_ins(redness, samples, tmp_path):
    detector, data = redness(), samples(0)
    x = [sample.image for sample in data if sample.label == 0][:2]
    doubles = [AnomalyDINO("filters", image_size=16, square=True).fit(x), redness(2.0)]
    options = {"attacks": ("transfer",), "store": tmp_path / "s"}
    one = evaluate(detector, data, surrogates=doubles[1:], **options)
    two = evaluate(detector, data, surrogates=doubles, **options)
    assert one.conditions["transfer"].score != two.conditions["transfer"].score
    assert one.conditions["transfer"].metrics.auroc < one.clean.metrics.auroc
    again = evaluate(detector, data, surrogates=doubles[1:], **options)
    assert again.conditions["transfer"].score == one.conditions["transfer"].score
    with pytest.raises(InputError, match="surrogates: attack 'transfer' needs a differentiable"):
        evaluate(detector, data, attacks=("fgsm", "transfer"))
