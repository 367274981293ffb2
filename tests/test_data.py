import hashlib

import numpy as np
import pytest

from gpicl_jax.data import ImageDataset, available, load


def test_digits_splits_share_no_image_and_cover_the_set():
    from sklearn.datasets import load_digits

    splits = [load("digits", split) for split in ("train", "validation", "test")]
    assert [split.num_images for split in splits] == [1200, 200, 397]
    rows = np.concatenate([np.column_stack([split.images_NX, split.labels_N]) for split in splits])
    original = np.column_stack([load_digits().data, load_digits().target])
    assert sorted(map(tuple, rows)) == sorted(map(tuple, original.astype(int)))
    # no image stands twice in the set itself, so none is in two splits
    assert len({tuple(row) for row in rows}) == 1797


def test_digits_split_is_the_same_everywhere():
    images = np.asarray(load("digits", "test").images_NX)
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "9ffc454b91689e80"


def test_statistics_are_those_of_the_training_split():
    train = load("digits", "train")
    pixels = np.asarray(train.images_NX, np.float64)
    for split in ("train", "validation", "test"):
        dataset = load("digits", split)
        np.testing.assert_allclose([dataset.mean, dataset.std], [pixels.mean(), pixels.std()], rtol=1e-6)


@pytest.mark.parametrize(
    ("images", "labels", "std", "message"),
    [
        (np.zeros((4, 3)), np.arange(4), 1.0, "expected uint8"),
        (np.zeros((4, 3, 3), np.uint8), np.arange(4), 1.0, r"\[N, X\]"),
        (np.zeros((4, 3), np.uint8), np.arange(5), 1.0, "expected 4 integers"),
        (np.zeros((4, 3), np.uint8), np.zeros(4), 1.0, "expected 4 integers"),
        (np.zeros((4, 3), np.uint8), np.arange(4), 0.0, "all alike"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(images, labels, std, message):
    with pytest.raises(ValueError, match=message):
        ImageDataset.build(images, labels, mean=0.0, std=std, name="mine")


def test_unknown_names_list_what_there_is():
    with pytest.raises(ValueError, match="available: digits"):
        load("mnits", "train")
    with pytest.raises(ValueError, match="train, validation, test"):
        load("digits", "dev")
    assert "digits" in available()
