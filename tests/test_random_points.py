import jax
import numpy as np
import pytest
from scipy import stats

from gpicl_jax.evaluation import Evaluator, unseen_episode_keys
from gpicl_jax.learners.reference import NearestNeighbour
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import RandomPoints, TaskDistribution, draw_episodes


def episodes_of(tasks, num_tasks=200, sequences=3):
    keys = unseen_episode_keys(0, "test", num_tasks, sequences)
    return jax.device_get(jax.jit(draw_episodes)(tasks, keys.task_T, keys.sequence_TS))


def test_a_task_is_ten_points_of_a_label_each_shared_by_its_sequences():
    episodes = episodes_of(TaskDistribution(RandomPoints(6), length=100, entries="identity"))
    points = [
        {(*point, label) for point, label in zip(x, y, strict=True)}
        for x, y in zip(episodes.x_LX.reshape(200, 300, 6).tolist(), episodes.y_L.reshape(200, 300).tolist(), strict=True)
    ]
    assert all(len(each) == 10 and len({point[-1] for point in each}) == 10 for each in points)
    assert len(set.union(*points)) == 2000  # fresh in every task


def test_points_are_uniform_and_standardised_and_drawn_with_replacement():
    episodes = episodes_of(TaskDistribution(RandomPoints(6), length=20, entries="identity"), num_tasks=2000, sequences=1)
    uniform = episodes.x_LX[:, 0, 0] / np.sqrt(12) + 0.5
    assert stats.kstest(uniform.reshape(-1), "uniform").pvalue > 1e-4
    assert stats.chisquare(np.bincount(episodes.y_L[:, 0, 7])).pvalue > 1e-4
    repeats = (episodes.y_L[:, 0, 0] == episodes.y_L[:, 0, 1]).mean()
    assert abs(repeats - 0.1) < 4 * np.sqrt(0.09 / 2000)


def test_balanced_episodes_show_every_point_equally_often():
    episodes = episodes_of(TaskDistribution(RandomPoints(6), length=30, balanced=True), num_tasks=20)
    assert all((np.bincount(y_L) == 3).all() for y_L in episodes.y_L.reshape(-1, 30))


def test_recall_is_all_it_takes():
    """P(a query's point has not been seen in 99 draws) = 0.9⁹⁹."""
    tasks, keys = TaskDistribution(RandomPoints(16), length=100), unseen_episode_keys(0, "test", 1024, 4)
    accuracy_L = Evaluator(NearestNeighbour(10))({}, tasks, keys).accuracy_TSL.mean(axis=(0, 1))
    assert accuracy_L[90:].min() > 0.99
    for seen in (1, 2, 5):
        assert abs(accuracy_L[seen] - (1 - 0.9**seen)) < 4 * np.sqrt(0.25 / 4096)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(UserError, match="'random' has 10 classes"):
        TaskDistribution(RandomPoints(4), length=10, classes_per_task=5)
    with pytest.raises(UserError, match="not a multiple of 10"):
        TaskDistribution(RandomPoints(4), length=15, balanced=True)
