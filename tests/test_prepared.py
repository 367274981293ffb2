"""TFDS folders of both formats, read without TensorFlow; the folders are written by `tests.prepared`."""

import importlib.util
import json
import shutil

import numpy as np
import pytest

from gpicl_jax.data.datasets import available
from gpicl_jax.data.prepared import masked_crc32c, prepared_names, read_prepared
from gpicl_jax.settings import UserError
from gpicl_jax.tasks.sources.images import load
from tests.prepared import png, write_prepared

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GPICL_CACHE_DIR", str(tmp_path / "cache"))


def some(number, *shape):
    """Images, and their records with labels 0, 1, 2, 0 …"""
    pixels = RNG.integers(0, 256, (number, *shape), dtype=np.uint8)
    return pixels, [(png(image), index % 3) for index, image in enumerate(pixels)]


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_both_formats_give_the_pixels_and_labels_that_were_written(tmp_path, file_format, monkeypatch):
    monkeypatch.setattr("gpicl_jax.data.prepared._AT_ONCE", 7)
    train, train_records = some(20, 8, 8)
    test, test_records = some(6, 8, 8)
    write_prepared(tmp_path, "tiny", {"train": train_records, "test": test_records}, file_format=file_format)
    stored = read_prepared("tiny", tmp_path)
    assert stored.counts == {"train": 20, "test": 6} and stored.num_classes == 10
    for _ in range(2):
        for split, pixels in (("train", train), ("test", test)):
            images_NHWc, labels_N = stored.read(split)
            np.testing.assert_array_equal(images_NHWc[..., 0], pixels)
            assert labels_N.tolist() == [index % 3 for index in range(len(pixels))]
        monkeypatch.setattr("gpicl_jax.data.prepared._records", None)  # the second time from the cache


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_one_bit_images_that_are_declared_as_colour_are_black_and_white(tmp_path, file_format):
    """Omniglot's trap: Pillow's arrays of them hold {0, 1}, other decoders' {0, 255}."""
    bits = RNG.integers(0, 2, (4, 9, 9), dtype=np.uint8) * 255
    records = [(png(image, mode="1"), index % 2) for index, image in enumerate(bits)]
    write_prepared(tmp_path, "ink", {"train": records}, file_format=file_format, shape=(9, 9, 3))
    np.testing.assert_array_equal(read_prepared("ink", tmp_path).read("train")[0][..., 0], bits)


def test_versions_and_configs_are_found_by_name(tmp_path):
    _, old_records = some(5, 8, 8)
    _, new_records = some(7, 8, 8)
    write_prepared(tmp_path, "tiny", {"train": old_records}, file_format="tfrecord", version="1.9.0")
    write_prepared(tmp_path, "tiny", {"train": new_records}, file_format="tfrecord", version="1.10.0")
    write_prepared(tmp_path, "emnist/letters", {"train": new_records}, file_format="array_record")
    (tmp_path / "downloads" / "extracted").mkdir(parents=True)
    assert read_prepared("tiny", tmp_path).counts == {"train": 7}
    assert read_prepared("tiny:1.9.0", tmp_path).counts == {"train": 5}
    letters = read_prepared("emnist/letters", tmp_path)
    assert letters.name == "emnist/letters" and letters.read("train")[0].shape == (7, 8, 8, 1)
    assert prepared_names(tmp_path) == ["emnist/letters", "tiny"]
    assert "ready: 8×8×1, 10 classes, train 7" in available(tmp_path)["tiny"]


def test_two_folders_of_one_set_do_not_share_a_cache(tmp_path):
    """A cut copy and the whole set have one name and version."""
    _, records = some(9, 8, 8)
    for folder, part in (("cut", records[:4]), ("whole", records)):
        write_prepared(tmp_path / folder, "tiny", {"train": part}, file_format="tfrecord")
    assert [len(read_prepared("tiny", tmp_path / folder).read("train")[1]) for folder in ("cut", "whole", "cut")] == [4, 9, 4]


def test_a_set_that_was_prepared_anew_is_read_anew(tmp_path):
    """The same version and the same sizes: only the labels were corrected."""
    _, records = some(9, 8, 8)
    write_prepared(tmp_path, "tiny", {"train": records}, file_format="tfrecord")
    assert read_prepared("tiny", tmp_path).read("train")[1].tolist() == [0, 1, 2] * 3
    shutil.rmtree(tmp_path / "tiny")
    write_prepared(tmp_path, "tiny", {"train": [(content, 2 - label) for content, label in records]}, file_format="tfrecord")
    assert read_prepared("tiny", tmp_path).read("train")[1].tolist() == [2, 1, 0] * 3


