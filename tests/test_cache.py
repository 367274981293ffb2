import logging
import os

import numpy as np
import pytest

from gpicl_jax.data.cache import cached, fingerprint

IMAGES, LABELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1), np.arange(2)


class Reader:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return IMAGES, LABELS


def same(arrays):
    np.testing.assert_array_equal(arrays[0], IMAGES)
    np.testing.assert_array_equal(arrays[1], LABELS)


@pytest.fixture
def reader(tmp_path, monkeypatch):
    monkeypatch.setenv("GPICL_CACHE_DIR", str(tmp_path / "cache"))
    return Reader()


def test_a_split_is_read_once_for_each_version_and_content(reader, tmp_path):
    for _ in range(2):
        same(cached("emnist/letters", "1.0.0", "train", "8 images", reader))
    assert reader.calls == 1
    for key in [("emnist/letters", "2.0.0", "train", "8 images"), ("emnist/letters", "1.0.0", "test", "8 images")]:
        cached(*key, reader)
    cached("emnist/letters", "1.0.0", "train", "9 images", reader)
    assert reader.calls == 4
    assert all(path.suffix == ".npz" for path in (tmp_path / "cache").iterdir())  # and no temporary file


def test_a_damaged_cache_is_rebuilt_with_a_word(reader, tmp_path, caplog):
    same(cached("mine", "1.0.0", "train", "", reader))
    (path,) = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 3] ^= 255  # a flipped pixel: only a checksum can tell
    for content in (b"", whole[:100], bytes(damaged), b"not a zip file at all"):
        path.write_bytes(content)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            same(cached("mine", "1.0.0", "train", "", reader))
        assert "is damaged" in caplog.text and "reading mine anew" in caplog.text
        assert path.read_bytes() == whole
    assert reader.calls == 5


def test_a_fingerprint_changes_with_any_file(tmp_path):
    (tmp_path / "set" / "a").mkdir(parents=True)
    file = tmp_path / "set" / "a" / "0.png"
    seen = [fingerprint(tmp_path / "set")]
    for content in (b"one", b"two", b"three"):
        file.write_bytes(content)
        os.utime(file, ns=(0, len(seen)))
        seen.append(fingerprint(tmp_path / "set"))
    file.rename(file.with_name("1.png"))
    seen.append(fingerprint(tmp_path / "set"))
    assert len(set(seen)) == 5 and fingerprint(tmp_path / "set") == seen[-1]


def test_a_cache_that_cannot_be_written_is_passed_over_with_a_word(reader, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("GPICL_CACHE_DIR", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        same(cached("mine", "1.0.0", "train", "", reader))
    assert "cannot write the cache file" in caplog.text
