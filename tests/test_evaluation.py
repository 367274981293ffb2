import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge as SklearnRidge
from sklearn.neighbors import KNeighborsClassifier

from gpicl_jax.config import hyper_from
from gpicl_jax.data import load
from gpicl_jax.evaluation import (
    Evaluator,
    Scores,
    count_images,
    drawn_in_parts,
    last_rows,
    learning_curve,
    seen_episode_keys,
    unseen_episode_keys,
)
from gpicl_jax.factory import make_learner, make_tasks
from gpicl_jax.learners import score_rows
from gpicl_jax.solvers import KernelRidge, chosen_kernel_ridge, nearest_neighbour, score_solvers
from gpicl_jax.tasks import TaskDistribution, draw_episodes
from gpicl_jax.tasks.augmented import _STREAMS, draw_task_keys, stream
from tests.helpers import tiny_config


def key_words(keys):
    return list(map(tuple, np.asarray(jax.random.key_data(keys)).reshape(-1, 2).tolist()))


@pytest.fixture(scope="module")
def test_tasks():
    return TaskDistribution(load("digits", "test"), length=40)


def test_reference_solvers_equal_scikit_learn_on_redrawn_episodes(test_tasks):
    keys = unseen_episode_keys(0, "test", num_tasks=3, sequences_per_task=2)
    episodes = jax.device_get(draw_episodes(test_tasks, keys.task_T, keys.sequence_TS))
    nearest, ridge = score_solvers({"1-NN": nearest_neighbour, "ridge": KernelRidge(0.15, 0.1)}, test_tasks, keys).values()
    for position in (1, 2, 5, 10, 20, 36, 37, 38, 39):
        for task, sequence in np.ndindex(3, 2):
            x_LX, y_L = episodes.x_LX[task, sequence], episodes.y_L[task, sequence]
            seen, query = slice(0, position), slice(position, position + 1)
            neighbour = KNeighborsClassifier(1).fit(x_LX[seen], y_L[seen]).predict(x_LX[query])
            assert nearest.accuracy_TSL[task, sequence, position] == (neighbour == y_L[query])[0]
            kernel = SklearnRidge(kernel="rbf", gamma=0.15 / 64, alpha=0.1).fit(x_LX[seen], np.eye(10)[y_L[seen]])
            assert ridge.accuracy_TSL[task, sequence, position] == (kernel.predict(x_LX[query])[0].argmax() == y_L[query])[0]
    assert np.isnan(nearest.accuracy_TSL[:, :, [0, 3, 35]]).all()


def test_a_nearest_neighbour_in_jax_scores_through_the_evaluator_as_scikit_learn_does(test_tasks):
    """The evaluator's own path (keys, drawing, rows) on a learner whose right answer scikit-learn knows."""

    @dataclasses.dataclass(frozen=True)
    class NearestNeighbour:
        def predict(self, params, episode, *, key):
            distance_LL = ((episode.x_LX[:, None] - episode.x_LX[None]) ** 2).sum(-1)
            length = len(episode.y_L)
            distance_LL = jnp.where(jnp.tri(length, k=-1, dtype=bool), distance_LL, jnp.inf)
            return jax.nn.one_hot(episode.y_L[distance_LL.argmin(axis=1)], 10)

        def scored_rows(self, episode):
            return jnp.arange(len(episode.y_L)) > 0

    keys = unseen_episode_keys(0, "test", num_tasks=20, sequences_per_task=4)
    ours = Evaluator(NearestNeighbour())({}, test_tasks, keys)
    theirs = score_solvers({"1-NN": nearest_neighbour}, test_tasks, keys)["1-NN"]
    measured = ~np.isnan(theirs.accuracy_TSL)
    np.testing.assert_array_equal(ours.accuracy_TSL[measured], theirs.accuracy_TSL[measured])
    assert np.isnan(ours.accuracy_TSL[:, :, 0]).all()  # a row that is not scored


def test_kernel_ridge_is_chosen_on_the_tasks_it_is_given():
    validation = TaskDistribution(load("digits", "validation"), length=100)
    keys = unseen_episode_keys(0, "validation", num_tasks=8, sequences_per_task=2)
    chosen = chosen_kernel_ridge(validation, keys)
    rivals = {setting: KernelRidge(*setting) for setting in [(0.05, 1.0), (0.5, 0.01), (0.5, 1.0)]}
    scores = score_solvers({"chosen": chosen, **rivals}, validation, keys)
    best = scores.pop("chosen").last()[0]
    assert best > 0.8 and all(best >= each.last()[0] - 0.01 for each in scores.values())


