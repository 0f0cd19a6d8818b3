"""Whether a LeRobotDataset is made as it says: version, columns and types, totals, and numbering."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from blm.pipelines.datasets import lerobot_schema as schema
from blm.pipelines.inspection import arrays
from blm.pipelines.inspection.lerobot import Damage, DatasetFolder
from blm.pipelines.inspection.track import Track

DECLARED = {"float16": "halffloat", "float32": "float", "float64": "double", "bool": "bool", "string": "string"}
"""Arrow's names of the types that info.json names otherwise."""


def check_schema(dataset: DatasetFolder) -> None:
    """Version, and every data file's columns against the declared features."""
    findings, info = dataset.findings, dataset.info
    if info.get("codebase_version") != schema.CODEBASE_VERSION:
        findings.error(
            "schema",
            f"codebase_version is {info.get('codebase_version')}, not {schema.CODEBASE_VERSION}; convert it with"
            " lerobot's own script",
        )
    if not dataset.fps > 0:
        findings.error("schema", f"fps is {info.get('fps')}")
    for name in schema.DEFAULT_FEATURES:
        if name not in dataset.features:
            findings.error("schema", "info.json lacks a feature that every dataset has", name)
    for name in dataset.features:
        if "/" in name:
            findings.error("schema", "a feature's name holds a slash", name)
    n_columns = 0
    for path in dataset.files:
        try:
            with pq.ParquetFile(path) as file:
                columns = file.schema_arrow
        except Damage:
            continue  # named where it is read
        n_columns = len(columns.names)
        _check_columns(dataset, path, columns)
    findings.looked_at(
        "schema", f"{len(dataset.features)} features, {n_columns} of them columns, format {schema.CODEBASE_VERSION}"
    )


def _check_columns(dataset: DatasetFolder, path: Path, columns: pa.Schema) -> None:
    findings, where = dataset.findings, str(path.relative_to(dataset.root))
    stored = {name for name, feature in dataset.features.items() if feature.get("dtype") != "video"}
    for name in sorted(stored - set(columns.names)):
        findings.error("schema", f"{name} is declared but is no column", where)
    for name in sorted(set(columns.names) - stored):
        findings.error("schema", f"column {name} is not declared; lerobot refuses such a dataset", where)
    for name in sorted(stored & set(columns.names)):
        problem = type_problem(dataset.features[name], columns.field(name).type)
        if problem:
            findings.error("schema", f"{name} {problem}", where)


def type_problem(feature: dict[str, Any], kind: pa.DataType) -> str:
    """How a column's type differs from what its feature declares; empty if it does not."""
    dtype, shape = str(feature.get("dtype")), tuple(feature.get("shape") or ())
    kind = getattr(kind, "storage_type", kind)
    if dtype == "image":
        bytes_there = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        return "" if bytes_there else f"is declared as image but stored as {kind}"
    depth = 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        if pa.types.is_fixed_size_list(kind) and depth < len(shape) and kind.list_size != shape[depth]:
            return f"has {kind.list_size} values a frame, declared {shape[depth]}"
        kind, depth = kind.value_type, depth + 1
    if depth != (0 if shape in ((), (1,)) else len(shape)):
        return f"has {depth} dimensions, declared shape {list(shape)}"
    if str(kind) != DECLARED.get(dtype, dtype):
        return f"is stored as {kind}, declared {dtype}"
    return ""


