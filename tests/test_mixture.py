import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gpicl_jax.settings import UserError
from gpicl_jax.tasks import Mixture, RandomPoints, TaskDistribution, draw_episodes, draw_task
from gpicl_jax.tasks.sources.images import ImageDataset, load
from gpicl_jax.tasks.sources.mixture import draw_source


def flat(value, name, num_classes=3):
    """Images of one grey value: an episode tells which set it is from."""
    images = np.full((30, 4), value, np.uint8)
    return ImageDataset.build(images, np.arange(30) % num_classes, mean=0.0, std=1.0, name=name, num_classes=num_classes)


@pytest.fixture(scope="module")
def mixture():
    return Mixture((flat(10, "dark"), flat(200, "bright", num_classes=5), flat(90, "grey")), weights=(2.0, 1.0, 5.0))


def test_each_task_is_of_one_set_by_weight_and_all_its_sequences_too(mixture):
    tasks = TaskDistribution(mixture, length=6, entries="identity")
    keys = jax.random.split(jax.random.key(0), 2000), jax.random.split(jax.random.key(1), (2000, 2))
    episodes = jax.device_get(jax.jit(draw_episodes)(tasks, *keys))
    values = episodes.x_LX.reshape(2000, -1)
    assert (values == values[:, :1]).all()
    counts = np.array([(values[:, 0] == value).sum() for value in (10, 200, 90)])
    assert stats.chisquare(counts, 2000 * np.array([2, 1, 5]) / 8).pvalue > 1e-4
    number = jax.jit(jax.vmap(lambda key: draw_source(mixture, draw_task(tasks, key).source_key)))(keys[0])
    np.testing.assert_array_equal(np.array([10, 200, 90])[np.asarray(number)], values[:, 0])


def test_no_weights_are_equal_chances():
    keys = jax.random.split(jax.random.key(0), 6000)
    even = Mixture((flat(1, "a"), flat(2, "b"), flat(3, "c")))
    counts = np.bincount(jax.jit(jax.vmap(lambda key: draw_source(even, key)))(keys))
    assert stats.chisquare(counts).pvalue > 1e-4


def test_a_mixture_draws_what_its_sources_would(mixture):
    """Rows are standardised by the numbers of their own set, and labels are its own."""
    digits, points = load("digits", "train"), RandomPoints(64)
    tasks = TaskDistribution(Mixture((digits, points)), length=10, entries="identity")
    draw, source_of = jax.jit(draw_episodes), jax.jit(lambda key: draw_source(tasks.source, draw_task(tasks, key).source_key))
    for seed in range(6):
        task_key, sequence_key = jax.random.split(jax.random.key(seed))
        episode = jax.tree.map(lambda leaf: leaf[0, 0], draw(tasks, task_key[None], sequence_key[None, None]))
        number = int(source_of(task_key))
        source = (digits, points)[number]
        back = np.asarray(episode.x_LX) * (float(digits.std) if number == 0 else 12**-0.5) + (
            float(digits.mean) if number == 0 else 0.5
        )
        if number == 0:
            rows = np.asarray(source.images_NX, float)
            assert all(np.abs(rows - row).max(axis=1).min() < 0.01 for row in back)
        else:
            assert back.min() >= 0 and back.max() <= 1


def test_a_mixture_counts_the_images_of_its_sources_and_has_their_splits_and_statistics():
    """120 episodes of 6 share some images. Their values say which tasks are of which set."""
    bright, points = flat(200, "bright"), RandomPoints(4)
    never = dataclasses.replace(bright, name="never", statistics="test")
    mixture = Mixture((flat(10, "dark"), bright, never, points), weights=(2.0, 1.0, 0.001, 1.0))
    task_keys, keys = jax.random.split(jax.random.key(0), 60), jax.random.split(jax.random.key(1), (60, 2))
    number_T = np.asarray(jax.vmap(lambda key: draw_source(mixture, key))(task_keys))
    assert set(number_T) == {0, 1, 3}
    drawing = TaskDistribution(mixture, length=6).drawing
    of_points = np.unique(points.shown(task_keys[number_T == 3], keys[number_T == 3], drawing))
    assert len(np.unique(mixture.shown(task_keys, keys, drawing))) == 30 + 30 + len(of_points)
    assert mixture.statistics == "train and test" and mixture.has_splits
    fresh = Mixture((points, points))
    assert fresh.statistics == "" and not fresh.has_splits
    fewer = dataclasses.replace(bright, present_P=jnp.arange(2))
    assert Mixture((points, fewer)).chooses_other_classes(Mixture((points, bright)), 2)
    assert not Mixture((points, bright)).chooses_other_classes(Mixture((points, bright)), 2)


def test_sets_of_different_sizes_are_refused():
    with pytest.raises(UserError, match="cannot be mixed: 'a' 4, 'digits' 64; resize them"):
        Mixture((flat(1, "a"), load("digits", "train")))


def test_every_source_of_a_mixture_must_fill_an_episode(mixture):
    with pytest.raises(UserError, match="'dark' has 30 images"):
        TaskDistribution(mixture, length=31)


def test_a_mixture_passes_through_jit_and_vmap(mixture):
    tasks = TaskDistribution(mixture, length=6)
    keys = jax.random.split(jax.random.key(3), 4), jax.random.split(jax.random.key(4), (4, 2))
    episodes = jax.jit(draw_episodes)(jax.tree.map(jnp.asarray, tasks), *keys)
    assert episodes.x_LX.shape == (4, 2, 6, 4) and tasks.num_labels == 5 and mixture.name == "dark+bright+grey"
