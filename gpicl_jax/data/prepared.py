"""Image classification sets of TensorFlow Datasets, read from folders that were prepared before, without TensorFlow."""

import functools
import importlib.util
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpicl_jax.config import short_name
from gpicl_jax.data.cache import cached
from gpicl_jax.data.decode import decode_images
from gpicl_jax.data.images import check_labels
from gpicl_jax.data.stored import Arrays, Stored
from gpicl_jax.settings import UserError

_AT_ONCE = 1000  # records; `__getitems__` on many is about ten times faster than one by one


class NotPrepared(UserError):
    """The set is not among the prepared ones."""


def data_folder(setting: str = "") -> Path:
    """Where prepared sets are: the setting data.dir, else `TFDS_DATA_DIR`, else TFDS's own ~/tensorflow_datasets."""
    return Path(setting or os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets").expanduser()


def read_prepared(name: str, folder: Path) -> Stored:
    """The set `name` (`mnist`, `emnist/letters`, `mnist:3.0.1`) in the folder of prepared sets.

    Raises:
      NotPrepared: it is not there.
      UserError: it cannot be read, or is no image classification set with one label.
    """
    path = _version_folder(name, folder)
    if path is None:
        raise NotPrepared(f"dataset '{name}' is not in {folder}; {how_to_get(name, folder)}")
    tfds = _tfds()
    try:
        builder = tfds.builder_from_directory(path)
    except Exception as error:  # TFDS raises what its parsers raise
        raise UserError(f"{path} is no readable TFDS folder ({_one_line(error)}); delete it and prepare it anew") from None
    image, label = _image_and_label(name, builder.info)
    splits = builder.info.splits
    shape = builder.info.features[image].shape
    return Stored(
        name=short_name(name),
        where=str(path),
        num_classes=builder.info.features[label].num_classes,
        counts={split: info.num_examples for split, info in splits.items()},
        read=functools.partial(_read_cached, name, builder, image, label),
        shape=tuple(shape),
    )


def prepare(name: str, folder: Path) -> None:
    """Downloads and prepares a set, with TFDS's own progress bars. Needs TensorFlow and a network.

    Raises:
      UserError: TensorFlow is not installed, or TFDS could not do it.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(f"dataset '{name}' is not in {folder}; {how_to_get(name, folder)}")
    import tensorflow

    tensorflow.config.set_visible_devices([], "GPU")  # it would take the memory that JAX trains in
    try:
        _tfds().builder(name, data_dir=folder, file_format="array_record").download_and_prepare()
    except Exception as error:
        raise UserError(f"could not download and prepare '{name}' into {folder}: {_one_line(error)}") from None


def known_name(name: str) -> bool:
    """Whether TFDS has a set of this name."""
    return name.split("/")[0].split(":")[0] in _tfds().list_builders(with_community_datasets=False)


def how_to_get(name: str, folder: Path) -> str:
    """The one command that gets a set that is missing."""
    install = "" if importlib.util.find_spec("tensorflow") else 'pip install "gpicl_jax[tf]" && '
    return f"get it with: {install}tfds build {name} --data_dir={folder} --file_format=array_record"


def prepared_names(folder: Path) -> list[str]:
    """Names of all sets in a folder of prepared sets."""
    infos = sorted([*folder.glob("*/*/dataset_info.json"), *folder.glob("*/*/*/dataset_info.json")])
    return sorted({info.parent.parent.relative_to(folder).as_posix() for info in infos if _is_version(info.parent.name)})


def _version_folder(name: str, folder: Path) -> Path | None:
    """The folder of the version asked for, or of the latest."""
    name, _, version = name.partition(":")
    versions = [path.parent for path in (folder / name).glob("*/dataset_info.json") if _is_version(path.parent.name)]
    if version:
        versions = [path for path in versions if path.name == version]
    return max(versions, key=lambda path: tuple(map(int, path.name.split("."))), default=None)


def _is_version(text: str) -> bool:
    return re.fullmatch(r"\d+\.\d+\.\d+", text) is not None


def _image_and_label(name: str, info: Any) -> tuple[str, str]:
    """The names of the one image and the one label in the features of a set."""
    features, tfds = info.features, _tfds()
    keys = info.supervised_keys
    if isinstance(keys, tuple) and len(keys) == 2 and all(isinstance(key, str) and key in features for key in keys):
        image, label = keys
        if isinstance(features[image], tfds.features.Image) and isinstance(features[label], tfds.features.ClassLabel):
            if features[image].np_dtype != np.uint8:
                raise UserError(f"images of '{name}' are {features[image].np_dtype}; expected 8 bits a channel")
            return image, label
    raise UserError(f"'{name}' is no image classification set with one label (its features: {', '.join(features)})")


def _read_cached(name: str, builder: Any, image: str, label: str, split: str) -> Arrays:
    info = builder.info.splits[split]
    try:
        origin = " ".join(
            [str(info.num_examples), *(f"{Path(path).name}:{Path(path).stat().st_size}" for path in info.filepaths)]
        )
    except OSError as error:
        raise UserError(f"'{name}' lacks a file: {error.filename}; delete the folder and prepare it anew") from None
    return cached(
        builder.info.full_name.rsplit("/", 1)[0],
        str(builder.version),
        split,
        origin,
        lambda: _read(builder, image, label, split),
    )


def _read(builder: Any, image: str, label: str, split: str) -> Arrays:
    name, info = builder.info.full_name, builder.info.splits[split]
    try:
        records = list(_records(builder, image, split))
    except UserError:
        raise
    except Exception as error:  # array_record and protobuf raise errors of their own
        raise UserError(
            f"records of '{name}' split '{split}' are damaged ({_one_line(error)}); delete and prepare it anew"
        ) from None
    if len(records) != info.num_examples:
        raise UserError(
            f"'{name}' split '{split}' has {len(records):,} records, its info says {info.num_examples:,}; prepare it anew"
        )
    labels_N = np.array([record[label] for record in records], np.int32)
    check_labels(name, labels_N, len(records), builder.info.features[label].num_classes)
    files = ((f"record {number} of '{split}'", record[image]) for number, record in enumerate(records))
    return decode_images(name, files), labels_N


def _records(builder: Any, image: str, split: str) -> Iterator[dict[str, Any]]:
    """The examples of a split as dictionaries; images stay encoded."""
    tfds = _tfds()
    keep = {image: tfds.decode.SkipDecoding()}
    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        source = builder.as_data_source(split=split, decoders=keep)
        for start in range(0, len(source), _AT_ONCE):
            yield from source.__getitems__(list(range(start, min(start + _AT_ONCE, len(source)))))
    elif builder.info.file_format == tfds.core.FileFormat.TFRECORD:
        for path in builder.info.splits[split].filepaths:
            for record in _tfrecords(Path(path)):
                yield builder.info.features.deserialize_example_np(record, decoders=keep)
    else:
        raise UserError(
            f"'{builder.info.full_name}' is stored as {builder.info.file_format.value}; expected array_record or tfrecord"
        )


def _tfrecords(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file: 8 bytes of length, 4 of its checksum, the record, 4 of its checksum."""
    with open(path, "rb") as file:
        while header := file.read(12):
            (length,) = struct.unpack("<Q", header[:8]) if len(header) == 12 else (0,)
            record = file.read(length)
            if len(header) < 12 or len(record) < length or len(file.read(4)) < 4:
                raise UserError(f"{path} ends within a record; delete the folder and prepare it anew")
            yield record


def _tfds() -> Any:
    import tensorflow_datasets

    return tensorflow_datasets


def _one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
