"""The reference solvers against scikit-learn's, fitted anew for every row."""

import jax
import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge as SklearnRidge
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier

from gpicl_jax.evaluation import unseen_episode_keys
from gpicl_jax.learners.reference import KernelRidge, NearestNeighbour
from gpicl_jax.tasks import TaskDistribution, draw_episodes
from gpicl_jax.tasks.sources.images import load

ROWS = (1, 2, 5, 10, 20, 36, 39)


@pytest.fixture(scope="module")
def episodes():
    keys = unseen_episode_keys(0, "test", num_tasks=3, sequences_per_task=2)
    drawn = jax.jit(draw_episodes)(TaskDistribution(load("digits", "test"), length=40), keys.task_T, keys.sequence_TS)
    drawn = jax.device_get(jax.tree.map(lambda leaf: leaf.reshape(6, *leaf.shape[2:]), drawn))
    return [jax.tree.map(lambda leaf, index=index: leaf[index], drawn) for index in range(6)]


def predict(solver, params, episode):
    return np.asarray(jax.jit(lambda episode: solver.predict(params, episode, key=None))(episode))


def test_nearest_neighbour_equals_scikit_learn(episodes):
    for episode in episodes:
        ours = predict(NearestNeighbour(10), {}, episode).argmax(axis=1)
        for row in ROWS:
            theirs = KNeighborsClassifier(1).fit(episode.x_LX[:row], episode.y_L[:row]).predict(episode.x_LX[row : row + 1])
            assert ours[row] == theirs[0]


@pytest.mark.parametrize(("gamma", "alpha"), [(0.15, 0.1), (1.5, 0.003), (0.03, 3.0)])
def test_kernel_ridge_equals_scikit_learn(episodes, gamma, alpha):
    for episode in episodes:
        ours = predict(KernelRidge(10, "rbf"), {"gamma": gamma, "alpha": alpha}, episode)
        for row in ROWS:
            kernel = SklearnRidge(kernel="rbf", gamma=gamma / 64, alpha=alpha)
            kernel.fit(episode.x_LX[:row].astype(float), np.eye(10)[episode.y_L[:row]])
            np.testing.assert_allclose(ours[row], kernel.predict(episode.x_LX[row : row + 1].astype(float))[0], atol=2e-3)


@pytest.mark.parametrize("alpha", [0.003, 0.1, 3.0])
def test_ridge_equals_scikit_learn(episodes, alpha):
    for episode in episodes:
        ours = predict(KernelRidge(10, "linear"), {"alpha": alpha}, episode)
        for row in ROWS:
            ridge = Ridge(alpha=alpha * 64, fit_intercept=False)  # our kernel is x·x'/X
            ridge.fit(episode.x_LX[:row].astype(float), np.eye(10)[episode.y_L[:row]])
            np.testing.assert_allclose(ours[row], ridge.predict(episode.x_LX[row : row + 1].astype(float))[0], atol=2e-3)


@pytest.mark.parametrize("solver", [NearestNeighbour(10), KernelRidge(10, "linear"), KernelRidge(10, "rbf")])
def test_solvers_are_learners_that_see_no_later_row(episodes, solver):
    episode, params = episodes[0], solver.init(jax.random.key(0))
    assert np.asarray(solver.scored_rows(episode)).tolist() == [False] + [True] * 39 and not solver.transductive
    before = predict(solver, params, episode)
    x_LX, y_L = episode.x_LX.copy(), episode.y_L.copy()
    x_LX[21:], y_L[20:] = 0.0, (y_L[20:] + 1) % 10
    assert (before[0] == predict(solver, params, episode._replace(y_L=(episode.y_L + 1) % 10))[0]).all()  # not its own label
    after = predict(solver, params, episode._replace(x_LX=x_LX, y_L=y_L))
    np.testing.assert_allclose(before[:21], after[:21], atol=1e-6)
    assert np.abs(before[21:] - after[21:]).max() > 1e-3
