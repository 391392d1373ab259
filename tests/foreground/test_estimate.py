import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from robustad.backbones import create
from robustad.data import Dataset, Sample
from robustad.detectors.foreground import foreground_mask
from robustad.errors import DataError, InputError
from robustad.foreground import ForegroundConfig, default_method, estimate, source_hash
from robustad.geometry import Geometry


def config(resnet, **more):
    return ForegroundConfig(method="gradcam", weights=str(resnet[1]), soft=2, hard=0, **more)


def no_network(*args, **kwargs):
    raise AssertionError("a network was built")


@pytest.fixture
def kept(on_disk, resnet, tmp_path):
    """Masks that lie in their cache, its folder and their pictures."""
    masks = estimate(on_disk, config(resnet), 64)
    folder = tmp_path / "disc" / ".robustad" / "foreground"
    return masks, sorted(folder.glob("*.png"))


def test_whole_is_everything(discs):
    out = estimate(discs[0], ForegroundConfig(method="whole"), 32)
    assert out.shape == (3, 32, 32)
    assert out.dtype == torch.bool
    assert out.all()


def test_textures_are_whole_and_objects_are_not(discs):
    assert default_method("mvtec", "leather") == "whole"
    assert default_method("wfdd", "pink_flower") == "whole"
    assert default_method("dtd_synthetic", "Woven_001") == "whole"
    assert default_method("surfaces", "tray") == "whole"
    assert default_method("mvtec", "hazelnut") == "gradcam"
    assert default_method("folder", "mine") == "gradcam"
    carpet = Dataset(name="mvtec", category="carpet", train=tuple(discs[0]), test=())
    assert estimate(carpet, image_size=32).all()


def test_gradcam_finds_the_disc(discs, resnet):
    out = estimate(discs[0], config(resnet), 64)
    for mask, disc in zip(out.numpy(), discs[1], strict=True):
        assert (mask & disc).sum() > 0.9 * disc.sum()
        assert (mask & ~disc).sum() < 0.5 * (~disc).sum()


def test_a_fixed_threshold_is_taken(discs, resnet):
    low, high = (estimate(discs[0], config(resnet, threshold=t), 64) for t in (0.2, 0.8))
    assert (low | high).sum() == low.sum() > high.sum() > 0


