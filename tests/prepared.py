"""Writes small TFDS folders as TFDS itself would leave them, without TensorFlow."""

import io
import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from gpicl_jax.data.prepared import masked_crc32c


def png(image: np.ndarray, mode: str | None = None) -> bytes:
    """The PNG bytes of a uint8 image [height, width] or [height, width, 3]; `mode` converts it first."""
    file = io.BytesIO()
    picture = Image.fromarray(image)
    (picture.convert(mode) if mode else picture).save(file, format="PNG")
    return file.getvalue()


def write_prepared(
    folder: Path,
    name: str,
    splits: dict[str, list[tuple[bytes, int]]],
    *,
    file_format: str,
    shape: tuple[int, int, int] = (8, 8, 1),
    num_classes: int = 10,
    version: str = "1.0.0",
    declared: dict[str, int] | None = None,
) -> Path:
    """A prepared set of (image bytes, label) records; `declared` overrides the counts in its info."""
    target = folder / name / version
    target.mkdir(parents=True)
    for split, records in splits.items():
        path = target / f"{name.split('/')[0]}-{split}.{file_format}-00000-of-00001"
        _WRITERS[file_format](path, [_example(content, label) for content, label in records])
    info = {
        "name": name.split("/")[0],
        "version": version,
        "fileFormat": file_format,
        "moduleName": "tests.prepared",
        "splits": [
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": "1",
                "shardLengths": [str((declared or {}).get(split, len(records)))],
            }
            for split, records in splits.items()
        ],
        "supervisedKeys": {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}},
    }
    if "/" in name:
        info["configName"] = name.split("/")[1]
    features = "tensorflow_datasets.core.features."
    image = {"dtype": "uint8", "shape": {"dimensions": [str(size) for size in shape]}}
    classes = {
        "image": {"pythonClassName": features + "image_feature.Image", "image": image},
        "label": {
            "pythonClassName": features + "class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(num_classes)},
        },
    }
    whole = {"pythonClassName": features + "features_dict.FeaturesDict", "featuresDict": {"features": classes}}
    (target / "dataset_info.json").write_text(json.dumps(info))
    (target / "features.json").write_text(json.dumps(whole))
    return target


def _example(content: bytes, label: int) -> bytes:
    from tensorflow_datasets.core.example_parser import tf_example_pb2

    example = tf_example_pb2.Example()
    example.features.feature["image"].bytes_list.value.append(content)
    example.features.feature["label"].int64_list.value.append(label)
    return example.SerializeToString()


def _write_tfrecord(path: Path, records: list[bytes]) -> None:
    with open(path, "wb") as file:
        for record in records:
            length = struct.pack("<Q", len(record))
            file.write(length + masked_crc32c(length) + record + masked_crc32c(record))


def _write_array_record(path: Path, records: list[bytes]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


_WRITERS = {"tfrecord": _write_tfrecord, "array_record": _write_array_record}
