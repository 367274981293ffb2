"""Image classification sets of TensorFlow Datasets, read without TensorFlow from folders that were prepared before."""

import difflib
import functools
import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpicl_jax.data.cache import cached, fingerprint
from gpicl_jax.data.decode import decode_images
from gpicl_jax.data.stored import Arrays, Stored, check_labels
from gpicl_jax.sections import short_name
from gpicl_jax.settings import UserError, one_line

_AT_ONCE = 1000  # records; `__getitems__` on many is about ten times faster than one by one
_is_version = re.compile(r"\d+\.\d+\.\d+").fullmatch


class NotPrepared(UserError):
    """A TFDS set that is not in the folder of prepared sets."""

    def __init__(self, name: str, folder: Path) -> None:
        here = Path(sys.executable).parent  # the commands of this environment
        install = "" if importlib.util.find_spec("tensorflow") else f"{here}/pip install tensorflow importlib-resources && "
        build = f"{here}/tfds build {name} --data_dir={shlex.quote(str(folder))} --file_format=array_record"
        self.name, self.how_to_get = name, f"get it with: {install}{build}"
        super().__init__(f"dataset '{name}' is not in {folder}; {self.how_to_get}")


def data_folder(setting: str = "") -> Path:
    """Returns the folder of prepared sets: `setting`, else `TFDS_DATA_DIR`, else TFDS's own ~/tensorflow_datasets."""
    return Path(os.path.expanduser(setting or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))


def read_prepared(name: str, folder: Path) -> Stored:
    """Returns the set `name` (`mnist`, `emnist/letters`, `mnist:3.0.1`) from the folder of prepared sets.

    Raises:
      NotPrepared: the set is not in the folder.
      UserError: it cannot be read, or is no image classification set with one label.
    """
    path = _version_folder(name, folder)
    if path is None:
        configs = [each for each in prepared_names(folder) if each.startswith(f"{name}/")]
        if configs:
            raise UserError(f"dataset '{name}' has several forms; give one that is there: {', '.join(configs)}")
        raise NotPrepared(name, folder)
    return _open(name, path, fingerprint(path))


@functools.lru_cache(maxsize=8)
def _open(name: str, path: Path, origin: str) -> Stored:
    try:
        builder = _tfds().builder_from_directory(path)
    except Exception as error:  # TFDS raises what its parsers raise
        raise UserError(f"{path} is no readable TFDS folder ({one_line(error)}); delete it and prepare it anew") from None
    image, label = _image_and_label(name, builder.info)
    features, short = builder.info.features, short_name(name)
    return Stored(
        name=short,
        where=str(path),
        num_classes=features[label].num_classes,
        counts={split: info.num_examples for split, info in builder.info.splits.items()},
        read=lambda split: cached(short, path.name, split, origin, lambda: _read(name, builder, image, label, split)),
        shape=tuple(features[image].shape),
    )


