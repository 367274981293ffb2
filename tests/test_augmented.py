import dataclasses
import functools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gpicl_jax.build import make_learner, make_tasks
from gpicl_jax.config import load_config
from gpicl_jax.hyper import hyper_from
from gpicl_jax.learners.base import check_fits
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import (
    Mixture,
    RandomPoints,
    TaskDistribution,
    augmented,
    draw_episode,
    draw_episodes,
    draw_task,
    projection,
)
from gpicl_jax.tasks.augmented import _STREAMS, draw_sequence, draw_task_keys, seen_task_keys, stream
from gpicl_jax.tasks.sources.images import ImageDataset, load
from gpicl_jax.training.meta_test import _kinds
from tests.helpers import tiny_config


@pytest.fixture(scope="module")
def tasks():
    return TaskDistribution(load("digits", "train"), length=20)


def same_bits(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("entries", ["normal", "integer"])
def test_task_is_the_same_alone_in_a_batch_under_vmap_scan_and_on_devices(tasks, entries):
    tasks = dataclasses.replace(tasks, entries=entries)

    def draw(key):
        task = draw_task(tasks, key, 0.5)
        return task._replace(source_key=jax.random.key_data(task.source_key))

    keys = seen_task_keys(hyper_from(Config()), jnp.arange(8))
    alone, lanes = [jax.jit(draw)(key) for key in keys], math.gcd(8, jax.local_device_count())
    batches = {
        "vmap": jax.vmap(draw)(keys),
        "jit of vmap, another batch": jax.tree.map(lambda leaf: leaf[::-1], jax.jit(jax.vmap(draw))(keys[::-1])),
        "scan": jax.lax.scan(lambda _, key: (None, draw(key)), None, keys)[1],
        "pmap": jax.tree.map(
            lambda leaf: np.asarray(leaf).reshape(8, *leaf.shape[2:]), jax.pmap(jax.vmap(draw))(keys.reshape(lanes, -1))
        ),
    }
    for batch in batches.values():
        for index, task in enumerate(alone):
            same_bits(task, jax.tree.map(lambda leaf, index=index: leaf[index], batch))


@pytest.mark.parametrize(
    ("entries", "sequences", "changed"),
    [("normal", 2, 0.0), ("integer", 2, 0.0), ("gram", 1, 0.0), ("gram", 1, 1.0), ("normal", 2, 1.0)],
)
def test_drawing_in_chunks_equals_drawing_at_once_equals_drawing_alone(tasks, monkeypatch, entries, sequences, changed):
    tasks = dataclasses.replace(tasks, entries=entries, clutter=changed, feature_scales=changed)
    keys = jax.random.split(jax.random.key(0), 6), jax.random.split(jax.random.key(1), (6, sequences))
    at_once = jax.jit(lambda tasks, *keys: draw_episodes(tasks, *keys))(tasks, *keys)
    monkeypatch.setattr(augmented, "CPU_BYTES", 4 * 64 * 64 * 4)
    in_chunks = jax.jit(lambda tasks, *keys: draw_episodes(tasks, *keys))(tasks, *keys)
    alone = jax.jit(lambda tasks, task, sequence: draw_sequence(tasks, draw_task(tasks, task), sequence))(
        tasks, keys[0][4], keys[1][4, 0]
    )
    same_bits(at_once._replace(x_LX=0), in_chunks._replace(x_LX=0))
    np.testing.assert_allclose(at_once.x_LX, in_chunks.x_LX, atol=2e-5)
    np.testing.assert_allclose(at_once.x_LX[4, 0], alone.x_LX, atol=2e-5)


def test_gram_is_refused_where_a_matrix_would_be_used_twice(tasks):
    gram = dataclasses.replace(tasks, entries="gram")
    keys = jax.random.split(jax.random.key(0), 1), jax.random.split(jax.random.key(1), (1, 2))
    with pytest.raises(UserError, match="'gram' makes one episode of a task, not 2"):
        draw_episodes(gram, *keys)
    with pytest.raises(UserError, match="'gram' needs infinitely many tasks"):
        dataclasses.replace(gram, infinite=False)
    for change in ("--tasks.num_tasks=8", "--tasks.sequences_per_task=2"):
        with pytest.raises(UserError, match="'gram' is for tasks that are used once"):
            load_config("digits", ("--tasks.entries=gram", change))


def test_gram_is_refused_for_a_learner_without_the_symmetry(tasks):
    """Its inputs would be no projected images."""
    with pytest.raises(UserError, match="draws the Gram matrix of an episode's inputs and no inputs"):
        load_config("digits_transformer", ("--tasks.entries=gram",))
    learner = make_learner(load_config("digits_transformer"))
    with pytest.raises(UserError, match="draws no inputs, which this Transformer needs"):
        check_fits(learner, dataclasses.replace(tasks, length=100, entries="gram"))


@pytest.mark.parametrize(("length", "entries"), [(20, projection.Unmade), (64, projection.Unmade), (65, projection.Matrix)])
def test_a_matrix_is_made_where_there_are_fewer_features_than_examples(tasks, length, entries):
    """There it is as cheap as the Gram matrix, which has no full rank."""
    gram = dataclasses.replace(tasks, entries="gram", length=length)
    assert isinstance(jax.eval_shape(draw_task, gram, jax.random.key(0)).projection, entries)
    keys = jax.random.split(jax.random.key(0), 1), jax.random.split(jax.random.key(1), (1, 1))
    x_TSLX = jax.jit(draw_episodes)(gram, *keys).x_LX
    assert x_TSLX.shape == (1, 1, length, min(length, 64)) and np.isfinite(x_TSLX).all()


@pytest.mark.parametrize("source", ["random", "mixture"])
def test_gram_draws_from_every_source(tasks, source):
    """Ten points are drawn again and again. Equal examples stay all but equal, and labels go with them."""
    sources = {"random": RandomPoints(64), "mixture": Mixture((tasks.source, RandomPoints(64)))}
    gram = dataclasses.replace(tasks, source=sources[source], entries="gram")
    keys = jax.random.split(jax.random.key(0), 4), jax.random.split(jax.random.key(1), (4, 1))
    episodes = jax.jit(draw_episodes)(gram, *keys)
    assert np.isfinite(episodes.x_LX).all()
    if source == "random":
        x_LX, y_L = np.asarray(episodes.x_LX[0, 0]), np.asarray(episodes.y_L[0, 0])
        distance_LL = ((x_LX[:, None] - x_LX[None]) ** 2).sum(axis=2)
        same_LL = y_L[:, None] == y_L[None]
        assert distance_LL[same_LL].max() < 0.01 * distance_LL[~same_LL].min()


def unprojected(task, episode):
    """The inputs before the task's matrix, float64 [L, X]."""
    matrix_XX = np.asarray(task.projection.entries_XX, np.float64) * float(task.projection.scale)
    return np.linalg.solve(matrix_XX, np.asarray(episode.x_LX, np.float64).T).T


def test_feature_scales_are_a_function_of_the_task_and_vary_as_images_do(tasks):
    """log s = σ u z, z of mean square 1 in the span of images; u uniform. The projection is that of x scaled."""
    scaled = dataclasses.replace(tasks, feature_scales=1.2)
    keys = jax.random.split(jax.random.key(0), 2000)
    logs_TX = np.log(np.asarray(jax.jit(jax.vmap(lambda key: draw_task(scaled, key).scale_X))(keys), np.float64))
    spread_T = np.sqrt((logs_TX**2).mean(axis=1))
    assert stats.kstest(spread_T / 1.2, "uniform").pvalue > 1e-3
    images_NX = (np.asarray(tasks.source.images_NX, np.float64) - float(tasks.source.mean)) / float(tasks.source.std)
    spectrum_X = np.linalg.svd(logs_TX / spread_T[:, None], compute_uv=False)
    expected_X = np.linalg.svd(images_NX / np.sqrt((images_NX**2).mean()), compute_uv=False) * np.sqrt(2000 / len(images_NX))
    np.testing.assert_allclose(spectrum_X[:8], expected_X[:8], rtol=0.3)
    draw, draw_of = jax.jit(draw_task), jax.jit(draw_sequence)
    task, plain = draw(scaled, keys[0]), draw(tasks, keys[0])
    same_bits(task.projection, plain.projection)
    episode, other = (draw_of(each, one, keys[1]) for each, one in ((scaled, task), (tasks, plain)))
    scaled_LX = unprojected(plain, other) * np.asarray(task.scale_X, np.float64)
    np.testing.assert_allclose(unprojected(task, episode), scaled_LX, atol=2e-2)
    assert plain.scale_X is None


def test_clutter_adds_other_images_of_the_source(tasks):
    cluttered = dataclasses.replace(tasks, clutter=1.5)
    keys = jax.random.split(jax.random.key(0), 2000)
    weights_T = np.asarray(jax.jit(jax.vmap(lambda key: draw_task(cluttered, key).clutter))(keys))
    assert stats.kstest(np.sqrt(weights_T / 1.5), "uniform").pvalue > 1e-3
    images_NX = (np.asarray(tasks.source.images_NX, np.float64) - float(tasks.source.mean)) / float(tasks.source.std)

    def which(x_LX):
        distance_LN = np.abs(x_LX[:, None] - images_NX[None]).max(axis=2)
        assert distance_LN.min(axis=1).max() < 2e-2
        return distance_LN.argmin(axis=1)

    draw, draw_of = jax.jit(draw_task), jax.jit(draw_sequence)
    for number in np.flatnonzero(weights_T > 0.5)[:2]:
        task, plain = draw(cluttered, keys[number]), draw(tasks, keys[number])
        same_bits(task.projection, plain.projection)
        episode, other = (draw_of(each, one, keys[number]) for each, one in ((cluttered, task), (tasks, plain)))
        same_bits(episode.y_L, other.y_L)
        own_LX = unprojected(plain, other)
        others_L = which((unprojected(task, episode) - own_LX) / weights_T[number])
        assert len(set(others_L)) == tasks.length and (others_L == which(own_LX)).sum() <= 2


@pytest.mark.parametrize("name", ["clutter", "feature_scales"])
def test_meta_training_alone_changes_its_images(name):
    config = tiny_config(f"--tasks.{name}=1")
    assert [getattr(make_tasks(config, split), name) for split in ("train", "validation", "test")] == [1, 0, 0]
    kinds = _kinds(config, "digits", make_tasks(config, "test"))
    assert "unseen_tasks_train_images" in kinds and {getattr(tasks, name) for tasks, *_ in kinds.values()} == {0}
    with pytest.raises(UserError, match=rf"tasks.{name} = 1 is for tasks.num_tasks = 'infinite', got 64; leave it out"):
        tiny_config(f"--tasks.{name}=1", "--tasks.num_tasks=64")
    with pytest.raises(UserError, match=rf"tasks.{name} = 1 is for tasks.entries normal or gram, got 'integer'; leave it out"):
        tiny_config(f"--tasks.{name}=1", "--tasks.entries=integer")


def test_integer_entries_are_refused_where_they_would_not_be_exact(tasks):
    images_NX = np.zeros((20, 65 * 65), np.uint8)
    source = ImageDataset.build(images_NX, np.arange(20) % 2, mean=0.0, std=1.0, name="large")
    with pytest.raises(UserError, match="exact for up to 4,111 features; X = 4,225; give 'normal'"):
        dataclasses.replace(tasks, source=source, entries="integer", length=10)


def test_the_law_of_a_config_is_that_of_its_training_tasks_alone():
    config = tiny_config("--tasks.entries=integer", "--tasks.num_tasks=4")
    assert [make_tasks(config, split).entries for split in ("train", "validation", "test")] == ["integer", "normal", "normal"]
    kinds = _kinds(config, "digits", make_tasks(config, "test"))
    laws = {kind: tasks.entries for kind, (tasks, _, _) in kinds.items() if kind != "identity_tasks"}
    assert laws == {"unseen_tasks": "normal", "unseen_tasks_train_images": "normal", "seen_tasks": "integer"}


def test_permutation_is_a_uniform_bijection(tasks):
    keys = jax.random.split(jax.random.key(3), 20_000)
    permutations = np.asarray(jax.jit(jax.vmap(lambda key: draw_task(tasks, key).permutation_C))(keys))
    assert (np.sort(permutations, axis=1) == np.arange(10)).all()
    for position in range(10):
        assert stats.chisquare(np.bincount(permutations[:, position], minlength=10)).pvalue > 1e-4
    pairs = np.bincount(permutations[:, 0] * 10 + permutations[:, 1], minlength=100).reshape(10, 10)
    assert stats.chisquare(pairs[~np.eye(10, dtype=bool)]).pvalue > 1e-4


def test_one_coin_per_task_decides_about_the_permutation(tasks):
    keys = jax.random.split(jax.random.key(4), 4000)
    is_fixed = jax.vmap(lambda key, prob: (draw_task(tasks, key, prob).permutation_C == jnp.arange(10)).all(), (0, None))
    fixed = functools.partial(jax.jit(is_fixed), keys)
    assert fixed(0.0).all() and not fixed(1.0).any()
    assert abs(fixed(0.1).mean() - 0.9) < 4 * np.sqrt(0.09 / 4000)


def test_labels_follow_their_images_through_the_permutation(tasks):
    """An identity task shows standardised pixels, so each row can be looked up in the dataset."""
    plain = TaskDistribution(tasks.source, length=20, entries="identity")
    task_key, sequence_key = jax.random.split(jax.random.key(8))
    episode = jax.tree.map(lambda leaf: leaf[0, 0], jax.jit(draw_episodes)(plain, task_key[None], sequence_key[None, None]))
    permutation = np.asarray(jax.jit(draw_task)(plain, task_key).permutation_C)
    pixels = np.rint(np.asarray(episode.x_LX) * float(tasks.source.std) + float(tasks.source.mean)).astype(int)
    images, labels = np.asarray(tasks.source.images_NX, int).tolist(), tasks.source.labels_N.tolist()
    label_of = {tuple(image): label for image, label in zip(images, labels, strict=True)}
    assert [permutation[label_of[tuple(row)]] for row in pixels.tolist()] == episode.y_L.tolist()
    assert int(episode.num_context) == 20


def test_finite_task_sets_draw_their_own_tasks_only(tasks):
    finite = TaskDistribution(tasks.source, length=20, infinite=False)
    hyper = hyper_from(Config())._replace(num_tasks=np.int32(5))
    drawn = Counter()
    draw = jax.jit(lambda key: draw_task_keys(finite, key, hyper, 16))
    for seed in range(40):
        keys = draw(jax.random.key(seed))
        drawn.update(map(tuple, np.asarray(jax.random.key_data(keys)).tolist()))
    allowed = set(map(tuple, np.asarray(jax.random.key_data(seen_task_keys(hyper, jnp.arange(5)))).tolist()))
    assert set(drawn) == allowed
    assert stats.chisquare(list(drawn.values())).pvalue > 1e-4


def test_huge_task_sets_cost_nothing(tasks, monkeypatch):
    """One program, whose memory is that of an episode, serves sets of all sizes; their ids are uniform to the last bit."""
    finite, hyper = TaskDistribution(tasks.source, length=20, infinite=False), hyper_from(Config())
    program = jax.jit(functools.partial(draw_episode, finite, jax.random.key(0))).lower(hyper).compile()
    assert program.memory_analysis().temp_size_in_bytes < 10 * 64 * 64 * 4
    few, *huge = (program(hyper._replace(num_tasks=np.int32(number))) for number in (4, 2**25, 2**31 - 1))
    assert all(np.isfinite(each.x_LX).all() and abs(each.x_LX - few.x_LX).max() > 0.1 for each in huge)
    monkeypatch.setattr(augmented, "seen_task_keys", lambda hyper, ids_T: ids_T)
    for number in (2**25, 2**31 - 1):
        ids_T = np.asarray(draw_task_keys(finite, jax.random.key(0), hyper._replace(num_tasks=np.int32(number)), 4096))
        assert stats.kstest(ids_T / number, "uniform").pvalue > 1e-3 and 0 <= ids_T.min() < ids_T.max() < number
        assert abs((ids_T % 2).mean() - 0.5) < 4 * 0.5 / np.sqrt(4096)


def test_uses_of_randomness_share_no_key():
    keys = {tuple(np.asarray(jax.random.key_data(stream(seed, name)))) for seed in range(3) for name in _STREAMS}
    assert len(keys) == 3 * len(_STREAMS)


def test_a_users_own_keys_are_no_roots():
    """split(key(seed), n) is fold_in of 0 … n − 1: no use of randomness may lie there."""
    own = {
        tuple(row) for seed in range(3) for row in np.asarray(jax.random.key_data(jax.random.split(jax.random.key(seed), 1000)))
    }
    roots = {tuple(np.asarray(jax.random.key_data(stream(seed, name)))) for seed in range(3) for name in _STREAMS}
    assert not own & roots
