"""Single pictures out of datasets: those that are asked for are decoded, and no others.

Pictures in Parquet are fetched by their episode, and the encoded ones of the last few episodes stay in memory; of an
MP4, decoding begins at the key frame before the picture. Files stay open. One reader may serve several threads.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from blm.model.errors import UserError
from blm.pipelines.datasets.lerobot import EpisodeMeta, LeRobotDataset

KEPT_BYTES = 64 * 2**20
"""Encoded pictures that a reader keeps in memory."""
OPEN_VIDEOS = 8
NEAR = 8
"""Frames of a video that are decoded and thrown away rather than looking for the next key frame."""


class PictureReader:
    """Pictures of some features of one dataset."""

    def __init__(self, dataset: LeRobotDataset, image_px: int | None = None) -> None:
        """image_px: side to which pictures of another size are scaled, both ways alike or not; None: as they are."""
        self._dataset, self._image_px = dataset, image_px
        self._encoded: OrderedDict[tuple[int, str], pa.Array] = OrderedDict()
        self._bytes = 0
        self._videos: OrderedDict[Path, _Video] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, episode: EpisodeMeta, features: Sequence[str], numbers: np.ndarray) -> np.ndarray:
        """Pictures uint8 [n, C, H, W, 3] of frames `numbers` int64 [n] of an episode, features in the order given.

        UserError naming the file if a picture cannot be had.
        """
        wanted, back = np.unique(numbers, return_inverse=True)
        stored = self._stored(episode, [feature for feature in features if feature not in episode.videos])
        found = []
        for feature in features:
            if feature in episode.videos:
                pictures = self._from_video(episode, feature, wanted)
            else:
                pictures = [self._decoded(stored[feature][int(i)].as_buffer(), episode) for i in wanted]
            found.append(np.stack([self._sized(picture) for picture in pictures])[back])
        return np.stack(found, axis=1)

    def _stored(self, episode: EpisodeMeta, features: Sequence[str]) -> dict[str, pa.Array]:
        """Encoded pictures of an episode, by feature."""
        with self._lock:
            found = {
                name: self._encoded[episode.index, name] for name in features if (episode.index, name) in self._encoded
            }
            for name in found:
                self._encoded.move_to_end((episode.index, name))
        missing = sorted(set(features) - found.keys())
        if missing:
            frames = self._dataset.read_columns(episode, missing)
            read = {name: pc.struct_field(frames[name], "bytes").combine_chunks() for name in missing}
            with self._lock:
                for name, encoded in read.items():
                    if (episode.index, name) not in self._encoded:
                        self._encoded[episode.index, name] = encoded
                        self._bytes += encoded.nbytes
                while self._bytes > KEPT_BYTES and len(self._encoded) > 1:
                    self._bytes -= self._encoded.popitem(last=False)[1].nbytes
            found |= read
        return found

    def _decoded(self, encoded: Any, episode: EpisodeMeta) -> np.ndarray:
        try:
            picture = Image.open(BytesIO(encoded), formats=("PNG", "JPEG"))
            return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError, TypeError) as error:
            raise UserError(f"{episode.path}: a picture of episode {episode.index} cannot be read ({error})") from error

    def _sized(self, picture: np.ndarray) -> np.ndarray:
        px = self._image_px
        if px is None or picture.shape[:2] == (px, px):
            return picture
        return np.asarray(Image.fromarray(picture).resize((px, px), Image.Resampling.BILINEAR))

    def _from_video(self, episode: EpisodeMeta, feature: str, numbers: np.ndarray) -> list[np.ndarray]:
        path, from_timestamp = episode.videos[feature]
        first = round(from_timestamp * self._dataset.fps)
        with self._lock:
            if path not in self._videos:
                self._videos[path] = _Video(path, self._dataset.fps)
                if len(self._videos) > OPEN_VIDEOS:
                    self._videos.popitem(last=False)[1].close()
            self._videos.move_to_end(path)
            return [self._videos[path].picture(first + int(i)) for i in numbers]


class _Video:
    """An open MP4, of which single frames are asked for by number, fastest in ascending order."""

    def __init__(self, path: Path, fps: int) -> None:
        import av

        try:
            self._container = av.open(str(path))
            self._stream = self._container.streams.video[0]
        except FileNotFoundError as error:
            raise UserError(f"{path} does not exist; make the dataset again") from error
        except (av.error.FFmpegError, OSError, IndexError) as error:
            raise UserError(f"{path} is not a readable video ({error}); make the dataset again") from error
        self._stream.codec_context.thread_count = 1
        self._path, self._fps = path, fps
        self._frames: Any = iter(())
        self._present = -1
        """Number of the frame that was decoded last; -1 where that is not known."""
        self._last: Any = None

    def picture(self, number: int) -> np.ndarray:
        """uint8 [H, W, 3]. UserError if the file has no such frame."""
        import av

        try:
            if number == self._present:
                return self._last
            if self._present < 0 or not self._present < number <= self._present + NEAR:
                self._container.seek(int(Fraction(number, self._fps) / self._stream.time_base), stream=self._stream)
                self._frames = self._container.decode(self._stream)
            self._present = -1
            for frame in self._frames:
                found = round(float(frame.pts * self._stream.time_base) * self._fps)
                if found >= number:
                    break
            else:
                found = -1
        except (av.error.FFmpegError, OSError) as error:
            raise UserError(f"{self._path} is not a readable video ({error}); make the dataset again") from error
        if found != number:
            raise UserError(f"{self._path} has no frame at {number / self._fps:.3f} s; make the dataset again")
        self._present, self._last = number, frame.to_ndarray(format="rgb24")
        return self._last

    def close(self) -> None:
        """Closes the file."""
        self._container.close()
