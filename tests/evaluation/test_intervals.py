"""Bootstrap intervals of statistics, by episode and by group; and effective sample sizes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from stitchrl.evaluation.contributions import Contributions
from stitchrl.evaluation.intervals import Resampler
from stitchrl.evaluation.statistic import OfSums, Statistic, minus
from stitchrl.evaluation.units import Units, effective_sample_size


def test_self_normalised_intervals_do_not_see_the_scale_of_weights() -> None:
    rng = np.random.default_rng(0)
    weight, value = rng.exponential(size=(200, 1)), rng.normal(size=(200, 1))
    resampler = Resampler(Units(200), resamples=200)
    one = resampler.interval(Contributions(weight * value, weight))
    ten = resampler.interval(Contributions(10 * weight * value, 10 * weight))
    assert one.lower == pytest.approx(ten.lower)
    assert one.upper == pytest.approx(ten.upper)
    # A fixed denominator would be wider: constant values have no spread at all when renormalised.
    flat = resampler.interval(Contributions(weight * 3.0, weight))
    assert flat.upper - flat.lower == pytest.approx(0.0, abs=1e-9)


def test_standard_error_and_interval_of_a_plain_mean() -> None:
    values_ = np.random.default_rng(1).normal(size=500)
    found = Resampler(Units(500), resamples=2000).interval(Contributions.average(values_))
    error = values_.std(ddof=1) / np.sqrt(500)
    assert found.standard_error == pytest.approx(error)
    assert found.upper - found.lower == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_effective_sample_size() -> None:
    assert effective_sample_size(np.ones(7)) == pytest.approx(7)
    assert effective_sample_size(np.array([1.0, 0, 0, 0])) == pytest.approx(1)
    assert effective_sample_size(np.array([3.0, 1.0])) == pytest.approx(16 / 10)
    assert effective_sample_size(np.zeros(3)) == 0


def test_groups_are_resampled_whole() -> None:
    """By hand: a mean over groups of 1, 2 and 3 episodes is a ratio of group sums; its error that of their residuals."""
    values_, group = np.array([1.0, 2.0, 4.0, 0.0, 3.0, 6.0]), np.array(["a", "b", "b", "c", "c", "c"])
    found = Resampler(Units(6, group), resamples=4000).interval(Contributions.average(values_))
    mean = 16 / 6
    assert found.value == pytest.approx(mean)
    residual = np.array([1 - mean, 6 - 2 * mean, 9 - 3 * mean])  # of each group's sum
    assert found.standard_error == pytest.approx(np.sqrt(3 / 2 * (residual**2).sum()) / 6)
    reach = stats.t.ppf(0.975, 2) * found.standard_error
    assert (found.lower, found.upper) == pytest.approx((mean - reach, mean + reach))


def test_the_expected_variance_counts_where_it_is_larger() -> None:
    values_ = np.random.default_rng(5).normal(size=400)
    statistic, resampler = Contributions.average(values_), Resampler(Units(400))
    plain = resampler.interval(statistic)
    assert resampler.interval(statistic, plain.standard_error**2 / 2) == plain
    wide = resampler.interval(statistic, 4 * plain.standard_error**2)
    assert wide.standard_error == pytest.approx(2 * plain.standard_error)
    assert wide.upper - wide.value == pytest.approx(2 * (plain.upper - plain.value))
    # A ratio keeps the shape of its resamples.
    ratio = Contributions(values_[:, None] ** 2, 1 + values_[:, None] ** 2)
    narrow = resampler.interval(ratio)
    wide = resampler.interval(ratio, 9 * narrow.standard_error**2)
    assert wide.value - wide.lower == pytest.approx(3 * (narrow.value - narrow.lower))
    assert wide.upper - wide.value == pytest.approx(3 * (narrow.upper - narrow.value))


def test_the_expected_variance_grows_as_groups_make_the_spread_grow() -> None:
    """Every episode four times in a group of its own: what is expected of the copies is what is expected of the single ones."""
    values_ = np.random.default_rng(6).normal(size=100)
    single = Resampler(Units(100)).interval(Contributions.average(values_), 0.09)
    copies = Resampler(Units(400, np.repeat(np.arange(100), 4))).interval(
        Contributions.average(np.repeat(values_, 4)), 0.09 / 4
    )
    assert copies.standard_error == pytest.approx(single.standard_error, rel=0.01)


def test_ends_of_a_ratio_hardly_move_with_the_seed() -> None:
    rng = np.random.default_rng(7)
    weight = rng.exponential(size=(300, 1))
    ratio = Contributions(weight * rng.normal(size=(300, 1)), weight)
    found = [Resampler(Units(300), seed=seed).interval(ratio) for seed in range(2)]
    assert abs(found[0].lower - found[1].lower) < 0.06 * found[0].standard_error
    assert found[0].lower != found[1].lower


def test_the_order_of_episodes_and_the_names_of_groups_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    values_, group, shuffle = rng.normal(size=90), np.repeat(np.arange(30), 3), rng.permutation(90)
    one = Resampler(Units(90, group)).interval(Contributions.average(values_))
    other = Resampler(Units(90, group[shuffle] + 7)).interval(Contributions.average(values_[shuffle]))
    assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(other))


def test_groups_of_one_episode_change_nothing() -> None:
    values_ = np.random.default_rng(2).normal(size=70)
    plain = Resampler(Units(70)).interval(Contributions.average(values_))
    assert Resampler(Units(70, np.arange(70))).interval(Contributions.average(values_)) == plain


def test_intervals_cover_where_episodes_share_a_group() -> None:
    """100 patients of 1 to 10 stays; half of the spread is the patient's. By episode, 95% would cover far less."""
    covered = {"groups": 0, "episodes": 0}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(100), rng.integers(1, 11, 100))
        values_ = rng.normal(size=100)[group] + rng.normal(size=len(group))
        for way, of in (("groups", group), ("episodes", None)):
            found = Resampler(Units(len(group), of), resamples=300, seed=seed).interval(Contributions.average(values_))
            covered[way] += found.lower <= 0.0 <= found.upper
    assert covered["groups"] / 300 > 0.91
    assert covered["episodes"] / 300 < 0.80


