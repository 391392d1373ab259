from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score, roc_auc_score

from robustad.metrics import PixelMetrics

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
MEASURES = ("auroc", "ap", "aupro")


def regions_of(mask):
    """8-connected regions by flood fill, as lists of pixels."""
    left = set(zip(*map(np.ndarray.tolist, np.nonzero(mask)), strict=True))
    regions = []
    while left:
        todo = [left.pop()]
        region = []
        while todo:
            y, x = todo.pop()
            region.append((y, x))
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            todo += around
        regions.append(tuple(np.array(region).T))
    return regions


def exact_aupro(maps, masks, limit=0.3):
    """Overlap of each region and false positive rate at every distinct score, then trapezoids."""
    thresholds = np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]

    def share_reaching(values):
        return 1 - np.searchsorted(np.sort(values), thresholds, side="left") / values.size

    normal = np.concatenate([m[~t] for m, t in zip(maps, masks, strict=True)])
    overlap = [
        share_reaching(m[r]) for m, t in zip(maps, masks, strict=True) for r in regions_of(t)
    ]
    fpr = np.append(0.0, share_reaching(normal))
    pro = np.append(0.0, np.mean(overlap, axis=0))
    inside = fpr <= limit
    at_limit = np.interp(limit, fpr, pro) if not (fpr == limit).any() else pro[inside][-1]
    return np.trapezoid(np.append(pro[inside], at_limit), np.append(fpr[inside], limit)) / limit


def exact(maps, masks):
    scores = np.concatenate([m.ravel() for m in maps])
    truth = np.concatenate([m.ravel() for m in masks])
    return (
        roc_auc_score(truth, scores),
        average_precision_score(truth, scores),
        exact_aupro(maps, masks),
    )


def streamed(maps, masks, **options):
    metrics = PixelMetrics(**options)
    for anomaly_map, mask in zip(maps, masks, strict=True):
        metrics.update(anomaly_map, mask)
    return metrics.compute()


def values(result):
    return tuple(getattr(result, name) for name in MEASURES)


