import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from robustad.attacks import attack
from robustad.attacks.images import load_adversarial, round_inside, save_adversarial
from robustad.errors import InputError, StateError

ORDERS = {"linf": torch.inf, "l2": 2, "l1": 1}


def eight_bit(images):
    return (images * 255).round() / 255


def distance(one, other, norm):
    return torch.linalg.vector_norm((one - other).flatten(1), ord=ORDERS[norm], dim=1)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 2 / 255), ("l2", 0.5), ("l1", 4.0)])
def test_what_is_saved_attacks_as_well_when_it_is_read(smooth, images, tmp_path, norm, eps):
    scorer, x = smooth(), eight_bit(images(3))
    name = "pgd10" if norm == "linf" else f"pgd10_{norm}"
    found = attack(scorer, x, label=torch.tensor([0, 1, 0]), attack=name, eps=eps)
    names = ["part 1", "part-2", "ä3"]
    saved = save_adversarial(
        found.x_adv, tmp_path / "out", clean=x, names=names, eps=eps, norm=norm,
        detector=scorer, about={"attack": name},
    )  # fmt: skip
    again = load_adversarial(tmp_path / "out")
    assert torch.equal(again.x_adv, found.x_adv)
    assert torch.equal(again.clean, x)
    assert (again.eps, again.norm, again.about) == (eps, norm, {"attack": name})
    assert again.images == saved.images
    for i, record in enumerate(again.images):
        assert record.name == names[i]
        assert record.score == pytest.approx(float(found.score[i]), rel=1e-5)
        assert record.clean_score == pytest.approx(float(found.clean_score[i]), rel=1e-5)
        assert record.distance == pytest.approx(float(found.distance[i]), abs=1e-6)
        assert record.png_inside
        pixels = np.asarray(Image.open(tmp_path / "out" / f"{names[i]}.png"), np.float32) / 255
        read = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        assert float(distance(read, x[i : i + 1], norm)) <= eps + 1e-4
        score = float(scorer.aggregate(scorer.patch_scores(read)))
        assert record.png_score == pytest.approx(score, rel=1e-5)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["manifest.json", "adversarial.safetensors", *(f"{name}.png" for name in names)]
    )


def test_truncation_would_lose_what_rounding_keeps(images):
    x = eight_bit(images(1)) * 0.8 + 0.1
    x = eight_bit(x)
    bright = (x + 1.999 / 255).clamp(0, 1)
    kept = round_inside(bright, x, eps=2 / 255).float() / 255
    assert float((kept - x).mean()) == pytest.approx(2 / 255, abs=1e-4)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    norm=st.sampled_from(["linf", "l2", "l1"]),
    levels=st.floats(0.1, 20),
)
def test_rounding_stays_inside_where_eight_bits_allow_it(seed, norm, levels):
    generator = torch.Generator().manual_seed(seed)
    x = eight_bit(torch.rand(2, 3, 5, 4, generator=generator))
    noise = torch.rand(x.shape, generator=generator) * 2 - 1
    x_adv = (x + noise * levels / 255).clamp(0, 1)
    eps = float(distance(x_adv, x, norm).max())
    levels_found = round_inside(x_adv, x, eps=eps, norm=norm)
    rounded = levels_found.double() / 255
    assert (distance(rounded, x.double(), norm) <= eps + 1e-4).all()
    assert float((rounded - x_adv).abs().max()) <= 1 / 255 + 1e-6


def test_a_png_that_cannot_be_inside_is_said_not_to_be(tmp_path):
    clean = torch.full((1, 3, 4, 4), 100.5 / 255)
    saved = save_adversarial(clean + 0.0005, tmp_path / "out", clean=clean, names=["a"], eps=0.0005)
    assert not saved.images[0].png_inside
    assert saved.images[0].png_distance == pytest.approx(0.5 / 255, abs=1e-6)
    assert saved.images[0].score is None


def save(tmp_path, x, **options):
    defaults = {"clean": x, "names": ["a", "b"], "eps": 0.1}
    return save_adversarial(x + 0.01, tmp_path / "out", **{**defaults, **options})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"names": ["a"]}, "names: expected 2 different ones"),
        ({"names": ["a", "A"]}, "names: expected 2 different ones"),
        ({"names": ["a", "../b"]}, "names: expected letters, digits"),
        ({"names": ["a", ""]}, "names: expected letters, digits"),
        ({"names": ["a", ".b"]}, "names: expected letters, digits"),
        ({"eps": 0.005}, r"x_adv: images \[0, 1\] are up to 0.0"),
        ({"eps": 0.0}, "eps: expected a finite radius > 0"),
        ({"norm": "l3"}, "norm: expected 'linf', 'l2' or 'l1', got 'l3'"),
        ({"clean": torch.zeros(2, 3, 4, 5)}, "x_adv and clean: expected two batches"),
        ({"clean": torch.full((2, 3, 4, 4), torch.nan)}, r"clean: expected values in \[0, 1\]"),
        ({"about": {"x": object()}}, "about: expected what JSON can hold"),
    ],
)
def test_what_cannot_be_saved_is_refused(tmp_path, options, match):
    with pytest.raises(InputError, match=match):
        save(tmp_path, torch.full((2, 3, 4, 4), 0.5), **options)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_folder_in_use_is_refused(tmp_path):
    x = torch.full((2, 3, 4, 4), 0.5)
    save(tmp_path, x)
    with pytest.raises(InputError, match="holds adversarial images already"):
        save(tmp_path, x)


def test_damage_is_noticed(tmp_path):
    folder = save(tmp_path, torch.full((2, 3, 4, 4), 0.5)).folder
    manifest, pixels = folder / "manifest.json", folder / "adversarial.safetensors"
    good, raw = manifest.read_text(), pixels.read_bytes()
    document = json.loads(good)

    def broken(match, **changes):
        manifest.write_text(json.dumps({**document, **changes}))
        with pytest.raises(StateError, match=match):
            load_adversarial(folder)

    broken("written by a newer robustad", schema_version=2)
    broken("1 images in manifest.json, 2 in", images=document["images"][:1])
    broken("an image is more than 0.001 from its clean one", eps=0.001)
    broken("is not the file that manifest.json was written for", pixels_sha256="0")
    broken("no folder of adversarial images, or a damaged one", images=[{"name": "a"}])
    manifest.write_text(good)
    pixels.write_bytes(raw[:-1])
    with pytest.raises(StateError, match="is not the file"):
        load_adversarial(folder)
    pixels.unlink()
    with pytest.raises(StateError, match="no folder of adversarial images"):
        load_adversarial(folder)
    with pytest.raises(StateError, match="no folder of adversarial images"):
        load_adversarial(tmp_path / "nothing")
