"""What a LeRobotDataset v3.0 column is, in Arrow and in NumPy.

A feature of shape (1,) is a scalar column, of shape (n,) a fixed-size list, of two dimensions a list of lists
(what the `datasets` library keeps an Array2D in), and a picture is a struct of its encoded bytes and a path
that stays null. Pictures may instead be frames of MP4 files (`lerobot_video`); then there is no column for them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

CODEBASE_VERSION = "v3.0"
CHUNKS_SIZE = 1000
"""Files per `chunk-XXX` folder."""
DATA_FILES_SIZE_MB = 100
VIDEO_FILES_SIZE_MB = 200
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
TASKS_PATH = "meta/tasks.parquet"
STATS_PATH = "meta/stats.json"
INFO_PATH = "meta/info.json"

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_ARROW_TYPES = {"float32": pa.float32(), "float64": pa.float64(), "int64": pa.int64(), "bool": pa.bool_()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """One column of a dataset."""

    dtype: str
    """`float32`, `float64`, `int64`, `bool`, `image` or `video`."""
    shape: tuple[int, ...]
    """Of one frame's value; pictures are (height, width, 3)."""
    names: tuple[str, ...] | None = None
    """What the entries of the value are called."""

    @property
    def is_picture(self) -> bool:
        """Whether a frame's value is a picture, wherever that is kept."""
        return self.dtype in ("image", "video")

    @property
    def is_video(self) -> bool:
        """Whether the pictures are in MP4 files instead of a column."""
        return self.dtype == "video"

    @property
    def arrow_type(self) -> pa.DataType:
        """The column's type in the data files, or as a reader fills it in from videos."""
        if self.is_picture:
            return IMAGE_TYPE
        value = _ARROW_TYPES[self.dtype]
        if self.shape == (1,):
            return value
        if len(self.shape) == 1:
            return pa.list_(value, self.shape[0])
        if len(self.shape) == 2:
            return pa.list_(pa.list_(value))
        raise ValueError(f"a feature has one or two dimensions, not {self.shape}")

    def to_json(self) -> dict[str, Any]:
        """As written in info.json."""
        return {
            "dtype": self.dtype,
            "shape": list(self.shape),
            "names": list(self.names) if self.names else None,
        }


def image_feature(image_px: int, *, video: bool = False) -> Feature:
    """A square colour picture."""
    dtype = "video" if video else "image"
    return Feature(dtype=dtype, shape=(image_px, image_px, 3), names=("height", "width", "channels"))


DEFAULT_FEATURES: dict[str, Feature] = {
    "timestamp": Feature(dtype="float32", shape=(1,)),
    "frame_index": Feature(dtype="int64", shape=(1,)),
    "episode_index": Feature(dtype="int64", shape=(1,)),
    "index": Feature(dtype="int64", shape=(1,)),
    "task_index": Feature(dtype="int64", shape=(1,)),
}
"""Columns every dataset ends with, in the order the format demands."""


def image_array(pictures: Sequence[bytes]) -> pa.Array:
    """Encoded pictures as a column."""
    paths = pa.nulls(len(pictures), pa.string())
    return pa.StructArray.from_arrays([pa.array(pictures, pa.binary()), paths], fields=list(IMAGE_TYPE))


def numeric_array(feature: Feature, values: npt.NDArray[Any]) -> pa.Array:
    """Values [n, *shape] (or [n] for a scalar feature) as a column. ValueError for another shape."""
    n = len(values)
    if feature.shape == (1,) and values.ndim == 1:
        values = values[:, None]
    if values.shape != (n, *feature.shape):
        raise ValueError(f"values of shape {values.shape} for a feature of shape {feature.shape}")
    array = pa.array(np.ascontiguousarray(values, dtype=feature.dtype).reshape(-1))
    if feature.shape == (1,):
        return array
    if len(feature.shape) == 1:
        return pa.FixedSizeListArray.from_arrays(array, feature.shape[0])
    rows, columns = feature.shape
    inner = pa.ListArray.from_arrays(np.arange(n * rows + 1, dtype=np.int32) * columns, array)
    return pa.ListArray.from_arrays(np.arange(n + 1, dtype=np.int32) * rows, inner)


def column_values(feature: Feature, column: pa.ChunkedArray | pa.Array) -> npt.NDArray[Any]:
    """A numeric column as an array [n, *shape]; scalars too come as [n, 1]."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    n = len(array)
    while pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    values = array.to_numpy(zero_copy_only=False).astype(feature.dtype, copy=False)
    if values.size != n * math.prod(feature.shape):
        raise ValueError(f"{values.size} values in {n} frames of shape {feature.shape}")
    return values.reshape(n, *feature.shape)


def column_pictures(column: pa.ChunkedArray | pa.Array) -> list[bytes]:
    """A picture column as encoded bytes, one a frame."""
    return pc.struct_field(column, "bytes").to_pylist()
