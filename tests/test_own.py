from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpicl_jax.data import datasets
from gpicl_jax.data.own import read_own
from gpicl_jax.data.stored import Stored
from gpicl_jax.settings import UserError

RNG = np.random.default_rng(0)


def save(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def images(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5, 4, 1), (6, 5, 4, 3)])
def test_an_npz_file_is_read_as_it_is(tmp_path, shape):
    pixels, labels = images(*shape), np.array([0, 1, 2, 0, 1, 2])
    stored = read_own(save(tmp_path / "mine.npz", images=pixels, labels=labels))
    read, read_labels = stored.read("all")
    np.testing.assert_array_equal(read.reshape(shape), pixels)
    np.testing.assert_array_equal(read_labels, labels)
    assert stored.name == "mine.npz" and stored.num_classes == 3 and stored.counts == {"all": 6} and read.ndim == 4


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": images(4, 3, 3)}, "no array 'labels'; expected 'images' and 'labels', found: images"),
        ({"x": images(4, 3, 3), "labels": np.arange(4)}, "no array 'images'"),
        ({"images": images(4, 3, 3) / 255, "labels": np.arange(4)}, "are float64 .* expected uint8"),
        ({"images": images(4, 9), "labels": np.arange(4)}, r"expected uint8 \(0 to 255\) \[N, height, width"),
        ({"images": images(4, 0, 3), "labels": np.arange(4)}, r"uint8 \(4, 0, 3\); expected"),
        ({"images": images(4, 3, 3, 4), "labels": np.arange(4)}, r"\(4, 3, 3, 4\)"),
        ({"images": images(4, 3, 3), "labels": np.arange(3)}, "expected 4 integers"),
        ({"images": images(4, 3, 3), "labels": np.arange(4) / 2}, "expected 4 integers"),
        ({"images": images(4, 3, 3), "labels": np.arange(4) - 1}, "run from -1 to 2"),
        ({"images": images(4, 3, 3), "labels": np.zeros(4, int)}, "one class only"),
        ({"images": images(4, 3, 3), "labels": np.array(list("abcd"), object)}, "holds Python objects"),
    ],
)
def test_an_npz_file_that_does_not_fit_is_refused_in_one_line(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message) as error:
        read_own(save(tmp_path / "mine.npz", **arrays))
    assert "mine.npz" in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_no_npz_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("not a zip")
    (tmp_path / "text.txt").write_text("text")
    for name, message in [
        ("text.npz", "is no .npz file; save it with numpy.savez"),
        ("text.txt", "neither a folder"),
        ("absent", "check the path"),
    ]:
        with pytest.raises(UserError, match=message):
            read_own(str(tmp_path / name))


def test_a_damaged_npz_file_is_refused_in_one_line_or_read_as_it_was(tmp_path):
    """Whatever byte is hit: a clean error, or (in a byte that nothing depends on) the same arrays."""
    pixels = images(4, 3, 3)
    path = save(tmp_path / "mine.npz", images=pixels, labels=np.arange(4))
    whole = (tmp_path / "mine.npz").read_bytes()
    refused = 0
    for at in range(0, len(whole), 7):
        (tmp_path / "mine.npz").write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            np.testing.assert_array_equal(read_own(path).read("all")[0][..., 0], pixels)
        except UserError as error:
            refused += 1
            assert "mine.npz" in str(error)
    assert refused > 20


def write_folder(root, classes, suffix=".png", convert=None):
    for name, pixels in classes.items():
        (root / name).mkdir(parents=True)
        for number, image in enumerate(pixels):
            picture = Image.fromarray(image)
            (picture.convert(convert) if convert else picture).save(root / name / f"{number:03}{suffix}")
    return root


def test_a_folder_has_its_classes_in_the_order_of_their_names(tmp_path):
    cats, dogs = images(3, 6, 5, 3), images(2, 6, 5, 3)
    root = write_folder(tmp_path / "pets.v1", {"dogs": dogs, "cats": cats})
    (root / "cats" / "notes.txt").write_text("not an image")
    (root / ".hidden").mkdir()
    stored = read_own(str(root))
    read, labels = stored.read("all")
    np.testing.assert_array_equal(read, np.concatenate([cats, dogs]))
    assert labels.tolist() == [0, 0, 0, 1, 1] and stored.shape == (6, 5, 3)


def test_grey_images_stay_grey_and_one_bit_images_are_black_and_white(tmp_path):
    pixels = images(4, 6, 5)
    grey, _ = read_own(str(write_folder(tmp_path / "grey", {"a": pixels[:2], "b": pixels[2:]}))).read("all")
    np.testing.assert_array_equal(grey[..., 0], pixels)
    bits = (pixels > 127).astype(np.uint8) * 255
    classes = {"a": bits[:2], "b": bits[2:]}
    read, _ = read_own(str(write_folder(tmp_path / "bits", classes, convert="1"))).read("all")
    np.testing.assert_array_equal(read[..., 0], bits)
    clear = np.dstack([pixels[0], pixels[0], pixels[0], np.zeros_like(pixels[0])])  # fully transparent: white paper
    classes = {"a": [clear], "b": [clear]}
    assert (read_own(str(write_folder(tmp_path / "clear", classes))).read("all")[0] == 255).all()
    mixed = {"a": pixels[:2], "b": images(2, 6, 5, 3)}
    read, _ = read_own(str(write_folder(tmp_path / "mixed", mixed))).read("all")
    assert read.shape == (4, 6, 5, 3)
    np.testing.assert_array_equal(read[:2], np.repeat(pixels[:2, :, :, None], 3, axis=3))


def test_folders_that_do_not_fit_are_refused_in_one_line(tmp_path):
    one = write_folder(tmp_path / "one", {"a": images(2, 6, 5)})
    empty = write_folder(tmp_path / "empty", {"a": images(2, 6, 5), "b": []})
    sizes = write_folder(tmp_path / "sizes", {"a": images(2, 6, 5), "b": images(2, 7, 5)})
    damaged = write_folder(tmp_path / "damaged", {"a": images(2, 6, 5), "b": images(2, 6, 5)})
    (damaged / "b" / "001.png").write_bytes((damaged / "b" / "000.png").read_bytes()[:60])
    deep = write_folder(tmp_path / "deep", {"a": images(2, 6, 5)})
    (deep / "b").mkdir()
    Image.fromarray(np.arange(30, dtype=np.uint16).reshape(6, 5) * 2000).save(deep / "b" / "0.png")
    for root, message in [
        (one, "has only 'a' of the class folders"),
        (empty, "b has no image"),
        (sizes, r"mixes image sizes: a/000.png is 5×6 pixels, b/000.png is 5×7"),
        (damaged, "b/001.png is no readable image"),
        (deep, "more than 8 bits a channel"),
        (tmp_path / "one" / "a", "has none of the class folders"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            read_own(str(root))
        assert "\n" not in str(error.value)


def test_a_set_with_other_images_than_it_says_is_refused(monkeypatch):
    images_NHWc, labels_N = images(20, 4, 4, 1), np.arange(20) % 2
    stored = Stored("mine", "here", 2, {"all": 30}, lambda split: (images_NHWc, labels_N), (4, 4, 1))
    monkeypatch.setattr(datasets, "find_stored", lambda name, folder: stored)
    with pytest.raises(UserError, match="'mine' all has 20 images, but says 30; correct it"):
        datasets.read_split("mine", "train", Path(), size=None, channels=None, standardize=True)