def test_scores_equal_predictions_made_one_by_one(test_tasks):
    config = tiny_config("--tasks.length=40")
    learner = make_learner(config, test_tasks.dataset)
    params = learner.init(jax.random.key(0))
    keys = unseen_episode_keys(0, "test", num_tasks=20, sequences_per_task=4)  # more than one part
    scores = Evaluator(learner)(params, test_tasks, keys)
    assert scores.loss_TSL.shape == (20, 4, 40) and scores.episodes == 80
    for task, sequence in [(0, 0), (7, 3), (19, 1)]:
        one = draw_episodes(test_tasks, keys.task_T[task : task + 1], keys.sequence_TS[task : task + 1])
        episode = jax.tree.map(lambda leaf, sequence=sequence: leaf[0, sequence], one)
        loss_L, accuracy_L = score_rows(learner.predict(params, episode, key=None), episode.y_L)
        np.testing.assert_allclose(scores.loss_TSL[task, sequence], loss_L, atol=1e-4)
        np.testing.assert_array_equal(scores.accuracy_TSL[task, sequence], accuracy_L)


def test_standard_errors_are_clustered_by_task():
    accuracy_TSL = np.repeat(np.random.default_rng(0).integers(0, 2, (50, 1, 10)), 8, axis=1).astype(float)
    scores = Scores(np.zeros_like(accuracy_TSL), accuracy_TSL)
    task_means = accuracy_TSL[:, 0, 0]
    mean, error = scores.first()
    assert mean == task_means.mean()
    # eight equal sequences of a task tell no more than one
    np.testing.assert_allclose(error, task_means.std(ddof=1) / np.sqrt(50))
    one_task = Scores(accuracy_TSL[:1], accuracy_TSL[:1])
    assert np.isnan(one_task.last()[1])


def test_many_sequences_of_one_task_are_scored_a_few_at_a_time_and_keep_their_order(test_tasks):
    config = tiny_config("--tasks.length=40")
    learner = make_learner(config, test_tasks.dataset)
    params = learner.init(jax.random.key(0))
    keys = unseen_episode_keys(0, "test", num_tasks=2, sequences_per_task=96)
    parts = list(drawn_in_parts(test_tasks, keys))
    assert max(episodes.num_context.size for episodes, _ in parts) <= 64
    scores = Evaluator(learner)(params, test_tasks, keys)
    few = Evaluator(learner)(params, test_tasks, keys.first(2, 3))
    np.testing.assert_allclose(scores.of(2, 3).loss_TSL, few.loss_TSL, atol=1e-4)
    one = draw_episodes(test_tasks, keys.task_T[1:], keys.sequence_TS[1:, 95:])
    episode = jax.tree.map(lambda leaf: leaf[0, 0], one)
    loss_L, _ = score_rows(learner.predict(params, episode, key=None), episode.y_L)
    np.testing.assert_allclose(scores.loss_TSL[1, 95], loss_L, atol=1e-4)


def test_no_key_of_a_meta_test_is_a_root_key_or_used_twice():
    roots = {words for seed in range(2) for name in _STREAMS for words in key_words(stream(seed, name))}
    keys = unseen_episode_keys(0, "test", 16, 4)
    used = [words for leaf in (keys.task_T, keys.sequence_TS, keys.learner_TS) for words in key_words(leaf)]
    assert len(set(used)) == 16 + 64 + 64 and not roots & set(used)


def test_last_is_the_last_tenth():
    assert last_rows(100) == slice(90, 100)
    assert last_rows(30) == slice(27, 30)
    assert last_rows(4) == slice(3, 4)


def test_curves_are_tidy(test_tasks):
    keys = unseen_episode_keys(0, "test", num_tasks=4, sequences_per_task=2)
    scores = score_solvers({"1-NN": nearest_neighbour}, test_tasks, keys)["1-NN"]
    frame = learning_curve(scores, dataset="digits", tasks="unseen_tasks", solver="1-NN", distinct_images=9, seed=3)
    assert list(frame.position) == [1, 2, 5, 10, 20, 36, 37, 38, 39]
    assert (frame.episodes == 8).all() and (frame.seed == 3).all()
    np.testing.assert_allclose(frame.accuracy.iloc[-1], scores.accuracy_TSL[:, :, 39].mean())
    np.testing.assert_allclose(frame.accuracy[-4:].mean(), scores.last()[0])


def test_test_validation_and_training_tasks_are_disjoint():
    config = tiny_config("--tasks.num_tasks=64")
    hyper, tasks = hyper_from(config), make_tasks(config, "train")
    words = lambda keys: set(key_words(keys))  # noqa: E731
    test = unseen_episode_keys(0, "test", 64, 2)
    validation = unseen_episode_keys(0, "validation", 64, 2)
    seen = seen_episode_keys(hyper, 0, num_tasks=64, episodes=128)
    drawn = [draw_task_keys(tasks, jax.random.key(seed), hyper, 16) for seed in range(30)]
    assert words(seen.task_T) == set().union(*map(words, drawn))  # what it calls seen is what training draws
    assert not words(seen.task_T) & (words(test.task_T) | words(validation.task_T))
    assert not words(test.task_T) & words(validation.task_T)
    assert not words(test.sequence_TS) & words(validation.sequence_TS)
    assert seen.sequence_TS.shape == (64, 2)


def test_distinct_images_are_counted(test_tasks):
    keys = unseen_episode_keys(0, "test", num_tasks=1, sequences_per_task=1)
    assert count_images(test_tasks, keys) == 40
    many = unseen_episode_keys(0, "test", num_tasks=50, sequences_per_task=4)
    assert count_images(test_tasks, many) == 397
