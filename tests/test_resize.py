import numpy as np
import pytest

from gpicl_jax.data import resize
from gpicl_jax.data.resize import check_fits, prepare
from gpicl_jax.settings import UserError


@pytest.fixture(scope="module")
def grey():
    return np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), dtype=np.uint8)


def test_the_papers_size_is_the_mean_of_two_by_two_pixels(grey):
    """28 → 14 without antialiasing samples between pixels: what `tf.image.resize` gives by default."""
    blocks = grey.astype(float).reshape(5, 14, 2, 14, 2).mean(axis=(2, 4))
    small = prepare(grey, 14, 1).reshape(5, 14, 14)
    assert small.dtype == np.uint8
    assert np.abs(small - blocks).max() <= 0.5


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (105, 105, 1), (8, 8, 1)])
@pytest.mark.parametrize(("size", "channels"), [(14, 1), (32, 3), (8, 1)])
def test_resizing_equals_that_of_tensorflow(shape, size, channels):
    tensorflow = pytest.importorskip("tensorflow", reason="TensorFlow is not installed (extra [tf])")
    images = np.random.default_rng(1).integers(0, 256, (3, *shape), dtype=np.uint8)
    expected = tensorflow.constant(images)
    if channels < shape[2]:
        expected = tensorflow.image.rgb_to_grayscale(tensorflow.cast(expected, tensorflow.float32))
    expected = tensorflow.image.resize(expected, (size, size), antialias=size == 8).numpy()
    expected = np.broadcast_to(expected, (3, size, size, channels)).reshape(3, -1)
    assert np.abs(prepare(images, size, channels) - expected).max() <= 0.5 + 0.03  # rounding; its luma weights have 4 digits


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
    assert np.abs(prepare(images, size, channels) - expected).max() <= 0.5 + 1e-3


def test_shrinking_to_a_laptops_size_antialiases():
    """A grating finer than the small pixels turns grey; without antialiasing it would stay black and white."""
    grating = np.tile(np.array([0, 255], np.uint8), 32)[None, None, :, None].repeat(64, axis=1)
    small = prepare(grating, 8, 1).astype(int)
    assert np.abs(small.reshape(8, 8)[:, 1:-1] - 127.5).max() < 3


def test_grey_is_copied_and_colour_weighed(grey):
    colour = prepare(grey, 32, 3).reshape(5, 32, 32, 3)
    assert (colour == colour[..., :1]).all()
    primaries = np.zeros((3, 8, 8, 3), np.uint8)
    primaries[np.arange(3), :, :, np.arange(3)] = 255
    assert prepare(primaries, 8, 1)[:, 0].tolist() == [76, 150, 29]


def test_images_that_fit_already_are_not_touched(grey):
    np.testing.assert_array_equal(prepare(grey, 28, 1), grey.reshape(5, -1))
    np.testing.assert_array_equal(prepare(grey, None, None), grey.reshape(5, -1))


def test_parts_are_resized_as_the_whole(grey, monkeypatch):
    whole = prepare(grey, 10, 1)
    monkeypatch.setattr(resize, "_BYTES_AT_ONCE", 2 * 28 * 28 * 4)
    np.testing.assert_array_equal(prepare(grey, 10, 1), whole)


def test_a_dataset_larger_than_the_device_is_refused_with_both_sizes(monkeypatch):
    monkeypatch.setattr(resize, "device_memory", lambda: (10**9, "cuda:0"))
    check_fits("small", 1000, 10**6)
    with pytest.raises(UserError, match=r"'big' needs 3\.07 GB .* cuda:0 has 1 GB; lower data.size, or data.channels"):
        check_fits("big", 1_000_000, 3072)


def test_device_memory_is_that_of_this_machine():
    free, device = resize.device_memory()
    assert 2**28 < free < 2**45 and device