class Median:
    """A statistic that is no ratio of means: whatever has the methods has an interval and paired differences."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.n = np.sort(values), len(values)

    def value(self) -> float:
        return float(self.replicate(np.ones((1, self.n)))[0])

    def influence(self) -> np.ndarray:
        above = self.values > self.value()
        return (above - above.mean()) * np.sqrt(2 * np.pi)  # of normal values

    def replicate(self, counts: np.ndarray) -> np.ndarray:
        middle = (np.cumsum(counts, axis=1) < self.n / 2).sum(1)
        return self.values[middle]


def test_any_statistic_has_an_interval_and_paired_differences() -> None:
    values_ = np.random.default_rng(3).normal(2.0, 1.0, size=601)
    median, mean = Median(values_), Contributions.average(np.sort(values_))
    assert isinstance(median, Statistic)
    found = Resampler(Units(601)).interval(median)
    assert found.value == np.median(values_)
    assert found.lower < 2.0 < found.upper
    assert found.standard_error == pytest.approx(np.sqrt(np.pi / 2 / 601), rel=0.1)
    # Paired: a difference from itself has no spread; one from the mean has less than either of them.
    resampler = Resampler(Units(601), resamples=200)
    none = resampler.interval(minus(median, median))
    assert (none.value, none.standard_error, none.lower, none.upper) == (0, 0, 0, 0)
    apart = resampler.interval(minus(median, mean))
    assert apart.value == pytest.approx(np.median(values_) - values_.mean())
    assert apart.standard_error < found.standard_error
    assert isinstance(minus(minus(median, mean), mean), Statistic)


def test_a_difference_of_ratios_is_the_same_however_it_is_written() -> None:
    rng = np.random.default_rng(4)
    weight, first, second = rng.exponential(size=(3, 150, 2))
    one, other = Contributions(weight * first, weight), Contributions.average(second[:, 0])
    joined = Contributions(
        np.concatenate([one.numerator, -other.numerator], axis=1),
        np.concatenate([one.denominator, other.denominator], axis=1),
    )
    group = np.arange(150) // 3
    found = [Resampler(Units(150, group)).interval(difference) for difference in (joined, minus(one, other))]
    assert dataclasses.astuple(found[0]) == pytest.approx(dataclasses.astuple(found[1]), abs=1e-12)


@pytest.mark.parametrize("group", [None, np.arange(60) // 4])
def test_what_is_summed_at_once_is_what_each_statistic_makes_of_the_same_draws(group: np.ndarray | None) -> None:
    """Against draws, counts and replicates written out one by one, of several statistics that are given together."""
    rng = np.random.default_rng(8)
    weight = rng.exponential(size=(60, 3)) * (rng.random((60, 3)) < 0.2)
    ratio, mean = Contributions(weight * rng.normal(size=(60, 3)), weight), Contributions.average(rng.normal(size=60))
    median = Median(rng.normal(size=60))
    assert isinstance(ratio, OfSums)
    assert not isinstance(median, OfSums)
    units = Units(60, group)
    drawn = np.random.default_rng(5).integers(0, units.count, size=(400, units.count))
    counts = units.spread(np.array([np.bincount(row, minlength=units.count) for row in drawn]).astype(float))
    sums = [counts @ weight, counts @ ratio.numerator]
    of_ratio = np.where(sums[0] > 0, sums[1] / np.where(sums[0] > 0, sums[0], 1.0), 0.0).sum(1)
    of_mean = counts @ mean.numerator[:, 0] / counts.sum(1)
    given = [ratio, minus(ratio, mean), minus(median, ratio)]
    found = Resampler(units, resamples=400, seed=5).intervals(given)
    expected = [of_ratio, of_ratio - of_mean, median.replicate(counts) - of_ratio]
    for one, replicates in zip(found, expected, strict=True):
        assert (one.lower, one.upper) == pytest.approx(tuple(np.quantile(replicates, [0.025, 0.975])), rel=1e-12)
