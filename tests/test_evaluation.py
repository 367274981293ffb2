import dataclasses
import functools

import jax
import numpy as np
import pytest

from gpicl_jax.build import make_learner, make_tasks
from gpicl_jax.evaluation import (
    COLUMNS,
    Evaluator,
    Scores,
    drawn_in_parts,
    learning_curve,
    score_together,
    seen_episode_keys,
    shown_images,
    unseen_episode_keys,
)
from gpicl_jax.hyper import hyper_from
from gpicl_jax.learners.base import final_rows, score_rows
from gpicl_jax.learners.reference import KernelRidge, NearestNeighbour
from gpicl_jax.solvers import choose_params, make_solvers
from gpicl_jax.tasks import RandomPoints, TaskDistribution, draw_episodes
from gpicl_jax.tasks.augmented import _STREAMS, draw_task_keys, stream
from gpicl_jax.tasks.sources.images import load
from tests.helpers import tiny_config


def key_words(keys):
    return list(map(tuple, np.asarray(jax.random.key_data(keys)).reshape(-1, 2).tolist()))


@pytest.fixture(scope="module")
def test_tasks():
    return TaskDistribution(load("digits", "test"), length=40)


def test_solvers_are_set_by_the_tasks_they_are_given():
    validation = TaskDistribution(load("digits", "validation"), length=100)
    keys = unseen_episode_keys(0, "validation", num_tasks=8, sequences_per_task=2)
    solvers = make_solvers(10)
    chosen = choose_params(solvers, validation, keys)
    assert chosen["1-NN"] == {} and set(chosen["kernel ridge"]) == {"alpha", "gamma"}
    best = solvers["kernel ridge"](chosen["kernel ridge"], validation, keys).last()[0]
    rivals = [{"gamma": gamma, "alpha": alpha} for gamma, alpha in [(0.07, 1.0), (0.7, 0.01), (1.5, 3.0)]]
    assert best > 0.8 and all(best >= solvers["kernel ridge"](each, validation, keys).last()[0] for each in rivals)


def test_learners_are_scored_together_on_the_same_episodes(test_tasks):
    keys = unseen_episode_keys(0, "test", num_tasks=20, sequences_per_task=4)
    solvers = {
        name: (evaluator, evaluator_params)
        for name, evaluator, evaluator_params in [
            ("1-NN", Evaluator(NearestNeighbour(10)), {}),
            ("ridge", Evaluator(KernelRidge(10, "linear")), {"alpha": 0.1}),
        ]
    }
    together = score_together(solvers, drawn_in_parts(test_tasks, keys), keys)
    for name, (evaluator, params) in solvers.items():
        alone = evaluator(params, test_tasks, keys)
        np.testing.assert_array_equal(alone.accuracy_TSL, together[name].accuracy_TSL)
        assert np.isnan(alone.accuracy_TSL[:, :, 0]).all()  # a row that is not scored
        assert alone.last()[0] > 0.6


def test_scores_equal_predictions_made_one_by_one(test_tasks):
    config = tiny_config("--tasks.length=40")
    learner = make_learner(config)
    params, predict = jax.jit(learner.init)(jax.random.key(0)), jax.jit(functools.partial(learner.predict, key=None))
    keys = unseen_episode_keys(0, "test", num_tasks=20, sequences_per_task=4)  # more than one part
    scores = Evaluator(learner)(params, test_tasks, keys)
    assert scores.loss_TSL.shape == (20, 4, 40) and scores.episodes == 80
    for task, sequence in [(0, 0), (7, 3), (19, 1)]:
        one = jax.jit(draw_episodes)(test_tasks, keys.task_T[task : task + 1], keys.sequence_TS[task : task + 1])
        episode = jax.tree.map(lambda leaf, sequence=sequence: leaf[0, sequence], one)
        loss_L, accuracy_L = score_rows(predict(params, episode), episode.y_L)
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
    learner = make_learner(config)
    params, predict = jax.jit(learner.init)(jax.random.key(0)), jax.jit(functools.partial(learner.predict, key=None))
    keys = unseen_episode_keys(0, "test", num_tasks=2, sequences_per_task=96)
    parts = list(drawn_in_parts(test_tasks, keys))
    assert max(episodes.num_context.size for episodes, _ in parts) <= 64
    scores = Evaluator(learner)(params, test_tasks, keys)
    for task, sequence in [(0, 2), (1, 0), (1, 95)]:
        one = jax.jit(draw_episodes)(
            test_tasks, keys.task_T[task : task + 1], keys.sequence_TS[task : task + 1, sequence : sequence + 1]
        )
        episode = jax.tree.map(lambda leaf: leaf[0, 0], one)
        loss_L, _ = score_rows(predict(params, episode), episode.y_L)
        np.testing.assert_allclose(scores.loss_TSL[task, sequence], loss_L, atol=1e-4)