def surface(seed, count=6, size=96, tail=1.0):
    """Smooth log-normal score maps with blobs that score somewhat higher; one image in 3 good."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for index in range(count):
        mask = np.zeros((size, size), bool)
        for _ in range(index % 3):
            y, x, h, w = *rng.integers(0, size - 20, 2), *rng.integers(1, 20, 2)
            mask[y : y + h, x : x + w] = True
        noise = 8.0 * gaussian_filter(rng.normal(size=mask.shape), 3)
        lift = gaussian_filter(mask.astype(float), 2) * rng.uniform(0.5, 3.0)
        maps.append(np.exp(tail * (noise + lift)).astype(np.float32))
        masks.append(mask)
    return maps, masks


TRANSFORMS = {
    "as it is": lambda x: x,
    "negative": lambda x: -1 / x,
    "both signs": lambda x: np.log(x),
    "tiny": lambda x: x * np.float32(1e-33),
    "huge": lambda x: x * np.float32(1e30),
    "narrow": lambda x: 0.9 + 0.005 * np.tanh(np.log(x)),
    "offset": lambda x: -4000 + 3 * np.log(x),
    "saturated": lambda x: np.minimum(x, np.float32(1.5)),
    "many zeros": lambda x: np.maximum(x - np.float32(1.0), 0),
    "rounded": lambda x: np.round(np.log(x), 1) + 0.0,
    "probabilities": lambda x: 1 / (1 + x ** np.float32(-4)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("seed", [0, 1])
def test_values_match_exact_sorting_on_any_range(name, seed):
    maps, masks = surface(seed)
    maps = [TRANSFORMS[name](m).astype(np.float32) for m in maps]
    result = streamed(maps, masks)
    assert values(result) == pytest.approx(exact(maps, masks), abs=5e-4)


@pytest.mark.parametrize("tail", [3.0, 8.0])
def test_heavy_tails(tail):
    maps, masks = surface(2, tail=tail)
    assert np.max(maps) / np.min(maps) > 1e6
    assert values(streamed(maps, masks)) == pytest.approx(exact(maps, masks), abs=1e-4)


@pytest.mark.parametrize("folder", ["hazelnut_toy/hazelnut", "aws_cookies/cookie"])
def test_real_images_and_masks(folder):
    root = SHARED / folder
    if not root.is_dir():
        pytest.skip(f"needs the real images of {folder} beside the repository")
    images = sorted(p for p in (root / "test").glob("*/*") if p.parent.name != "good")[:5]
    images += sorted((root / "test" / "good").glob("*"))[:3]
    maps, masks = [], []
    for path in images:
        grey = np.asarray(Image.open(path).convert("L").resize((192, 192)), np.float64)
        detail = np.abs(grey - gaussian_filter(grey, 8))
        maps.append(gaussian_filter(detail, 2).astype(np.float32))
        file = root / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        mask = np.zeros((192, 192), bool)
        if file.is_file():
            mask = np.asarray(Image.open(file).convert("L").resize((192, 192), 0)) > 0
        masks.append(mask)
    assert sum(mask.any() for mask in masks) == 5
    result = streamed(maps, masks)
    assert values(result) == pytest.approx(exact(maps, masks), abs=1e-4)


SCORE = st.one_of(
    st.integers(-2, 2).map(float),
    st.floats(-1, 1, width=32),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@st.composite
def data_sets(draw):
    maps, masks = [], []
    for _ in range(draw(st.integers(1, 3))):
        shape = draw(st.integers(1, 4)), draw(st.integers(2, 4))
        size = shape[0] * shape[1]
        scores = draw(st.lists(SCORE, min_size=size, max_size=size))
        truth = draw(st.lists(st.booleans(), min_size=size, max_size=size))
        maps.append(np.array(scores, np.float32).reshape(shape))
        masks.append(np.array(truth).reshape(shape))
    masks[0][0, :2] = True, False
    return maps, masks


def quantised(maps, bins):
    """Numbers that are equal where the bins are, by the documented rule and no histogram."""

    def key(x):
        bits = x.view(np.int32).astype(int)
        mirrored = 2 * 0x3F000000 - (1 - x).view(np.int32).astype(int)
        at_one = 2 * 0x3F000000 - 0x33000000
        return np.select([x <= 0.5, x < 1], [bits, mirrored], bits - 0x3F800000 + at_one)

    keys = [key(np.abs(m)) for m in maps]
    signs = [np.sign(m).astype(int) for m in maps]
    out = [np.zeros(m.shape) for m in maps]
    for sign in (-1, 1):
        some = np.concatenate([k[s == sign] for k, s in zip(keys, signs, strict=True)])
        if some.size:
            shift = next(s for s in range(33) if (some.max() >> s) - (some.min() >> s) < bins)
            for o, k, s in zip(out, keys, signs, strict=True):
                o[s == sign] = sign * (1 + (k[s == sign] >> shift))
    return out


@settings(deadline=None, max_examples=60)
@given(data_sets(), st.sampled_from([2, 3, 16, 1000, 1 << 18]))
def test_values_are_exact_but_for_the_bins(data, bins):
    maps, masks = data
    result = streamed(maps, masks, bins=bins)
    assert values(result) == pytest.approx(exact(quantised(maps, bins), masks), abs=1e-12)
    assert all(0 <= value <= 1 for value in values(result))


@pytest.mark.parametrize("sign", [-1, 1])
def test_scores_apart_by_a_fifth_of_a_percent_are_told_apart_on_the_widest_range(sign):
    info = np.finfo(np.float32)
    ends = [-info.max, -info.smallest_subnormal, 0, info.smallest_subnormal, info.max]
    for exponent in range(-120, 120, 7):
        pair = sign * np.array([1.2345, 1.2345 * 1.002]) * 2.0**exponent
        scores = np.array([[*ends, *pair]], np.float32)
        mask = np.array([[False] * 5 + [True, False]])
        assert streamed([scores], [mask]).auroc == pytest.approx(roc_auc_score(mask[0], scores[0]))


def test_a_magnitude_range_of_1e4_is_resolved_as_documented():
    pair = 0.3 * np.array([1.0, 1.0001])
    scores, mask = np.array([[1e-4, 0.5, *pair]]), np.array([[False, False, True, False]])
    assert streamed([scores], [mask]).auroc == pytest.approx(roc_auc_score(mask[0], scores[0]))


def test_constant_maps():
    masks = [np.eye(4, dtype=bool), np.zeros((4, 4), bool)]
    result = streamed([np.full((4, 4), 0.3)] * 2, masks)
    # One step from (0, 0) to (1, 1), cut at 0.3: a triangle.
    assert values(result) == pytest.approx((0.5, 4 / 32, 0.15))
    assert values(result) == pytest.approx(exact([np.full((4, 4), 0.3)] * 2, masks))


def test_perfect_and_inverted_maps():
    mask = np.zeros((8, 8), bool)
    mask[2:4, 2:4] = True
    assert values(streamed([mask.astype(float)], [mask])) == (1.0, 1.0, 1.0)
    assert values(streamed([-mask.astype(float)], [mask])) == pytest.approx((0, 4 / 64, 0))


def test_regions_count_alike_whatever_their_size():
    mask = np.zeros((20, 20), bool)
    mask[0, 0] = True
    mask[5:15, 5:15] = True
    scores = np.zeros((20, 20))
    scores[0, 0] = 1.0  # the region of one pixel is found, the large one not at all
    result = streamed([scores], [mask])
    assert result.n_regions == 2
    # From overlap 1/2 at rate 0 straight to 1 at rate 1.
    assert result.aupro == pytest.approx(0.5 + 0.15 / 2)
    assert result.aupro == pytest.approx(exact_aupro([scores], [mask]))


def test_regions_touching_at_a_corner_are_one():
    mask = np.zeros((4, 4), bool)
    mask[[0, 1, 2], [0, 1, 2]] = True
    mask[0, 3] = True
    assert streamed([np.zeros((4, 4))], [mask]).n_regions == 2


def test_an_image_that_is_anomalous_all_over():
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(8, 8)).astype(np.float32) for _ in range(2)]
    masks = [np.ones((8, 8), bool), np.zeros((8, 8), bool)]
    result = streamed(maps, masks)
    assert result.n_regions == 1
    assert values(result) == pytest.approx(exact(maps, masks))


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_the_limit_of_aupro(limit):
    maps, masks = surface(3)
    result = streamed(maps, masks, fpr_limit=limit)
    assert result.aupro == pytest.approx(exact_aupro(maps, masks, limit), abs=1e-4)


def test_aupro_at_limit_1_of_one_region_is_auroc():
    rng = np.random.default_rng(0)
    mask = np.zeros((30, 30), bool)
    mask[5:12, 5:12] = True
    result = streamed([rng.normal(size=mask.shape) + mask], [mask], fpr_limit=1.0)
    assert result.aupro == pytest.approx(result.auroc, abs=1e-12)


def test_aupro_stays_below_1_with_regions_of_awkward_sizes():
    # 1/3 + 1/3 + 1/3 and the like do not add up to 1 exactly.
    rng = np.random.default_rng(0)
    masks = [np.zeros((40, 40), bool) for _ in range(5)]
    for mask in masks:
        mask[::4, : rng.integers(2, 40)] = True
    result = streamed([m * (1 + rng.random(m.shape)) for m in masks], masks)
    assert 1 - 1e-12 < result.aupro <= 1.0


def test_negative_zero_ties_with_zero():
    mask = np.array([[True, False]])
    assert streamed([np.array([[-0.0, 0.0]])], [mask]).auroc == 0.5
    assert streamed([np.array([[-0.0, 0.0]]), np.array([[-1.0, -2.0]])], [mask] * 2).auroc == 0.625


def test_neighbouring_floats_are_told_apart():
    one = np.float32(1.0)
    scores = np.array([[one, np.nextafter(one, np.float32(2))]])
    assert streamed([scores], [np.array([[False, True]])]).auroc == 1.0


def test_scores_around_one_half_and_one_are_ordered():
    below_one = 1 - 2.0 ** -np.arange(19, 25)
    around_half = 0.5 + np.arange(-3, 4) * 2.0**-14
    scores = np.array([[*around_half, *below_one, 1.0, 1.001, 1.002, 2.0]], np.float32)
    assert (np.diff(scores) > 0).all()
    masks = [np.arange(scores.size)[None] >= k for k in range(1, scores.size)]
    assert min(streamed([scores], [mask]).auroc for mask in masks) == pytest.approx(1)
    assert max(streamed([-scores], [mask]).auroc for mask in masks) == pytest.approx(0)


def test_probabilities_near_1_are_resolved_as_well_as_near_0():
    # Nearly all of the map lies within 1e-4 of 1, with one outlier near 0.
    rng = np.random.default_rng(0)
    mask = np.zeros((64, 64), bool)
    mask[8:24, 8:24] = True
    scores = 1 - 10 ** (rng.uniform(-6, -4, mask.shape) - mask)
    scores[-1, -1] = 1e-6
    maps = [scores.astype(np.float32)]
    assert values(streamed(maps, [mask])) == pytest.approx(exact(maps, [mask]), abs=1e-4)


def test_extreme_floats_are_ordered():
    # The largest, the smallest normal, the smallest denormal number, and their negatives.
    info = np.finfo(np.float32)
    some = [info.max, info.tiny, info.smallest_subnormal]
    scores = np.array([[-x for x in some] + [0.0] + some[::-1]], np.float32)
    assert (np.diff(scores) > 0).all()
    masks = [np.arange(7)[None] >= k for k in range(1, 7)]
    assert min(streamed([scores], [mask]).auroc for mask in masks) == pytest.approx(1)


def test_counts_and_running_results():
    maps, masks = surface(4)
    metrics = PixelMetrics()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        metrics.update(anomaly_map, mask)
        if masks[1] is mask:
            early = metrics.compute()
    assert values(early) == pytest.approx(exact(maps[:2], masks[:2]), abs=1e-4)
    result = metrics.compute()
    assert result == metrics.compute()
    assert result.n_images == len(maps)
    assert result.n_pixels == sum(m.size for m in maps)
    assert result.n_anomalous_pixels == sum(m.sum() for m in masks)
    assert result.n_regions == sum(len(regions_of(m)) for m in masks)
    assert all(type(value) is float for value in values(result))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_types_and_strides(dtype):
    maps, masks = surface(5)
    maps = [np.log(m).astype(dtype)[:, ::-1].T for m in maps]
    masks = [m[:, ::-1].T for m in masks]
    expected = exact([m.astype(np.float32) for m in maps], masks)
    assert values(streamed(maps, masks)) == pytest.approx(expected, abs=1e-4)


def test_more_bins_are_finer():
    maps, masks = surface(6)
    truth = np.array(exact(maps, masks))
    off = [np.abs(np.array(values(streamed(maps, masks, bins=2**k))) - truth) for k in (3, 8, 16)]
    assert (off[0] > off[1]).all()
    assert (off[1] > off[2]).all()