def test_a_set_of_several_forms_asks_for_one(tmp_path):
    for form in ("byclass", "letters"):
        write_prepared(tmp_path, f"emnist/{form}", {"train": some(5, 8, 8)[1]}, file_format="tfrecord")
    with pytest.raises(UserError, match="'emnist' has several forms; give one that is there: emnist/byclass, emnist/letters"):
        read_prepared("emnist", tmp_path)


def test_checksums_are_tfrecords():
    """CRC-32C of "123456789" is E3069283 (RFC 3720); masked as TFRecord does: rotated right by 15, plus 0xA282EAD8."""
    crc = 0xE3069283
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32
    assert masked_crc32c(b"123456789") == masked.to_bytes(4, "little")


@pytest.mark.parametrize("at", ["length", "label", "end"])
def test_a_flipped_bit_of_a_tfrecord_file_is_found(tmp_path, at):
    target = write_prepared(tmp_path, "tiny", {"train": some(6, 8, 8)[1]}, file_format="tfrecord")
    path = next(target.glob("*-train.*"))
    content = path.read_bytes()
    damage(path, {"length": 1, "label": content.index(b"label") + 12, "end": len(content) - 1}[at])
    with pytest.raises(UserError, match=r"is damaged (at|before) byte"):
        read_prepared("tiny", tmp_path).read("train")


def damage(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_damaged_sets_are_refused_in_one_line(tmp_path, file_format):
    def written(name, records, **options):
        target = write_prepared(tmp_path, name, {"train": records}, file_format=file_format, **options)
        return next(target.glob("*-train.*"))

    _, records = some(6, 8, 8)
    path = written("pixels", records)
    damage(path, path.read_bytes().index(b"IDAT") + 12)
    path = written("short", records)
    path.write_bytes(path.read_bytes()[:-30])
    written("absent", records).unlink()
    written("count", records, declared={"train": 7})
    written("label", [*records, (records[0][0], 10)])
    written("sizes", [*records, (png(np.zeros((9, 8), np.uint8)), 1)])
    written("one_class", [(content, 4) for content, _ in records])
    written("text", [(b"no image", label) for _, label in records])
    messages = {
        "pixels": "damaged|no readable image",
        "short": "damaged|ends within a record|has .* records",
        "absent": "lacks the file",
        "count": "damaged|records, its info says 7",
        "label": "labels of 'label' run from 0 to 10; expected integers from 0 to 9",
        "sizes": "mixes image sizes",
        "one_class": "one class only",
        "text": "no readable image",
    }
    for name, message in messages.items():
        with pytest.raises(UserError, match=message) as error:
            read_prepared(name, tmp_path).read("train")
        assert name in str(error.value) and "\n" not in str(error.value)


def test_info_that_cannot_be_read_is_refused(tmp_path):
    target = write_prepared(tmp_path, "tiny", {"train": some(5, 8, 8)[1]}, file_format="tfrecord")
    (target / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="no readable TFDS folder"):
        read_prepared("tiny", tmp_path)
    assert available(tmp_path)["tiny"].startswith("not usable: ")


def test_a_set_without_one_image_and_one_label_is_refused(tmp_path):
    target = write_prepared(tmp_path, "boxes", {"train": some(5, 8, 8)[1]}, file_format="tfrecord")
    info = json.loads((target / "dataset_info.json").read_text())
    del info["supervisedKeys"]
    (target / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="'boxes' is no image classification set with one label"):
        read_prepared("boxes", tmp_path)


def test_a_set_that_is_missing_comes_with_the_command_that_gets_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"pip install tensorflow .* && .*tfds build svhn_cropped --data_dir={tmp_path}"):
        load("svhn_cropped", "test", data_dir=tmp_path)
    assert available(tmp_path)["svhn_cropped"].startswith("missing: get it with: ")
    with pytest.raises(UserError, match=r"no dataset 'mnits'; did you mean mnist. A file or folder of your own"):
        load("mnits", "test", data_dir=tmp_path)
    with pytest.raises(UserError, match=r"separate several with spaces .*\]'\. A file"):
        load("mnist,digits", "test", data_dir=tmp_path)
    with pytest.raises(UserError, match="no form 'test' of dataset 'mnist'; there are: mnist alone"):
        load("mnist/test", "test", data_dir=tmp_path)
    with pytest.raises(UserError, match=r"no form '' of dataset 'emnist'; there are: emnist/balanced, emnist/byclass"):
        load("emnist", "test", data_dir=tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets").mkdir()
    with pytest.raises(UserError, match=r"for the folder of that name, give \./pets"):
        load("pets", "test", data_dir=tmp_path)


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    write_prepared(tmp_path, "tiny", {"train": some(30, 8, 8)[1]}, file_format="array_record")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert 12 < load("tiny", "train").num_images < 29
    assert "tiny" in available() and "tiny" not in available(tmp_path / "elsewhere")
