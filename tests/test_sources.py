import hashlib

import jax
import numpy as np
import pytest

from gpicl_jax.build import make_source
from gpicl_jax.data import datasets, resize
from gpicl_jax.data.datasets import available
from gpicl_jax.data.own import from_features
from gpicl_jax.data.stored import Stored, divide, part_rows
from gpicl_jax.registry import names
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import Mixture
from gpicl_jax.tasks.sources.base import Drawing
from gpicl_jax.tasks.sources.images import load
from tests.helpers import tiny_config

RNG = np.random.default_rng(0)


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


def parts_of(images, labels):
    return [set(part_rows(images, labels, tenths).tolist()) for tenths in ((0, 2), (2, 3), (3, 10))]


def test_parts_of_a_split_are_disjoint_and_whole_and_about_as_large_as_promised():
    images, labels = RNG.integers(0, 256, (5000, 4, 4, 1), dtype=np.uint8), np.arange(5000) % 7
    test, validation, train = parts_of(images, labels)
    assert len(test | validation | train) == len(test) + len(validation) + len(train) == 5000
    assert abs(len(test) - 1000) < 4 * 5000**0.5 * 0.4 and abs(len(validation) - 500) < 4 * 5000**0.5 * 0.3
    assert part_rows(images, labels, (0, 10)).tolist() == list(range(5000))


def test_images_stay_in_their_part_when_others_come_and_equal_images_share_one():
    images, labels = RNG.integers(0, 256, (600, 4, 4, 1), dtype=np.uint8), np.arange(600) % 7
    before = parts_of(images[:500], labels[:500])
    after = parts_of(np.concatenate([images, images]), np.concatenate([labels, labels]))
    for small, large in zip(before, after, strict=True):
        assert small == {row for row in large if row < 500}
        assert {row + 600 for row in large if row < 600} == {row for row in large if row >= 600}


def test_many_small_classes_are_divided_as_wholes():
    images, labels = RNG.integers(0, 256, (4000, 2, 2, 1), dtype=np.uint8), np.arange(4000) % 200
    classes = [{labels[row] for row in part} for part in parts_of(images, labels)]
    assert sum(map(len, classes)) == 200 and all(classes)


