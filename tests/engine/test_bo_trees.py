"""The tree ensemble: steps, out-of-bag predictions, determinism."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.strategies.bo.trees import TreeEnsemble

X = np.linspace(0.0, 1.0, 40)[:, None]


def test_a_step_is_learned_as_a_step() -> None:
    y = np.where(X[:, 0] < 0.5, 3.0, 10.0)
    mean, variance = TreeEnsemble(X, y, seed=0).predict(np.array([[-1.0], [0.2], [0.35], [0.65], [0.8], [5.0]]))
    np.testing.assert_array_equal(mean, [3.0, 3.0, 3.0, 10.0, 10.0, 10.0])
    np.testing.assert_allclose(variance, 0.0, atol=1e-12)
    between, unsure = TreeEnsemble(X, y, seed=0).predict(np.array([[0.5]]))
    assert 3.0 < between[0] < 10.0 and unsure[0] > 0.1  # where the step is, trees disagree


def test_a_column_that_matters_is_found_among_those_that_do_not() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((200, 6))
    trees = TreeEnsemble(x, np.where(x[:, 4] > 0.3, 1.0, 0.0), seed=1)
    new = rng.random((100, 6))
    new = new[np.abs(new[:, 4] - 0.3) > 0.1]
    assert (np.round(trees.predict(new)[0]) == (new[:, 4] > 0.3)).all()


def test_a_point_left_out_is_told_by_trees_that_have_not_seen_it() -> None:
    y = np.zeros(40)
    y[20] = 100.0
    trees = TreeEnsemble(X, y, seed=0)
    mean, variance = trees.leave_one_out
    assert mean[20] == 0.0  # without it nothing hints at it
    assert trees.predict(X)[0][20] > 30.0
    # What was missed there is spread over all variances.
    np.testing.assert_allclose(variance.min(), ((y - mean) ** 2 - (variance - variance.min())).mean(), rtol=1e-9)


def test_a_point_that_every_tree_has_seen_is_told_by_the_average() -> None:
    y = np.arange(40.0)
    mean, variance = TreeEnsemble(X, y, seed=0, trees=1).leave_one_out
    seen = mean == y.mean()
    assert 15 < seen.sum() < 35  # a bootstrap sample holds 63 % of the points
    assert (variance[seen] >= y.var()).all()


def test_the_seed_decides() -> None:
    rng = np.random.default_rng(0)
    x, new = rng.random((60, 3)), rng.random((50, 3))
    y = x.sum(axis=1)
    first, again, other = (TreeEnsemble(x, y, seed=seed).predict(new)[0] for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_the_first_few_trees_are_asked_alone() -> None:
    y = np.sin(9.0 * X[:, 0])
    whole, few = TreeEnsemble(X, y, seed=2), TreeEnsemble(X, y, seed=2, trees=5)
    np.testing.assert_array_equal(whole.predict(X, trees=5)[0], few.predict(X)[0])


def test_predictions_stay_within_what_was_seen() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((30, 4))
    y = rng.normal(size=30)
    mean, variance = TreeEnsemble(x, y, seed=0).predict(rng.normal(0, 10, (200, 4)))
    assert mean.min() >= y.min() and mean.max() <= y.max()
    assert (variance >= 0.0).all() and (variance <= np.ptp(y) ** 2).all()


@pytest.mark.parametrize("columns", [0, 2])
def test_nothing_to_cut_along_leaves_the_mean(columns: int) -> None:
    mean, variance = TreeEnsemble(np.ones((20, columns)), np.arange(20.0), seed=0).predict(np.ones((3, columns)))
    assert len(set(mean.tolist())) == 1 and abs(mean[0] - 9.5) < 1.5
    assert (variance > 0.0).all()
