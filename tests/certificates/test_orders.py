"""Order statistics: against the binomial distribution by brute force, and a linear score."""

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from robustad.certificates import draws_needed, median_intervals, median_ranks, reach
from robustad.certificates.orders import median
from robustad.errors import InputError


@pytest.mark.parametrize("n", [1, 9, 10, 64, 333, 1000])
@pytest.mark.parametrize("alpha", [0.1, 0.001, 1e-6])
@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0, 2.2])
def test_ranks_are_the_tightest_the_binomial_distribution_allows(n, alpha, shift):
    ranks = np.arange(1, n + 1)
    # the draw of rank k lies above the quantile if at most k - 1 draws lie below it
    wrong = binom.cdf(ranks - 1, n, norm.cdf(-shift))
    allowed = ranks[wrong <= alpha]
    expected = int(allowed.max()) if len(allowed) else 0
    assert median_ranks(n, shift, alpha=alpha, sides="one") == (expected, n + 1 - expected)
    both = median_ranks(n, shift, alpha=2 * alpha, sides="two")
    assert both == median_ranks(n, shift, alpha=alpha, sides="one")


@pytest.mark.parametrize(("n", "expected"), [(100, 1.50), (1000, 2.46), (10_000, 3.20)])
def test_reach_of_one_side_at_a_thousandth(n, expected):
    found = reach(n, alpha=0.001)
    assert found == pytest.approx(expected, abs=0.005)
    scores = np.arange(float(n))
    near, far = found - 1e-6, found + 1e-6
    ends = median_intervals(scores, [near, far], sigma=1.0, alpha=0.001, sides="one")
    assert np.isfinite([ends.lower[0, 0], ends.upper[0, 0]]).all()
    assert (ends.lower[0, 1], ends.upper[0, 1]) == (-math.inf, math.inf)


def test_too_few_draws_bound_nothing():
    assert draws_needed(0.0, alpha=0.001) == 10
    assert draws_needed(0.0, alpha=0.001, sides="two") == 11
    assert reach(9, alpha=0.001) < 0 < reach(10, alpha=0.001)
    for n in (1, 9):
        ends = median_intervals(np.zeros(n), [0.0], sigma=1.0, alpha=0.001, sides="one")
        assert (ends.lower[0, 0], ends.upper[0, 0]) == (-math.inf, math.inf)
    for shift in (0.5, 1.7, 2.5):
        n = draws_needed(shift, alpha=0.01)
        assert reach(n, alpha=0.01) >= shift > reach(n - 1, alpha=0.01)


def test_intervals_grow_with_the_radius_and_the_confidence_and_shrink_with_draws():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3, 2000))
    radii = [0.0, 0.1, 0.2, 0.5]
    ends = median_intervals(scores, radii, sigma=0.5)
    assert ends.lower.shape == (3, 4)
    assert (np.diff(ends.lower, axis=1) <= 0).all()
    assert (np.diff(ends.upper, axis=1) >= 0).all()
    surer = median_intervals(scores, radii, sigma=0.5, alpha=1e-6)
    assert ((surer.lower <= ends.lower) & (surer.upper >= ends.upper)).all()
    fewer = median_intervals(scores[:, :200], radii[:3], sigma=0.5)
    width = (fewer.upper - fewer.lower).mean()
    assert width > (ends.upper - ends.lower)[:, :3].mean()
    assert (median_intervals(scores, [0.0], sigma=9.0).lower[:, 0] <= median(scores)).all()


@pytest.mark.parametrize("radius", [0.0, 0.2, 0.6])
@pytest.mark.parametrize("sides", ["one", "two"])
def test_linear_score_is_covered_as_often_as_promised_and_not_much_more(radius, sides):
    # s = w.x with |w| = 2: under noise normal with deviation 2 sigma, and pushed by at most 2 r
    sigma, n, alpha, repeats = 0.5, 300, 0.1, 4000
    draws = np.random.default_rng(1).normal(7.0, 2 * sigma, (repeats, n))
    ends = median_intervals(draws, [radius], sigma=sigma, alpha=alpha, sides=sides)
    low, high = ends.lower[:, 0] <= 7.0 - 2 * radius, ends.upper[:, 0] >= 7.0 + 2 * radius
    error = 3 * math.sqrt(alpha * (1 - alpha) / repeats)
    if sides == "one":
        assert min(low.mean(), high.mean()) >= 1 - alpha - error
        assert max(low.mean(), high.mean()) <= 1 - alpha / 3  # discrete, but not wasteful
    else:
        assert (low & high).mean() >= 1 - alpha - error
        assert (low & high).mean() <= 1 - alpha / 3