def test_tokens_are_cut_as_anomalydino_cuts_them(discs):
    method = ForegroundConfig(
        method="pca",
        backbone="filters",
        pca_threshold=1.0,
        pca_unit="std",
        largest=False,
        fill=False,
    )
    out = estimate(discs[0], method, 128)
    geometry, backbone = Geometry(size=128, multiple=8), create("filters")
    pixels = np.stack([geometry.apply(sample.read()) for sample in discs[0]])
    tokens = backbone(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    patches = foreground_mask(tokens, (16, 16), threshold=1.0, unit="std").view(-1, 16, 16)
    np.testing.assert_array_equal(out.numpy(), np.kron(patches.numpy(), np.ones((1, 8, 8), bool)))
    assert 0.05 < out.float().mean() < 0.95


def test_tokens_at_a_size_that_is_no_multiple_of_the_patch(discs):
    method = ForegroundConfig(method="pca", backbone="filters", pca_unit="std", pca_threshold=0.5)
    assert estimate(discs[0], method, 50).shape == (3, 50, 50)


def test_nothing_that_stands_out_is_everything(resnet):
    flat = Sample(image=np.full((64, 64, 3), 128, np.uint8), label=0, name="flat.png")
    out = estimate([flat], config(resnet, threshold=0.999), 64)
    assert out.any()


def test_no_samples_give_no_masks():
    assert estimate([], ForegroundConfig(method="whole"), 32).shape == (0, 32, 32)


def test_kept_masks_are_read_without_a_network(kept, on_disk, resnet, monkeypatch):
    monkeypatch.setattr("robustad.foreground.gradcam.GradCAM", no_network)
    again = estimate(on_disk, config(resnet), 64)
    assert torch.equal(again, kept[0])
    assert len(kept[1]) == 3
    with Image.open(kept[1][0]) as picture:
        assert picture.mode == "1"
        np.testing.assert_array_equal(np.asarray(picture), kept[0][0].numpy())
    some = estimate(on_disk[1:2], config(resnet), 64)
    assert torch.equal(some[0], kept[0][1])


def test_the_place_of_the_weights_does_not_matter_their_content_does(
    kept, on_disk, resnet, tmp_path, monkeypatch
):
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(resnet[1].read_bytes())
    monkeypatch.setattr("robustad.foreground.gradcam.GradCAM", no_network)
    same = config(resnet).model_copy(update={"weights": str(moved)})
    assert torch.equal(estimate(on_disk, same, 64), kept[0])
    other = config(resnet).model_copy(update={"weights": str(resnet[0])})
    with pytest.raises(AssertionError, match="a network was built"):
        estimate(on_disk, other, 64)


@pytest.mark.parametrize("change", [{"soft": 3}, {"fill": False}, {"seed": 1}])
def test_other_parameters_make_masks_stale(kept, on_disk, resnet, monkeypatch, change):
    monkeypatch.setattr("robustad.foreground.gradcam.GradCAM", no_network)
    with pytest.raises(AssertionError, match="a network was built"):
        estimate(on_disk, config(resnet).model_copy(update=change), 64)
    with pytest.raises(AssertionError, match="a network was built"):
        estimate(on_disk, config(resnet), 96)


def damage_image(sample, picture):
    pixels = np.asarray(Image.open(sample.image)).copy()
    pixels[0, 0] = 255
    Image.fromarray(pixels).save(sample.image)


def damage_picture(sample, picture):
    picture.write_bytes(picture.read_bytes()[:40])


def other_picture(sample, picture):
    Image.fromarray(np.zeros((64, 64), np.uint8)).convert("1").save(picture)


def damage_note(sample, picture):
    picture.with_suffix(".json").write_text('{"name": ')


def other_note(sample, picture):
    picture.with_suffix(".json").write_text("[1, 2]")


def no_note(sample, picture):
    picture.with_suffix(".json").unlink()


@pytest.mark.parametrize(
    "harm", [damage_image, damage_picture, other_picture, damage_note, other_note, no_note]
)
def test_a_stale_or_damaged_mask_alone_is_made_anew(kept, on_disk, resnet, harm):
    harm(on_disk[1], kept[1][1])
    calls = []
    again = estimate(
        on_disk, config(resnet), 64, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(3, 3)]  # the other two were read
    assert torch.equal(again[[0, 2]], kept[0][[0, 2]])
    assert (again[1] == kept[0][1]).float().mean() > 0.9
    note = json.loads(kept[1][1].with_suffix(".json").read_text())
    assert note["name"] == "train/good/1.png"
    assert note["parameters"]["method"] == "gradcam"
    calls.clear()
    estimate(on_disk, config(resnet), 64, progress=lambda done, total: calls.append(done))
    assert not calls


def test_generated_images_are_kept_where_told(discs, resnet, tmp_path, monkeypatch):
    first = estimate(discs[0], config(resnet), 64, cache=tmp_path / "masks")
    assert len(list((tmp_path / "masks").iterdir())) == 6
    monkeypatch.setattr("robustad.foreground.gradcam.GradCAM", no_network)
    assert torch.equal(estimate(discs[0], config(resnet), 64, cache=tmp_path / "masks"), first)


def test_previews_and_training_share_masks(kept, on_disk, resnet, monkeypatch):
    """A square of whole patches is cut nowhere, whatever the patch."""
    monkeypatch.setattr("robustad.foreground.gradcam.GradCAM", no_network)
    patches = Geometry(size=64, multiple=8, square=True)
    assert torch.equal(estimate(on_disk, config(resnet), geometry=patches), kept[0])
    for other in (Geometry(size=64, multiple=9, square=True), Geometry(size=64, multiple=8)):
        with pytest.raises(AssertionError, match="a network was built"):
            estimate(on_disk, config(resnet), geometry=other)


def test_source_hash_is_of_what_lies_beside_the_images(discs, on_disk, resnet, tmp_path):
    data = Dataset(name="folder", category="disc", train=tuple(on_disk), test=())
    assert source_hash(data, ForegroundConfig(method="whole")) is None
    assert source_hash(data, ForegroundConfig(method="gradcam")) is None  # published weights
    by_weights = source_hash(data, config(resnet))
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(resnet[1].read_bytes())
    assert (
        source_hash(data, config(resnet).model_copy(update={"weights": str(moved)})) == by_weights
    )
    moved.write_bytes(b"other")
    assert (
        source_hash(data, config(resnet).model_copy(update={"weights": str(moved)})) != by_weights
    )
    masks = tmp_path / "masks"
    masks.mkdir()
    for sample in on_disk:
        Image.new("L", (64, 64), 255).save(masks / Path(sample.name).name)
    files = ForegroundConfig(method="files", folder=masks)
    before = source_hash(data, files)
    assert before is not None
    assert source_hash(data, files) == before
    Image.new("L", (64, 64), 0).save(masks / Path(on_disk[0].name).name)
    assert source_hash(data, files) != before
    with pytest.raises(DataError, match="expected a folder with foreground masks"):
        source_hash(data, ForegroundConfig(method="files", folder=tmp_path / "none"))


def test_random_weights_keep_nothing(on_disk, tmp_path):
    estimate(on_disk[:1], ForegroundConfig(method="gradcam", weights="random", soft=1, hard=0), 64)
    assert not (tmp_path / "disc" / ".robustad").exists()


def test_a_cache_that_cannot_be_written(discs, resnet, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cache: expected a folder that can be written to"):
        estimate(discs[0], config(resnet), 64, cache=tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_data_keep_nothing(on_disk, resnet, tmp_path):
    (tmp_path / "disc").chmod(0o555)
    try:
        assert estimate(on_disk, config(resnet), 64).any()
    finally:
        (tmp_path / "disc").chmod(0o755)


def write_masks(discs, folder, names):
    folder.mkdir(parents=True)
    for disc, name in zip(discs[1], names, strict=True):
        Image.fromarray(disc.astype(np.uint8) * 255).save(folder / name)


@pytest.mark.parametrize("names", [["0.png", "1.png", "2.png"], ["0_mask.png", "1.bmp", "2.png"]])
def test_mask_files_in_the_official_place(discs, on_disk, tmp_path, names):
    write_masks(discs, tmp_path / "disc" / "train" / "foreground_mask", names)
    out = estimate(on_disk, ForegroundConfig(method="files"), 64)
    np.testing.assert_array_equal(out.numpy(), np.stack(discs[1]))


def test_mask_files_follow_the_geometry(discs, tmp_path):
    write_masks(discs, tmp_path / "masks", ["0.png", "1.png", "2.png"])
    method = ForegroundConfig(method="files", folder=tmp_path / "masks")
    geometry = Geometry(size=40, multiple=8)
    out = estimate(discs[0], method, geometry=geometry)
    expected = np.stack([geometry.apply_mask(disc) for disc in discs[1]])
    np.testing.assert_array_equal(out.numpy(), expected)


def test_mask_files_that_are_missing_or_wrong(discs, on_disk, tmp_path):
    given = ForegroundConfig(method="files", folder=tmp_path / "masks")
    with pytest.raises(DataError, match="masks: expected a folder with foreground masks"):
        estimate(on_disk, given, 64)
    with pytest.raises(DataError, match="train/foreground_mask: expected a folder"):
        estimate(on_disk, ForegroundConfig(method="files"), 64)
    with pytest.raises(InputError, match="foreground folder: expected one for method 'files'"):
        estimate(discs[0], ForegroundConfig(method="files"), 64)
    write_masks(discs, tmp_path / "masks", ["0.png", "1.png", "3.png"])
    with pytest.raises(DataError, match=r"expected a foreground mask 2\.png, found none"):
        estimate(on_disk, given, 64)
    (tmp_path / "masks" / "2.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"foreground mask of train/good/2\.png: .*2\.png: cannot"):
        estimate(on_disk, given, 64)
    Image.fromarray(np.full((64, 20), 255, np.uint8)).save(tmp_path / "masks" / "2.png")
    with pytest.raises(DataError, match="expected the proportions of its image train"):
        estimate(on_disk, given, geometry=Geometry(size=32, multiple=8))
    Image.fromarray(discs[1][2]).save(tmp_path / "masks" / "2.bmp")
    with pytest.raises(DataError, match=r"expected one mask a stem, got 2\.bmp and 2\.png"):
        estimate(on_disk, given, 64)


def test_images_of_several_sizes_are_refused(discs):
    tall = Sample(image=np.zeros((128, 64, 3), np.uint8), label=0, name="tall.png")
    geometry = Geometry(size=32, multiple=8)
    with pytest.raises(InputError, match="expected one size after preparation, got 32 x 32, 64 x"):
        estimate([discs[0][0], tall], ForegroundConfig(method="whole"), geometry=geometry)


def test_wrong_configurations_are_named():
    with pytest.raises(ValidationError, match="folder: only method 'files' takes one"):
        ForegroundConfig(method="pca", folder="masks")
    with pytest.raises(ValidationError, match="less than 1"):
        ForegroundConfig(threshold=1.5)
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        ForegroundConfig(model="resnet18")
