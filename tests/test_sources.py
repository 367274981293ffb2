import hashlib

import numpy as np
import pytest

from gpicl_jax.data import available, load, sources
from gpicl_jax.data.stored import Stored, divide, part_rows
from gpicl_jax.settings import UserError


def test_digits_splits_share_no_image_and_cover_the_set():
    from sklearn.datasets import load_digits

    splits = [load("digits", split) for split in ("train", "validation", "test")]
    assert [split.num_images for split in splits] == [1200, 200, 397]
    rows = np.concatenate([np.column_stack([split.images_NX, split.labels_N]) for split in splits])
    original = np.column_stack([15 * load_digits().data, load_digits().target])
    assert sorted(map(tuple, rows)) == sorted(map(tuple, original.astype(int)))
    # no image stands twice in the set itself, so none is in two splits
    assert len({tuple(row) for row in rows}) == 1797


def test_digits_split_is_the_same_everywhere():
    images = np.asarray(load("digits", "test").images_NX)
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "30ee2bc55e80f837"


@pytest.mark.parametrize("size", [8, 14])
def test_statistics_are_those_of_the_resized_training_split(size):
    pixels = np.asarray(load("digits", "train", size=size, channels=1).images_NX, np.float64)
    for split in ("train", "validation", "test"):
        dataset = load("digits", split, size=size, channels=1)
        assert dataset.statistics == "train" and dataset.num_features == size**2
        np.testing.assert_allclose([dataset.mean, dataset.std], [pixels.mean(), pixels.std()], rtol=1e-6)


def of(**counts):
    return divide(Stored("mine", "here", 10, counts, None, (8, 8, 1)))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"train": 50, "test": 20}, {"train": ("train", (1, 10)), "validation": ("train", (0, 1)), "test": ("test", (0, 10))}),
        ({"train": 50, "validation": 9}, {"train": ("train", (1, 10)), "test": ("validation", (0, 10))}),
        ({"train": 50, "validation": 9, "test": 9}, {"train": ("train", (0, 10)), "validation": ("validation", (0, 10))}),
        ({"all": 90}, {"train": ("all", (3, 10)), "validation": ("all", (2, 3)), "test": ("all", (0, 2))}),
        ({"test": 90}, {"test": ("test", (0, 10))}),
        ({"train": 50, "test": 20, "small1": 5}, {"small1": ("small1", (0, 10)), "test": ("test", (0, 10))}),
    ],
)
def test_splits_serve_as_train_validation_and_test(counts, expected):
    parts = of(**counts)
    assert expected.items() <= parts.items()
    # no image is in two of the three
    used = [
        (split, tenth)
        for name, (split, tenths) in parts.items()
        if name in ("train", "validation", "test")
        for tenth in range(*tenths)
    ]
    assert len(used) == len(set(used))


def test_a_set_with_test_images_only_has_no_other_split():
    assert set(of(test=90)) == {"test"}


@pytest.mark.parametrize("number", [10, 97, 60_000])
def test_parts_of_a_split_are_disjoint_and_whole(number):
    parts = [part_rows(number, tenths) for tenths in ((0, 2), (2, 3), (3, 10))]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(number))
    assert abs(len(parts[0]) - number / 5) <= 1
    assert number < 97 or parts[0][-1] > 0.9 * number  # drawn from everywhere


def test_statistics_of_a_set_with_test_images_only_are_its_own_and_say_so(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    stored = Stored("kana", "here", 4, {"test": 40}, lambda _: (images, np.arange(40) % 4), (8, 8, 1))
    monkeypatch.setattr(sources, "find", lambda name, folder: stored)
    dataset = load("kana", "test")
    assert dataset.statistics == "test"
    np.testing.assert_allclose([dataset.mean, dataset.std], [images.mean(), images.std()], rtol=1e-6)
    with pytest.raises(UserError, match="'kana' has no split 'train' in here; there: test"):
        load("kana", "train")


def test_test_images_never_reach_the_statistics(tmp_path):
    """An own file whose test part is changed keeps the mean and deviation of its training part."""
    images = np.random.default_rng(0).integers(0, 256, (50, 6, 6), dtype=np.uint8)
    labels = np.arange(50) % 5
    statistics = []
    for name in ("one.npz", "two.npz"):
        np.savez(tmp_path / name, images=images, labels=labels)
        test = load(str(tmp_path / name), "test")
        statistics.append((float(test.mean), float(test.std)))
        assert test.num_images == 10 and test.name == name[:3]
        images = images.copy()
        images[part_rows(50, (0, 2))] = 255
    assert statistics[0] == statistics[1]


def test_unknown_splits_list_what_there_is():
    with pytest.raises(UserError, match="train, validation, test"):
        load("digits", "dev")
    assert available()["digits"].startswith("ready: 8×8×1, 10 classes, train 1,200")


def test_a_set_that_is_too_large_stops_before_it_is_read(monkeypatch):
    def read(split):
        raise AssertionError("read")

    stored = Stored("huge", "here", 10, {"train": 10**9, "test": 10}, read, (32, 32, 3))
    monkeypatch.setattr(sources, "find", lambda name, folder: stored)
    with pytest.raises(UserError, match=r"'huge' needs 3.07e\+03 GB"):
        load("huge", "train")
