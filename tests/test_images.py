import numpy as np
import pytest

from gpicl_jax.data import stored
from gpicl_jax.data.stored import pixel_statistics
from gpicl_jax.settings import UserError
from gpicl_jax.tasks.sources.images import ImageDataset


def test_images_lie_class_by_class_and_keep_their_labels():
    rng = np.random.default_rng(0)
    images_NX, labels_N = rng.integers(0, 256, (50, 4), dtype=np.uint8), rng.permutation(np.arange(50) % 7 + 1)
    dataset = ImageDataset.build(images_NX, labels_N, mean=0.0, std=1.0, name="mine", num_classes=9)
    assert (np.diff(dataset.labels_N) >= 0).all()
    pairs = lambda images, labels: sorted((*map(int, image), int(label)) for image, label in zip(images, labels, strict=True))  # noqa: E731
    assert pairs(np.asarray(dataset.images_NX), np.asarray(dataset.labels_N)) == pairs(images_NX, labels_N)
    assert dataset.counts_C.tolist() == np.bincount(labels_N, minlength=9).tolist()
    assert dataset.present_P.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert dataset.num_classes == 9


@pytest.mark.parametrize(
    ("pixels", "labels", "std", "message"),
    [
        (np.zeros((4, 3)), np.arange(4), 1.0, "expected uint8"),
        (np.zeros((4, 3, 3), np.uint8), np.arange(4), 1.0, r"\[N, X\]"),
        (np.zeros((4, 3), np.uint8), np.arange(5), 1.0, "expected 4 integers"),
        (np.zeros((4, 3), np.uint8), np.zeros(4), 1.0, "expected 4 integers"),
        (np.zeros((4, 3), np.uint8), np.arange(4) - 1, 1.0, "run from -1 to 2; expected integers from 0 to 9"),
        (np.zeros((4, 3), np.uint8), np.arange(4) + 7, 1.0, "run from 7 to 10; expected integers from 0 to 9"),
        (np.zeros((4, 3), np.uint8), np.array([0, 1, 2, 2**45]), 1.0, "run from 0 to 35184372088832"),
        (np.zeros((4, 3), np.uint8), np.full(4, 2), 1.0, "one class only"),
        (np.zeros((0, 3), np.uint8), np.arange(0), 1.0, "no image"),
        (np.zeros((4, 3), np.uint8), np.arange(4), 0.0, "all alike"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(pixels, labels, std, message):
    with pytest.raises(UserError, match=message):
        ImageDataset.build(pixels, labels, mean=0.0, std=std, name="mine", num_classes=10)


def test_pixel_statistics_are_those_of_all_pixels(monkeypatch):
    images_NX = np.random.default_rng(0).integers(0, 256, (300, 50), dtype=np.uint8)
    np.testing.assert_allclose(pixel_statistics(images_NX), [images_NX.mean(), images_NX.std()], rtol=1e-12)
    monkeypatch.setattr(stored, "_AT_ONCE", 700)
    np.testing.assert_allclose(pixel_statistics(images_NX), [images_NX.mean(), images_NX.std()], rtol=1e-12)
