"""Whether pictures are pictures: every one of them by its beginning and end, a sample by decoding it.

A picture cut short lacks its format's end mark, and two equal ones have equal bytes, so that much is known of every
frame without decoding any. Of videos, whole episodes are sampled, as frames cannot be had one by one cheaply.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from blm.model.errors import UserError
from blm.pipelines.datasets.lerobot_video import decode_frames
from blm.pipelines.inspection import arrays
from blm.pipelines.inspection.findings import Findings
from blm.pipelines.inspection.lerobot import Damage, DatasetFolder

Picture = npt.NDArray[np.uint8]

BATCH_PICTURES = 64
FLAT_LEVELS = 3
"""A picture whose values differ by less, of 255, shows nothing."""
FROZEN_S = 2.0
"""For how long a camera may show exactly the same while the robot is at work."""
FROZEN_SHARE = 0.5
"""And for which share of an episode."""

_ENDS = {b"\x89PNG": b"IEND\xaeB`\x82", b"\xff\xd8\xff": b"\xff\xd9"}
"""How a picture of a format ends, by how it begins."""


def cut_short(encoded: bytes | None) -> str:
    """What is wrong with the frame of a picture's bytes; empty if nothing is."""
    if not encoded:
        return "has no bytes"
    for begin, end in _ENDS.items():
        if encoded.startswith(begin):
            return "" if end in encoded[-64:] else "is cut short"
    return ""


