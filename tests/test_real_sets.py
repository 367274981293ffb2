"""The real sets, where they are in TFDS_DATA_DIR; nothing else needs them."""

import hashlib

import numpy as np
import pytest

from gpicl_jax.data.prepared import data_folder, read_prepared
from gpicl_jax.data.stored import pixel_statistics
from gpicl_jax.tasks import TaskDistribution
from gpicl_jax.tasks.sources.images import load

FOLDER = data_folder()

MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
EXPECTED = {
    ("mnist", "train"): ((60000, 28, 28, 1), MNIST_TRAIN, "ef80b4281e56b21d"),
    ("mnist", "test"): ((10000, 28, 28, 1), MNIST_TEST, "670e94e863b684ad"),
    ("fashion_mnist", "train"): ((60000, 28, 28, 1), [6000] * 10, "1fc8802f422a8de6"),
    ("fashion_mnist", "test"): ((10000, 28, 28, 1), [1000] * 10, "1c706ad5aa51c27f"),
    ("kmnist", "test"): ((10000, 28, 28, 1), [1000] * 10, "da7b541defacf528"),
    ("cifar10", "train"): ((8000, 32, 32, 3), [800] * 10, "ea1dd03b91df6bc4"),
    ("cifar10", "test"): ((10000, 32, 32, 3), [1000] * 10, "cd4dc87c53621e75"),
    ("omniglot", "train"): ((19280, 105, 105, 1), [20] * 964, "80c66f2d6e7be93f"),
    ("omniglot", "test"): ((13180, 105, 105, 1), [0] * 964 + [20] * 659, "0e36750d369e1bdb"),
    ("omniglot", "small1"): ((2720, 105, 105, 1), None, "4e6786c96cd105a1"),
    ("omniglot", "small2"): ((3120, 105, 105, 1), None, "5fb520efa307bd71"),
}


def stored(name):
    if not (FOLDER / name).is_dir():
        pytest.skip(f"no {name} in TFDS_DATA_DIR")
    return read_prepared(name, FOLDER)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPICL_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize(("name", "split"), EXPECTED)
def test_pixels_and_labels_are_the_known_ones_from_the_records_and_from_the_cache(name, split):
    shape, counts, digest = EXPECTED[name, split]
    if (name, split) == ("cifar10", "train") and stored(name).counts[split] == 50_000:
        pytest.skip("the whole of CIFAR-10; known are 8,000 of its training images")
    for _ in range(2):
        images_NHWc, labels_N = stored(name).read(split)
        assert images_NHWc.shape == shape
        assert counts is None or np.bincount(labels_N).tolist() == counts
        content = images_NHWc.tobytes() + labels_N.astype("<i4").tobytes()
        assert hashlib.sha256(content).hexdigest()[:16] == digest


def test_omniglot_is_black_and_white():
    images_NHWc, _ = stored("omniglot").read("small1")
    assert set(np.unique(images_NHWc)) == {0, 255} and images_NHWc.mean() > 200  # ink is the low value


def test_omniglots_training_classes_are_divided_so_that_every_part_can_fill_an_episode():
    stored("omniglot")
    parts = [load("omniglot", split, size=8, channels=1, data_dir=FOLDER) for split in ("train", "validation", "test")]
    classes = [set(part.present_P.tolist()) for part in parts]
    assert (
        len(classes[0] | classes[1]) == 964 and len(classes[0] & classes[1]) == 0 and not classes[2] & (classes[0] | classes[1])
    )
    for part in parts:
        TaskDistribution(part, length=100)


def test_kmnist_has_test_images_only_and_says_so():
    if set(stored("kmnist").counts) != {"test"}:
        pytest.skip("KMNIST has training images here")
    kmnist = load("kmnist", "test", size=8, channels=1, data_dir=FOLDER)
    assert kmnist.statistics == "test" and kmnist.num_features == 64
    np.testing.assert_allclose(kmnist.mean, np.asarray(kmnist.images_NX, np.float64).mean(), rtol=1e-6)


def test_train_and_validation_images_of_a_real_set_are_disjoint():
    stored("mnist")
    rows = {}
    for split in ("train", "validation", "test"):
        images_NX = np.asarray(load("mnist", split, data_dir=FOLDER).images_NX)
        rows[split] = {hashlib.sha1(row.tobytes()).digest() for row in images_NX}
    assert len(rows["test"]) == 10000 and len(rows["train"]) + len(rows["validation"]) == 60000
    assert abs(len(rows["validation"]) - 6000) < 4 * (60000 * 0.09) ** 0.5
    assert not (rows["train"] & rows["validation"] or rows["train"] & rows["test"] or rows["validation"] & rows["test"])


def test_mnist_has_its_published_mean_and_deviation():
    images_NHWc, _ = stored("mnist").read("train")
    mean, std = pixel_statistics(images_NHWc)
    assert round(mean / 255, 4) == 0.1307 and round(std / 255, 4) == 0.3081
