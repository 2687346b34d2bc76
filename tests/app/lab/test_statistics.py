"""Statistics against scipy, and against definitions written out."""

from __future__ import annotations

import itertools
from math import inf, isnan

import numpy as np
import pytest
from scipy import stats

from app.lab.statistics import (
    budget_curve,
    holm,
    mean_interval,
    median_with_unreached,
    paired,
    sign_flip_p,
    smallest_p,
    spearman,
    summary,
)


def draws(count: int, shift: float = 0.3) -> list[float]:
    return np.random.default_rng(count).normal(shift, 1.0, count).tolist()


def test_summary_is_numpys_mean_and_sample_deviation():
    found = summary(draws(8))
    assert (found.count, found.mean) == (8, pytest.approx(np.mean(draws(8))))
    assert found.sd == pytest.approx(np.std(draws(8), ddof=1))
    assert isnan(summary([1.0]).sd)


@pytest.mark.parametrize("count", [2, 5, 8, 19])
def test_interval_of_few_seeds_is_that_of_scipys_paired_t_test(count):
    first, second = draws(count), draws(count + 100)[:count]
    expected = stats.ttest_rel(second, first).confidence_interval(0.95)
    assert paired(first, second).interval == pytest.approx(tuple(expected))


def test_interval_of_many_seeds_is_a_studentized_bootstrap():
    values = np.array(draws(25))
    generator = np.random.default_rng(7)
    t = []
    for _ in range(4000):  # by the definition, with other samples
        sample = generator.choice(values, 25)
        t.append((sample.mean() - values.mean()) / stats.sem(sample))
    low, high = mean_interval(values.tolist())
    expected = values.mean() - np.quantile(t, [0.975, 0.025]) * stats.sem(values)
    assert (low, high) == pytest.approx(tuple(expected), abs=0.03)
    assert (low, high) != pytest.approx(stats.t.interval(0.95, 24, values.mean(), stats.sem(values)), abs=1e-4)


def test_interval_needs_two_values_and_is_a_point_without_spread():
    assert mean_interval([1.0]) is None
    assert mean_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)


@pytest.mark.parametrize("count", [3, 5, 8])
def test_p_counts_every_assignment_of_signs(count):
    differences = draws(count)
    observed = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=count)
    ]
    assert sign_flip_p(differences) == pytest.approx(np.mean([total >= observed - 1e-12 for total in sums]))


@pytest.mark.parametrize(("count", "expected"), [(1, 1.0), (5, 0.0625), (8, 0.0078125)])
def test_smallest_p_is_reached_when_all_differences_have_one_sign(count, expected):
    assert smallest_p(count) == expected
    assert sign_flip_p([1.0 + k for k in range(count)]) == pytest.approx(expected)


def test_p_of_many_pairs_is_close_to_the_t_test():
    assert sign_flip_p(draws(40)) == pytest.approx(stats.ttest_1samp(draws(40), 0).pvalue, abs=0.01)


def test_p_without_any_difference_is_1():
    assert sign_flip_p([0.0, 0.0, 0.0]) == 1.0


def test_holm_by_its_definition():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_rejects_as_the_step_down_procedure():
    generator = np.random.default_rng(0)
    for _ in range(200):
        p = generator.uniform(0, 0.1, 6)
        rejected = np.zeros(6, dtype=bool)
        for rank, index in enumerate(np.argsort(p)):
            if p[index] > 0.05 / (6 - rank):
                break
            rejected[index] = True
        assert (np.array(holm(p.tolist())) <= 0.05).tolist() == rejected.tolist()


def test_unreached_targets_count_as_infinite():
    assert median_with_unreached([3, None, 5]) == 5
    assert median_with_unreached([3, None, None]) == inf


def test_spearman_is_scipys_and_nan_without_spread():
    assert spearman([1, 2, 3, 5], [2, 1, 8, 9]) == pytest.approx(stats.spearmanr([1, 2, 3, 5], [2, 1, 8, 9])[0])
    assert isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_budget_curve_is_the_median_of_the_best_of_that_many_draws():
    values = draws(11, shift=0.0)  # an odd number has no ties at the median
    curve = budget_curve(values, minimize=True)
    for trials, middle in zip(curve.trials, curve.middle, strict=True):
        # P(best <= value) = 1 - (1 - F)^n for independent draws
        below = 1 - (1 - np.arange(1, 12) / 11) ** trials
        assert middle == pytest.approx(sorted(values)[int(np.argmax(below >= 0.5))])
    assert all(low <= middle <= high for low, middle, high in zip(curve.low, curve.middle, curve.high, strict=True))


def test_budget_curve_takes_failed_trials_as_the_worst():
    curve = budget_curve([0.5, inf, 0.4, inf], minimize=True)
    assert curve.middle[-1] == 0.4


@pytest.mark.slow
@pytest.mark.parametrize("count", [5, 8, 25])
def test_coverage_of_the_interval_is_within_two_points_of_nominal(count):
    generator = np.random.default_rng(1)
    repeats = 4000 if count < 20 else 1000
    pairs = generator.normal(0.5, 1.0, (repeats, count)) - generator.normal(0.0, 1.0, (repeats, count))
    covered = [low <= 0.5 <= high for low, high in map(mean_interval, pairs.tolist())]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)