@functools.lru_cache(maxsize=4)
def read_numbers(where: str, split: str, features: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    """Returns numeric features of every example of a split of the set in the folder `where`, [N] each. No image is decoded."""
    builder = _tfds().builder_from_directory(where)
    image, _ = _image_and_label(where, builder.info)
    records = list(_records(builder, image, split))
    return tuple(np.array([record[feature] for record in records]) for feature in features)


def download(name: str, folder: Path) -> None:
    """Downloads and prepares a set, with TFDS's own progress bars. Needs TensorFlow and a network.

    Raises:
      UserError: TensorFlow is not installed, or TFDS could not do it.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise NotPrepared(name, folder)
    try:
        import tensorflow

        tensorflow.config.set_visible_devices([], "GPU")  # it would take the memory that JAX trains in
        _tfds().builder(name, data_dir=folder, file_format="array_record").download_and_prepare()
    except Exception as error:
        raise UserError(f"could not download and prepare '{name}' into {folder}: {one_line(error)}") from None


def check_name(name: str) -> None:
    """Raises `UserError` unless TFDS has a set of this name, with this config where the set has several."""
    tfds = _tfds()
    base, _, config = name.split(":")[0].partition("/")
    known = tfds.list_builders(with_community_datasets=False)
    if base not in known:
        close = difflib.get_close_matches(name, ["digits", "random", *known], n=1)
        hint = f"did you mean {close[0]}?" if close else "see 'gpicl datasets'."
        if "," in name:
            hint = 'separate several with spaces after --datasets, or as --data.train=\'["a", "b"]\'.'
        raise UserError(f"no dataset '{name}'; {hint} A file or folder of your own is given as ./file.npz or ./folder")
    configs = sorted(tfds.builder_cls(base).builder_configs)
    if config not in configs and (config or configs):
        forms = ", ".join(f"{base}/{each}" for each in configs) or f"{base} alone (gpicl chooses the splits)"
        raise UserError(f"no form '{config}' of dataset '{base}'; there are: {forms}")


def prepared_names(folder: Path) -> list[str]:
    """Returns the names of all sets in a folder of prepared sets."""
    infos = sorted([*folder.glob("*/*/dataset_info.json"), *folder.glob("*/*/*/dataset_info.json")])
    return sorted({info.parent.parent.relative_to(folder).as_posix() for info in infos if _is_version(info.parent.name)})


def _version_folder(name: str, folder: Path) -> Path | None:
    """Returns the folder of the version in `name`, or else of the latest version."""
    name, _, version = name.partition(":")
    versions = [path.parent for path in (folder / name).glob("*/dataset_info.json") if _is_version(path.parent.name)]
    wanted = [path for path in versions if version in ("", path.name)]
    return max(wanted, key=lambda path: tuple(map(int, path.name.split("."))), default=None)


def _image_and_label(name: str, info: Any) -> tuple[str, str]:
    """Returns the names of the one image and the one label among the features of a set."""
    features, keys, kinds = info.features, info.supervised_keys, (_tfds().features.Image, _tfds().features.ClassLabel)
    found = [features[key] if isinstance(key, str) and key in features else None for key in keys or ()]
    if len(found) != 2 or not all(map(isinstance, found, kinds)):
        raise UserError(f"'{name}' is no image classification set with one label (its features: {', '.join(features)})")
    if found[0].np_dtype != np.uint8:
        raise UserError(f"images of '{name}' are {found[0].np_dtype}; expected 8 bits a channel")
    return keys


def _read(name: str, builder: Any, image: str, label: str, split: str) -> Arrays:
    info = builder.info.splits[split]
    absent = [str(path) for path in info.filepaths if not Path(path).is_file()]
    if absent:
        raise UserError(f"'{name}' lacks the file {absent[0]}; delete the folder and prepare it anew")
    try:
        records = list(_records(builder, image, split))
    except UserError:
        raise
    except Exception as error:  # array_record and protobuf raise errors of their own
        raise UserError(f"records of '{name}' {split} are damaged ({one_line(error)}); prepare it anew") from None
    if len(records) != info.num_examples:
        raise UserError(f"'{name}' {split} has {len(records):,} records, its info says {info.num_examples:,}; prepare it anew")
    labels_N = np.array([record[label] for record in records], np.int32)
    check_labels(name, labels_N, len(records), builder.info.features[label].num_classes)
    files = ((f"record {number} of '{split}'", record[image]) for number, record in enumerate(records))
    return decode_images(name, files), labels_N


def _records(builder: Any, image: str, split: str) -> Iterator[dict[str, Any]]:
    """Yields the examples of a split as dictionaries, with encoded images."""
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
    """Yields the records of a TFRecord file: 8 bytes of length, 4 of its checksum, the record, 4 of its checksum."""
    with open(path, "rb") as file:
        while header := file.read(12):
            length = int.from_bytes(header[:8], "little")
            if masked_crc32c(header[:8]) != header[8:]:
                raise UserError(f"{path} is damaged at byte {file.tell() - len(header)}; delete the folder and prepare it anew")
            record = file.read(length)
            if masked_crc32c(record) != file.read(4):
                raise UserError(f"{path} is damaged before byte {file.tell()}; delete the folder and prepare it anew")
            yield record


def masked_crc32c(content: bytes) -> bytes:
    """Returns TFRecord's checksum: CRC-32C (RFC 3720, appendix B.4), turned by 15 bits, plus a constant, little-endian."""
    crc, table = 0xFFFFFFFF, _crc_table()
    for byte in content:
        crc = table[(crc ^ byte) & 255] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


@functools.cache
def _crc_table() -> list[int]:
    table = np.arange(256)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, 0x82F63B78, 0)
    return table.tolist()


def _tfds() -> Any:
    import tensorflow_datasets

    return tensorflow_datasets
