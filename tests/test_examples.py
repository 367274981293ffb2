import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gpicl_jax.settings import UserError
from gpicl_jax.tasks import TaskDistribution
from gpicl_jax.tasks.sources.base import Drawing
from gpicl_jax.tasks.sources.images import ImageDataset, draw_classes, draw_images
from gpicl_jax.tasks.sources.indices import draw_image_indices


def dataset_of(counts, num_classes=None):
    """Images that hold their own number, in a random order, `counts[c]` of class c."""
    labels_N = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    images_NX = np.arange(len(labels_N), dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    return ImageDataset.build(images_NX, labels_N, mean=1.0, std=1.0, name="mine", num_classes=num_classes)


def drawn(dataset, drawing, num_tasks=400):
    """Rows, their labels within the task, and the classes of the task, of one episode of each of many tasks."""

    def draw(key):
        task_key, sequence_key = jax.random.split(key)
        num_classes = min(dataset.num_classes, drawing.classes_per_task)
        return *draw_images(dataset, task_key, sequence_key, drawing), draw_classes(dataset, task_key, num_classes)

    return map(np.asarray, jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), num_tasks)))


@pytest.mark.parametrize(("num_images", "length"), [(1, 1), (2, 2), (10, 10), (97, 50), (200, 100), (60_000, 100)])
def test_images_of_an_episode_are_all_different(num_images, length):
    keys = jax.random.split(jax.random.key(5), 200)
    indices = np.asarray(jax.jit(jax.vmap(lambda key: draw_image_indices(key, num_images, length)))(keys))
    assert indices.min() >= 0 and indices.max() < num_images
    assert all(len(set(row)) == length for row in indices)


@pytest.mark.parametrize("num_images", [7, 12, 30])
def test_images_are_drawn_uniformly_alone_and_in_pairs(num_images):
    keys = jax.random.split(jax.random.key(6), 60_000)
    indices = np.asarray(jax.jit(jax.vmap(lambda key: draw_image_indices(key, num_images, 5)))(keys))
    for position in range(5):
        assert stats.chisquare(np.bincount(indices[:, position], minlength=num_images)).pvalue > 1e-4
    off_diagonal = ~np.eye(num_images, dtype=bool)
    for one, other in [(0, 1), (0, 4), (2, 3)]:
        counts = np.bincount(indices[:, one] * num_images + indices[:, other], minlength=num_images**2)
        assert stats.chisquare(counts.reshape(num_images, num_images)[off_diagonal]).pvalue > 1e-4


@pytest.mark.parametrize("num_images", [1, 2, 3, 7, 40, 1000])
def test_a_traced_number_of_images_gives_different_uniform_images_too(num_images):
    keys, length = jax.random.split(jax.random.key(7), 20_000), min(num_images, 3)
    draw = jax.jit(jax.vmap(lambda key, number: draw_image_indices(key, number, length), (0, None)))
    indices = np.asarray(draw(keys, jnp.int32(num_images)))
    assert indices.min() >= 0 and all(len(set(row)) == length for row in indices.tolist())
    for position in range(length if num_images > 1 else 0):
        counts = np.bincount(indices[:, position], minlength=num_images)
        assert len(counts) == num_images and stats.chisquare(counts).pvalue > 1e-4
    if 2 < num_images < 100:
        pairs = np.bincount(indices[:, 0] * num_images + indices[:, 2], minlength=num_images**2)
        off_diagonal = ~np.eye(num_images, dtype=bool)
        assert stats.chisquare(pairs.reshape(num_images, num_images)[off_diagonal]).pvalue > 1e-4


COUNTS = [30, 5, 12, 0, 40, 8, 25, 9]


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("classes_per_task", [4, 8, 10])
def test_labels_name_the_classes_of_the_task_and_images_differ(balanced, classes_per_task):
    dataset = dataset_of(COUNTS if classes_per_task == 4 else [each or 6 for each in COUNTS])
    drawing = Drawing(length=16, classes_per_task=classes_per_task, balanced=balanced)
    for rows_L, labels_L, classes_K in zip(*drawn(dataset, drawing), strict=True):
        assert len(set(rows_L.tolist())) == 16
        assert len(set(classes_K.tolist())) == min(classes_per_task, 8) and (np.diff(classes_K) > 0).all()
        np.testing.assert_array_equal(classes_K[labels_L], np.asarray(dataset.labels_N)[rows_L])
        if balanced:
            assert (np.bincount(labels_L) == 16 // len(classes_K)).all()


def test_every_class_with_images_is_drawn_equally_often():
    dataset = dataset_of(COUNTS)
    *_, classes_TK = drawn(dataset, Drawing(8, 3, False), num_tasks=6000)
    counts = np.bincount(classes_TK.reshape(-1), minlength=8)
    assert counts[3] == 0 and stats.chisquare(counts[counts > 0]).pvalue > 1e-4


def test_iid_examples_follow_the_sizes_of_the_classes_and_balanced_ones_have_no_order():
    dataset = dataset_of([40, 20, 10, 30], num_classes=4)
    _, labels_TL, _ = drawn(dataset, Drawing(4, 4, False), num_tasks=5000)
    assert stats.chisquare(np.bincount(labels_TL[:, 0]), 5000 * np.array([0.4, 0.2, 0.1, 0.3])).pvalue > 1e-4
    _, labels_TL, _ = drawn(dataset, Drawing(8, 4, True), num_tasks=5000)
    for position in (0, 3, 7):
        assert stats.chisquare(np.bincount(labels_TL[:, position])).pvalue > 1e-4


def test_images_of_a_class_are_drawn_uniformly_when_classes_are_chosen():
    dataset = dataset_of([12, 12, 12, 12], num_classes=4)
    for balanced in (False, True):
        rows_TL, _, _ = drawn(dataset, Drawing(6, 3, balanced), num_tasks=8000)
        for position in (0, 5):
            assert stats.chisquare(np.bincount(rows_TL[:, position], minlength=48)).pvalue > 1e-4


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ([1, 1, 1], {"length": 4}, "has 3 images, and an episode shows none twice; give more images"),
        ([9, 9, 1, 0], {"length": 9, "classes_per_task": 3, "balanced": True}, "a class of 1 images.*shows 3 different ones"),
        ([9, 9, 9], {"length": 10, "balanced": True}, "tasks.length = 10 is not a multiple of 3 classes"),
        ([9, 3, 2, 8], {"length": 6, "classes_per_task": 2}, "no more than 5 images of 2 classes"),
        ([9, 9, 0, 0], {"length": 6, "classes_per_task": 3}, "has images of 2 classes; lower tasks.classes_per_task = 3"),
    ],
)
def test_a_source_that_cannot_fill_an_episode_is_refused(counts, options, message):
    with pytest.raises(UserError, match=message):
        TaskDistribution(dataset_of(counts, num_classes=len(counts)), **options)


def test_a_source_that_just_can_is_taken():
    TaskDistribution(dataset_of([1, 1, 1]), length=3)
    TaskDistribution(dataset_of([9, 3, 2, 8]), length=5, classes_per_task=2)
    TaskDistribution(dataset_of([3, 3, 4]), length=9, balanced=True)