def decode(encoded: bytes) -> Picture | None:
    """uint8 [H,W,3], or None if it cannot be decoded to its end."""
    try:
        with Image.open(BytesIO(encoded)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def is_flat(picture: Picture) -> bool:
    """Whether it is of one colour."""
    return bool((np.ptp(picture.reshape(-1, picture.shape[-1]).astype(np.int16), axis=0) < FLAT_LEVELS).all())


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureChecks:
    """Checks the pictures of one dataset."""

    dataset: DatasetFolder
    n_samples: int
    """Pictures of a camera to decode, spread evenly; 0: all."""

    @property
    def findings(self) -> Findings:
        """Where faults go."""
        return self.dataset.findings

    def run(self) -> None:
        """Every camera."""
        seen = {}
        for name, kind in self.dataset.picture_names.items():
            frames = self._videos(name) if kind == "video" else self._images(name)
            seen[name] = frames
        if seen:
            each = max(seen.values())
            how = f"{each} decoded of" if self.n_samples else "all"
            total = self.dataset.info.get("total_frames")
            self.findings.looked_at(
                "pictures", f"{how} {total} frames of {len(seen)} camera{'s' if len(seen) > 1 else ''}"
            )

    def _look(self, name: str, picture: Picture | None, place: str) -> None:
        """One decoded picture."""
        camera = name.removeprefix("observation.images.")
        if picture is None:
            self.findings.error("pictures", f"{camera}: cannot be decoded", place)
            return
        shape = tuple(self.dataset.features[name].get("shape") or ())
        if len(shape) == 3 and picture.shape[:2] not in (shape[:2], shape[1:]):
            height, width = picture.shape[:2]
            self.findings.error("pictures", f"{camera}: {width}x{height} px, declared shape {list(shape)}", place)
        elif is_flat(picture):
            self.findings.error("pictures", f"{camera}: of one colour", place)

    def _frozen(self, name: str, same: npt.NDArray[np.bool_], place: str) -> None:
        """same: whether each frame of an episode but the first equals the one before."""
        _, run = arrays.longest_run(same)
        if run >= max(3, FROZEN_S * self.dataset.fps) or (run >= 5 and run >= FROZEN_SHARE * (len(same) + 1)):
            camera = name.removeprefix("observation.images.")
            self.findings.warn(
                "pictures",
                f"{camera}: the same picture over and over",
                f"{place} ({run + 1} of {len(same) + 1} frames)",
            )

    # ---- in Parquet

    def _images(self, name: str) -> int:
        every = self._every()
        number, frame, n_decoded, counted = -1, 0, 0, 0
        hashes: list[bytes] = []
        for episode, encoded in self._stored(name):
            if episode != number:
                self._end_episode(name, number, hashes)
                number, frame, hashes = episode, 0, []
            place = f"episode {episode} frame {frame}"
            problem = cut_short(encoded)
            if problem:
                self.findings.error("pictures", f"{name.removeprefix('observation.images.')}: {problem}", place)
            elif encoded is not None:
                hashes.append(hashlib.blake2b(encoded, digest_size=16).digest())
                if int((counted + 1) / every) > int(counted / every):
                    self._look(name, decode(encoded), place)
                    n_decoded += 1
            frame, counted = frame + 1, counted + 1
        self._end_episode(name, number, hashes)
        return n_decoded

    def _every(self) -> float:
        """One picture in so many is decoded."""
        return max(1.0, (self.dataset.info.get("total_frames") or 0) / self.n_samples) if self.n_samples else 1.0

    def _end_episode(self, name: str, number: int, hashes: list[bytes]) -> None:
        if len(hashes) > 1:
            same = np.array([one == other for one, other in pairwise(hashes)])
            self._frozen(name, same, f"episode {number}")

    def _stored(self, name: str) -> Iterator[tuple[int, bytes | None]]:
        """(episode, encoded picture) of every frame, a few in memory at a time."""
        for path in self.dataset.files:
            if path in self.dataset.damaged:
                continue
            try:
                with pq.ParquetFile(path, memory_map=True) as file:
                    if not {name, "episode_index"} <= set(file.schema_arrow.names):
                        continue
                    for batch in file.iter_batches(batch_size=BATCH_PICTURES, columns=[name, "episode_index"]):
                        column = batch.column(name)
                        if not pa.types.is_struct(column.type):
                            break  # the schema check has named it
                        encoded = column.field("bytes").to_pylist()
                        yield from zip(batch.column("episode_index").to_pylist(), encoded, strict=True)
            except Damage:
                where = str(path.relative_to(self.dataset.root))
                self.findings.error("files", f"{name} is not readable to its end", where)

    # ---- in MP4 files

    def _videos(self, name: str) -> int:
        if not self.dataset.fps > 0:  # the schema check has said so
            return 0
        n_decoded = 0
        needed: dict[Path, float] = {}
        episodes = []
        for number, row in sorted(self.dataset.meta.items()):
            place = self.dataset.video_place(number, name)
            if place is None:
                self.findings.error("schema", f"meta/episodes says nothing of where {name} is", f"episode {number}")
                continue
            path, start_s = place
            needed[path] = max(needed.get(path, 0.0), float(row[f"videos/{name}/to_timestamp"]))
            episodes.append((number, path, start_s, int(row["length"])))
        broken = {path for path, until_s in needed.items() if not self._file_is_whole(path, until_s)}
        episodes = [one for one in episodes if one[1] not in broken]
        frames = sum(length for *_, length in episodes)
        step = max(1, round(frames / self.n_samples)) if self.n_samples else 1
        for number, path, start_s, length in episodes[::step]:
            try:
                pictures = decode_frames(path, from_timestamp=start_s, length=length, fps=round(self.dataset.fps))
            except UserError as error:
                self.findings.error(
                    "pictures", f"{name}: not every frame is in the video", f"episode {number} ({error})"
                )
                continue
            for frame, picture in enumerate(pictures):
                self._look(name, picture, f"episode {number} frame {frame}")
            same = np.array([np.array_equal(a, b) for a, b in pairwise(pictures)], bool)
            self._frozen(name, same, f"episode {number}")
            n_decoded += len(pictures)
        return n_decoded

    def _file_is_whole(self, path: Path, until_s: float) -> bool:
        where = str(path.relative_to(self.dataset.root))
        try:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                lasts_s = float((stream.duration or 0) * stream.time_base)
        except (av.error.FFmpegError, OSError, IndexError):
            self.findings.error("files", "missing, or not readable as a video", where)
            return False
        if lasts_s and lasts_s < until_s - 1.5 / (self.dataset.fps or 1):
            self.findings.error("files", f"lasts {lasts_s:.2f} s, its episodes need {until_s:.2f} s", where)
        return True