class Numbering:
    """Checks, episode by episode, how frames are numbered and timed, and at the end the totals."""

    def __init__(self, dataset: DatasetFolder) -> None:
        self.dataset = dataset
        self.lengths: dict[int, int] = {}
        self.next_episode: int | None = 0
        self.next_index: int | None = 0

    def add(self, track: Track) -> None:
        """One episode."""
        findings, values = self.dataset.findings, track.values
        length = len(next(iter(values.values()), ()))
        if track.number in self.lengths:
            findings.error("index", "episode_index comes back after other episodes", track.label)
        elif self.next_episode is not None and track.number != self.next_episode and not self.dataset.damaged:
            findings.error("index", "episode_index does not go on by one", track.label)
        self.next_episode = track.number + 1
        self.lengths[track.number] = self.lengths.get(track.number, 0) + length
        self._check_counter(track, "frame_index", 0)
        if "index" in values:
            start = int(values["index"][0]) if self.dataset.damaged or self.next_index is None else self.next_index
            self._check_counter(track, "index", start)
            self.next_index = int(values["index"][-1]) + 1
        if "timestamp" in values and self.dataset.fps > 0:
            self._check_time(track)
        row = self.dataset.meta.get(track.number)
        if row is not None and row.get("length") != length and not self.dataset.damaged:
            findings.error("totals", "meta/episodes gives another length than the data", track.label)
        if "task_index" in values and self.dataset.tasks:
            unknown = set(np.unique(values["task_index"]).tolist()) - set(self.dataset.tasks)
            if unknown:
                findings.error("index", "task_index without a task in meta/tasks.parquet", track.label)

    def _check_counter(self, track: Track, name: str, first: int) -> None:
        counted = track.values.get(name)
        if counted is None:
            return
        places = arrays.breaks(counted.reshape(-1), first)
        if len(places):
            self.dataset.findings.error("index", f"{name} does not go on by one", f"{track.label} frame {places[0]}")

    def _check_time(self, track: Track) -> None:
        gaps, jitter = arrays.time_gaps(track.values["timestamp"].reshape(-1), self.dataset.fps)
        frame_s = 1 / self.dataset.fps
        if len(gaps):
            self.dataset.findings.error(
                "time",
                f"frames missing or doubled: timestamps leap by half a frame ({frame_s / 2:.3f} s) or more",
                f"{track.label} frame {gaps[0]}",
                count=len(gaps),
            )
        if len(jitter):
            self.dataset.findings.warn(
                "time",
                f"timestamps are not multiples of {frame_s:.4g} s; lerobot allows {arrays.TIMESTAMP_TOLERANCE_S} s",
                f"{track.label} frame {jitter[0]}",
                count=len(jitter),
            )

    def finish(self) -> None:
        """Totals, once every episode was seen."""
        dataset, findings = self.dataset, self.dataset.findings
        counted = {"total_episodes": len(self.lengths), "total_frames": sum(self.lengths.values())}
        unread = " that could be read" if dataset.damaged else ""
        for name, count in counted.items():
            if dataset.info.get(name) != count:
                findings.error(
                    "totals", f"info.json says {name} {dataset.info.get(name)}, the data hold {count}{unread}"
                )
        if dataset.tasks and dataset.info.get("total_tasks", len(dataset.tasks)) != len(dataset.tasks):
            findings.error(
                "totals",
                f"info.json says total_tasks {dataset.info['total_tasks']}, meta/tasks.parquet {len(dataset.tasks)}",
            )
        for number in sorted(set(dataset.meta) - set(self.lengths)):
            findings.error("totals", "in meta/episodes but not in the data", f"episode {number}")
        if dataset.meta:
            for number in sorted(set(self.lengths) - set(dataset.meta)):
                findings.error("totals", "in the data but not in meta/episodes", f"episode {number}")
        for number, row in dataset.meta.items():
            declared = (row.get("dataset_to_index") or 0) - (row.get("dataset_from_index") or 0)
            if "dataset_from_index" in row and declared != row.get("length"):
                findings.error(
                    "totals", "dataset_from_index and dataset_to_index do not span its length", f"episode {number}"
                )
        frames, episodes = counted["total_frames"], counted["total_episodes"]
        findings.looked_at(
            "totals", f"{episodes} episodes and {frames} frames in info.json, meta/episodes and the data"
        )
        findings.looked_at(
            "files", f"{len(dataset.files)} data file{'s' if len(dataset.files) != 1 else ''} read to the end"
        )
        findings.looked_at("index", "frames and episodes are numbered without gaps")
        if dataset.fps > 0:
            findings.looked_at("time", f"a frame every {1 / dataset.fps:.4g} s")