def test_linear_score_is_bounded_nearly_tightly_by_many_draws():
    sigma, radii = 0.5, [0.0, 0.25, 0.5]
    draws = np.random.default_rng(2).normal(0.0, 2 * sigma, 400_000)
    ends = median_intervals(draws, radii, sigma=sigma)
    for place, radius in enumerate(radii):
        assert 2 * radius <= ends.upper[0, place] <= 2 * radius + 0.02
        assert -2 * radius - 0.02 <= ends.lower[0, place] <= -2 * radius


@pytest.mark.parametrize("m", [1, 2, 25, 100])
def test_a_deployed_median_of_few_copies_is_covered(m):
    # the worst perturbation shifts a linear score by r |w|; a new median of m copies scatters
    sigma, n, alpha, radius, repeats = 1.0, 2000, 0.05, 0.3, 4000
    rng = np.random.default_rng(m)
    new = median(rng.normal(radius, sigma, (repeats, m)))
    rank = median_ranks(n, radius / sigma, alpha=alpha, sides="one", test_draws=m)
    plain = median_ranks(n, radius / sigma, alpha=alpha, sides="one")
    assert rank.upper > plain.upper
    assert rank.lower < plain.lower
    draws = np.sort(rng.normal(0.0, sigma, (repeats, n)), axis=1)
    over = new > draws[:, rank.upper - 1]
    assert over.mean() <= 2 * alpha  # alpha of the bound and alpha of the presentation
    assert (new > draws[:, plain.upper - 1]).mean() > over.mean()
    low = median(rng.normal(-radius, sigma, (repeats, m))) < draws[:, rank.lower - 1]
    assert low.mean() <= 2 * alpha


def test_ties_and_constant_scores():
    ends = median_intervals(np.full((1, 100), 3.0), [0.0, 1.0], sigma=1.0)
    assert ends.lower.tolist() == ends.upper.tolist() == [[3.0, 3.0]]


def test_the_median_is_the_lower_one():
    assert median(np.array([[4.0, 1.0, 3.0, 2.0], [1.0, 1.0, 5.0, 9.0]])).tolist() == [2.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, r"sigma: expected a standard deviation > 0 of the noise, got 0\.0"),
        ({"sigma": -1.0}, "sigma: expected a standard deviation > 0"),
        ({"sigma": math.nan}, "sigma: expected a standard deviation > 0"),
        ({"alpha": 0.0}, r"alpha: expected a chance in \(0, 1\), got 0\.0"),
        ({"alpha": 1.0}, "alpha: expected a chance"),
        ({"alpha": math.nan}, "alpha: expected a chance"),
        ({"radii": [-0.1]}, r"radii: expected finite l2 radii >= 0, got -0\.1"),
        ({"radii": [math.inf]}, "radii: expected finite l2 radii >= 0, got inf"),
        ({"radii": [math.nan]}, "radii: expected finite l2 radii >= 0, got nan"),
        ({"radii": [0.1, 0.1]}, "radii: expected each once"),
        ({"radii": []}, "radii: expected at least one, got none"),
        ({"sides": "both"}, "sides: expected 'one' or 'two', got 'both'"),
        ({"test_draws": 0}, "test_draws: expected >= 1, got 0"),
        ({"scores": [[1.0, math.nan]]}, r"expected finite ones, got NaN .* images \[0\]"),
        ({"scores": [[1.0], [math.inf]]}, r"NaN or infinity for images \[1\]"),
        ({"scores": []}, "scores: expected"),
        ({"scores": np.zeros((2, 2, 2))}, r"expected \(images, draws\), got \(2, 2, 2\)"),
    ],
)
def test_degenerate_inputs_say_what_is_wrong(options, message):
    given = {"scores": np.zeros((1, 50)), "radii": [0.1], "sigma": 1.0, **options}
    with pytest.raises(InputError, match=message):
        median_intervals(given.pop("scores"), given.pop("radii"), **given)


def test_bad_counts_and_shifts():
    with pytest.raises(InputError, match="n: expected at least one draw, got 0"):
        reach(0)
    with pytest.raises(InputError, match="shift: expected a finite length >= 0, got -1"):
        median_ranks(10, -1.0)
    with pytest.raises(InputError, match="shift: expected a finite length"):
        draws_needed(math.inf)
    with pytest.raises(InputError, match="no number of draws reaches 40"):
        draws_needed(40.0)
