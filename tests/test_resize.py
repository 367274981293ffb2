import jax
import numpy as np
import pytest

from gpicl_jax.data import resize
from gpicl_jax.data.resize import check_device_memory, resized
from gpicl_jax.settings import UserError
from gpicl_jax.tasks.sources.images import load
from tests import tensorflow_resize


@pytest.fixture(scope="module")
def grey():
    return np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), dtype=np.uint8)


def test_the_papers_size_is_the_mean_of_two_by_two_pixels(grey):
    """28 → 14 without antialiasing samples between pixels: what `tf.image.resize` gives by default."""
    blocks = grey.astype(float).reshape(5, 14, 2, 14, 2).mean(axis=(2, 4))
    small = resized(grey, 14, 1).reshape(5, 14, 14)
    assert small.dtype == np.uint8
    assert np.abs(small - blocks).max() <= 0.5


@pytest.mark.parametrize("name", tensorflow_resize.CASES)
def test_resizing_equals_that_of_tensorflow(name):
    shape, (size, channels) = tensorflow_resize.CASES[name]
    expected = tensorflow_resize.kept()[name]
    assert np.ptp(expected) > 10
    found = resized(tensorflow_resize.image(shape), size, channels)
    assert np.abs(found - expected).max() <= 0.5 + 0.03  # rounding; its luma weights have 4 digits


def bilinear(values, size):
    """Without antialiasing, pixel centres at half integers: each target is a mix of its two nearest, along each axis."""
    for axis in (1, 2):
        number = values.shape[axis]
        centre = np.clip((np.arange(size) + 0.5) * number / size - 0.5, 0, number - 1)
        low = np.minimum(centre.astype(int), number - 2)
        share = (centre - low).reshape([-1 if each == axis else 1 for each in range(4)])
        values = (1 - share) * values.take(low, axis) + share * values.take(low + 1, axis)
    return values


@pytest.mark.parametrize(("height", "size", "channels"), [(28, 14, 1), (32, 14, 1), (105, 14, 1), (28, 32, 3), (8, 14, 1)])
def test_the_papers_sizes_are_bilinear_without_antialiasing(height, size, channels):
    images = np.random.default_rng(2).integers(0, 256, (3, height, height, channels), dtype=np.uint8)
    expected = bilinear(images.astype(float), size).reshape(3, -1)
    assert np.abs(resized(images, size, channels) - expected).max() <= 0.5 + 1e-3


def test_shrinking_to_a_laptops_size_antialiases():
    """A grating finer than the small pixels turns grey; without antialiasing it would stay black and white."""
    grating = np.tile(np.array([0, 255], np.uint8), 32)[None, None, :, None].repeat(64, axis=1)
    small = resized(grating, 8, 1).astype(int)
    assert np.abs(small.reshape(8, 8)[:, 1:-1] - 127.5).max() < 3


def test_grey_is_copied_and_colour_weighed(grey):
    colour = resized(grey, 32, 3).reshape(5, 32, 32, 3)
    assert (colour == colour[..., :1]).all()
    primaries = np.zeros((3, 8, 8, 3), np.uint8)
    primaries[np.arange(3), :, :, np.arange(3)] = 255
    assert resized(primaries, 8, 1)[:, 0].tolist() == [76, 150, 29]


def test_images_that_fit_already_are_not_touched(grey):
    np.testing.assert_array_equal(resized(grey, 28, 1), grey.reshape(5, -1))
    np.testing.assert_array_equal(resized(grey, None, None), grey.reshape(5, -1))


def test_parts_are_resized_as_the_whole(grey, monkeypatch):
    whole = resized(grey, 10, 1)
    monkeypatch.setattr(resize, "_BYTES_AT_ONCE", 2 * 28 * 28 * 4)
    np.testing.assert_array_equal(resized(grey, 10, 1), whole)


def test_a_dataset_larger_than_the_device_is_refused_with_both_sizes(monkeypatch):
    monkeypatch.setattr(resize, "device_memory", lambda: (10**9, "cuda:0"))
    check_device_memory("small", 1000, 10**6)
    with pytest.raises(UserError, match=r"'big' needs 3\.07 GB .* cuda:0 has 1 GB; lower data.size, or data.channels"):
        check_device_memory("big", 1_000_000, 3072)


def test_device_memory_is_what_the_device_says_is_free_and_on_a_cpu_that_of_the_machine(monkeypatch):
    monkeypatch.setattr(resize.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 10**6}.get)
    assert resize.device_memory() == (4096 * 10**6, str(jax.local_devices()[0]))

    class Accelerator:
        def memory_stats(self):
            return {"bytes_limit": 10**9, "bytes_in_use": 10**8}

        def __str__(self):
            return "cuda:0"

    monkeypatch.setattr(jax, "local_devices", lambda: [Accelerator()])
    assert resize.device_memory() == (9 * 10**8, "cuda:0")


def test_digits_at_another_size_keep_their_shades():
    """17 of them as they are stored; between two pixels there are others."""
    assert len(np.unique(load("digits", "test").images_NX)) == 17
    assert len(np.unique(load("digits", "test", size=14, channels=1).images_NX)) > 100