def test_statistics_of_a_set_with_test_images_only_are_its_own_and_say_so(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    stored = Stored("kana", "here", 4, {"test": 40}, lambda _: (images, np.arange(40) % 4), (8, 8, 1))
    monkeypatch.setattr(datasets, "find_stored", lambda name, folder: stored)
    dataset = load("kana", "test")
    assert dataset.statistics == "test"
    np.testing.assert_allclose([dataset.mean, dataset.std], [images.mean(), images.std()], rtol=1e-6)
    with pytest.raises(UserError, match="'kana' has no split 'train' in here; there: test"):
        load("kana", "train")


def test_test_images_never_reach_the_statistics(tmp_path):
    """A file without its test images has the same mean and deviation; and a file that was changed is read anew."""
    images, labels = RNG.integers(0, 256, (90, 6, 6, 1), dtype=np.uint8), np.arange(90) % 5
    kept = np.setdiff1d(np.arange(90), part_rows(images, labels, (0, 2)))
    np.savez(tmp_path / "mine.npz", images=images, labels=labels)
    before = load(str(tmp_path / "mine.npz"), "train")
    assert load(str(tmp_path / "mine.npz"), "test").num_images == 90 - len(kept)
    np.savez(tmp_path / "mine.npz", images=images[kept], labels=labels[kept])
    after = load(str(tmp_path / "mine.npz"), "train")
    assert before.num_images == after.num_images and before.mean == after.mean and before.std == after.std
    with pytest.raises(UserError, match=r"'mine.npz' holds no image"):
        load(str(tmp_path / "mine.npz"), "test")


def test_validation_images_standardise_where_there_is_no_training_split(monkeypatch):
    images = RNG.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    read = {"validation": (images[:20] // 2, np.arange(20) % 4), "test": (images[20:], np.arange(20) % 4)}
    stored = Stored("kana", "here", 4, {"validation": 20, "test": 20}, read.__getitem__, (8, 8, 1))
    monkeypatch.setattr(datasets, "find_stored", lambda name, folder: stored)
    assert load("kana", "test").statistics == "validation"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels_N": np.arange(40) % 5}, "labels of 'mine' run from 0 to 4; expected integers from 0 to 3"),
        ({"labels_N": np.arange(40) % 4 - 1}, "labels of 'mine' run from -1 to 2; expected integers from 0 to 3"),
        ({"labels_N": np.arange(30) % 4}, "are int64 (30,); expected 40 integers"),
        ({"labels_N": np.arange(40) % 4 / 1}, "are float64 (40,); expected 40 integers"),
        ({"images": np.zeros((40, 6, 6, 1), np.float32)}, "are float32 (40, 6, 6, 1); expected uint8 (0 to 255) [N, height,"),
        (
            {"images": np.zeros((40, 6, 6, 2), np.uint8)},
            "are uint8 (40, 6, 6, 2); expected uint8 (0 to 255) [N, height, width] or",
        ),
        ({"images": np.full((40, 6), np.nan)}, "features of 'mine' are not all finite"),
    ],
)
def test_arrays_of_a_dataset_that_do_not_fit_are_refused_in_one_line(change, message, monkeypatch):
    given = {"images": RNG.integers(0, 256, (40, 6, 6, 1), dtype=np.uint8), "labels_N": np.arange(40) % 4} | change
    stored = Stored("mine", "here", 4, {"train": 40, "test": 40}, lambda split: tuple(given.values()), (6, 6, 1))
    monkeypatch.setattr(datasets, "find_stored", lambda name, folder: stored)
    for split in ("train", "test"):
        with pytest.raises(UserError) as error:
            load("mine", split, size=6, channels=1)
        assert message in str(error.value) and "\n" not in str(error.value)


def test_float_features_of_a_dataset_become_bytes(monkeypatch):
    features_NX = RNG.normal(size=(40, 6))
    stored = Stored("mine", "here", 4, {"test": 40}, lambda split: (features_NX, np.arange(40) // 10), (1, 6, 1))
    monkeypatch.setattr(datasets, "find_stored", lambda name, folder: stored)
    expected = from_features("mine", features_NX).reshape(40, 6)
    np.testing.assert_array_equal(load("mine", "test").images_NX, expected)


def test_unknown_splits_list_what_there_is():
    with pytest.raises(UserError, match="train, validation, test"):
        load("digits", "dev")
    assert available()["digits"].startswith("ready: 8×8×1, 10 classes, train 1,200")


def test_a_set_that_is_too_large_stops_before_it_is_read(monkeypatch):
    def read(split):
        raise AssertionError("read")

    stored = Stored("huge", "here", 10, {"train": 10**9, "test": 10}, read, (32, 32, 3))
    monkeypatch.setattr(datasets, "find_stored", lambda name, folder: stored)
    with pytest.raises(UserError, match=r"'huge' needs 2.76e\+03 GB"):
        load("huge", "train")


def test_only_the_part_that_is_loaded_must_fit(monkeypatch):
    images = RNG.integers(0, 256, (1000, 8, 8, 1), dtype=np.uint8)
    stored = Stored("half", "here", 4, {"all": 1000}, lambda split: (images, np.arange(1000) % 4), (8, 8, 1))
    monkeypatch.setattr(datasets, "find_stored", lambda name, folder: stored)
    monkeypatch.setattr(resize, "device_memory", lambda: (20_000, "cuda:0"))
    load("half", "test")
    with pytest.raises(UserError, match="'half' needs"):
        load("half", "train")


@pytest.mark.parametrize("name", [*dict.fromkeys((*names("source"), *names("dataset"))), "digits+random"])
def test_every_source_and_dataset_draws_what_it_says_and_each_key_the_same(name):
    sources = name.split("+")
    if not all(available()[each].startswith("ready") for each in sources):
        pytest.skip(f"no {name} in TFDS_DATA_DIR")
    made = tuple(make_source(tiny_config(), each, "train") for each in sources)
    source, num_tasks = made[0] if len(made) == 1 else Mixture(made), 8
    drawing = Drawing(length=12, classes_per_task=min(10, source.num_classes), balanced=False)
    source.check(drawing)
    task_keys_T, keys_T = jax.random.split(jax.random.key(0), (2, num_tasks))

    def draw(task_key, key):
        return source.draw(task_key, key, drawing)

    together = jax.device_get(jax.jit(jax.vmap(draw))(task_keys_T, keys_T))
    assert together.pixels_LX.shape == (num_tasks, 12, source.num_features) and together.pixels_LX.dtype in (
        np.uint8,
        np.float32,
    )
    assert together.labels_L.shape == (num_tasks, 12) and together.labels_L.dtype == np.int32
    assert together.mean.shape == together.std.shape == (num_tasks,) and (together.std > 0).all()
    assert np.isfinite(together.pixels_LX).all() and np.isfinite(together.mean).all()
    assert 0 <= together.labels_L.min() < together.labels_L.max() < drawing.classes_per_task
    assert len({pixels_LX.tobytes() for pixels_LX in together.pixels_LX}) == num_tasks
    for number in (0, num_tasks - 1):
        alone = jax.jit(draw)(task_keys_T[number], keys_T[number])
        jax.tree.map(np.testing.assert_array_equal, alone, jax.tree.map(lambda leaf, number=number: leaf[number], together))
    shown_TSL = source.shown(task_keys_T, keys_T[:, None], drawing)
    assert shown_TSL is None or (shown_TSL.shape == (num_tasks, 1, 12) and len(np.unique(shown_TSL)) >= 2)