def test_no_key_of_a_meta_test_is_a_root_key_or_used_twice():
    roots = {words for seed in range(2) for name in _STREAMS for words in key_words(stream(seed, name))}
    keys = unseen_episode_keys(0, "test", 16, 4)
    used = [words for leaf in (keys.task_T, keys.sequence_TS, keys.learner_TS) for words in key_words(leaf)]
    assert len(set(used)) == 16 + 64 + 64 and not roots & set(used)


def test_last_is_the_last_tenth():
    assert [final_rows(length) for length in (100, 30, 4)] == [slice(90, 100), slice(27, 30), slice(3, 4)]


def test_after_a_fixed_context_all_queries_count():
    assert final_rows(30, num_context=30) == final_rows(30) and final_rows(30, num_context=10) == slice(10, 30)
    accuracy_TSL = np.full((2, 3, 6), np.nan)
    accuracy_TSL[..., 4:] = [[[1.0, 0.0]] * 3, [[1.0, 1.0]] * 3]
    assert Scores(accuracy_TSL, accuracy_TSL, num_context=4).last()[0] == 0.75


@pytest.mark.parametrize(("num_context", "of_episodes", "rows"), [(0, 40, slice(36, 40)), (10, 10, slice(10, 40))])
def test_the_context_of_tasks_decides_which_rows_their_scores_are_told_by(test_tasks, num_context, of_episodes, rows):
    tasks, keys = dataclasses.replace(test_tasks, num_context=num_context), unseen_episode_keys(0, "test", 4, 2)
    scores = Evaluator(NearestNeighbour(10))({}, tasks, keys)
    assert scores.num_context == tasks.episode_context == of_episodes
    assert scores.last() == scores.accuracy(rows)


def test_curves_are_tidy(test_tasks):
    keys = unseen_episode_keys(0, "test", num_tasks=4, sequences_per_task=2)
    scores = Evaluator(NearestNeighbour(10))({}, test_tasks, keys)
    frame = learning_curve(scores, dataset="digits", tasks="unseen_tasks", solver="1-NN", distinct_images=9, seed=3)
    assert list(frame.position) == list(range(1, 40)) and list(frame.columns) == COLUMNS
    assert (frame.episodes == 8).all() and (frame.seed == 3).all()
    np.testing.assert_allclose(frame.accuracy.iloc[-1], scores.accuracy_TSL[:, :, 39].mean())
    np.testing.assert_allclose(frame.accuracy[-4:].mean(), scores.last()[0])


def test_test_validation_and_training_tasks_are_disjoint():
    config = tiny_config("--tasks.num_tasks=64")
    hyper, tasks = hyper_from(config), make_tasks(config, "train")
    words = lambda keys: set(key_words(keys))  # noqa: E731
    test = unseen_episode_keys(0, "test", 64, 2)
    validation = unseen_episode_keys(0, "validation", 64, 2)
    seen = seen_episode_keys(hyper, 0, np.arange(64), episodes=128)
    draw = jax.jit(draw_task_keys, static_argnums=3)
    drawn = [draw(tasks, jax.random.key(seed), hyper, 16) for seed in range(30)]
    assert words(seen.task_T) == set().union(*map(words, drawn))  # what it calls seen is what training draws
    assert not words(seen.task_T) & (words(test.task_T) | words(validation.task_T))
    assert not words(test.task_T) & words(validation.task_T)
    assert not words(test.sequence_TS) & words(validation.sequence_TS)
    assert seen.sequence_TS.shape == (64, 2)


def count(tasks, keys):
    return len(np.unique(shown_images(tasks, keys)))


def test_distinct_images_are_counted(test_tasks):
    keys = unseen_episode_keys(0, "test", num_tasks=1, sequences_per_task=1)
    assert count(test_tasks, keys) == 40
    many = unseen_episode_keys(0, "test", num_tasks=50, sequences_per_task=4)
    assert count(test_tasks, many) == 397
    few_classes = dataclasses.replace(test_tasks, classes_per_task=4, length=20)
    assert count(few_classes, keys) == 20 and count(few_classes, many) > 350
    assert count(TaskDistribution(RandomPoints(64), length=40), many) == 500


def test_the_error_over_images_is_the_spread_between_draws_of_images():
    """Images differ in how hard they are, and rows share them: more episodes of the same images do not make up for few."""
    rng = np.random.default_rng(0)
    means, errors = [], []
    for _ in range(200):
        hard_I, images_TSL = rng.beta(2, 1, 50), rng.integers(0, 50, (40, 4, 10))
        accuracy_TSL = (rng.random(images_TSL.shape) < hard_I[images_TSL]).astype(float)
        scores = Scores(np.zeros(images_TSL.shape), accuracy_TSL, images_TSL=images_TSL)
        means.append(accuracy_TSL.mean())
        errors.append(scores.image_error(slice(None)))
    np.testing.assert_allclose(np.mean(errors), np.std(means), rtol=0.1)
    alone = Scores(np.zeros((40, 4, 10)), accuracy_TSL, images_TSL=np.arange(1600).reshape(40, 4, 10))
    np.testing.assert_allclose(alone.image_error(slice(None)), accuracy_TSL.std(ddof=1) / 40)
    assert alone.image_error(slice(None)) < 0.5 * np.mean(errors)
