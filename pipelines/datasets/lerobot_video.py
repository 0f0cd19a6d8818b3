"""Pictures as MP4 in LeRobotDataset v3.0: an episode becomes a segment, segments become files.

Whoever renders an episode encodes it; joining segments copies packets and encodes nothing, so a dataset's files take
a second to write and their bytes do not depend on who rendered what. H.264 with every second frame complete and no
frame that looks ahead: a trainer that asks for single frames decodes two at most. One thread, as the bytes that x264
makes depend on their number. FFmpeg is imported where it is used: the command line imports this module on every call.
"""

from collections.abc import Iterable
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from blm.model.errors import UserError
from blm.pipelines.datasets import lerobot_schema as schema

Picture = npt.NDArray[np.uint8]

CODEC, PIXEL_FORMAT = "h264", "yuv420p"
QUALITY = "12"
"""x264's constant rate factor: what then remains of differences is the rounding of colours."""
KEY_FRAME_EVERY = 2


def video_info(image_px: int, fps: int) -> dict[str, Any]:
    """What info.json says about a video feature beside its shape."""
    return {
        "video.height": image_px,
        "video.width": image_px,
        "video.codec": CODEC,
        "video.pix_fmt": PIXEL_FORMAT,
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
    }


SAME_BYTES = "rc-lookahead=0:sync-lookahead=0"
"""x264's look ahead reads memory that nothing has written: one segment in 250 came out with other bytes."""


def encode_segment(pictures: Iterable[Picture], fps: int) -> bytes:
    """Pictures [H,W,3] of one size, both sides even, as an MP4 of their own. ValueError if there is none."""
    import av

    buffer = BytesIO()
    options = {"crf": QUALITY, "preset": "veryfast", "bf": "0", "sc_threshold": "0", "x264-params": SAME_BYTES}
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.pix_fmt = PIXEL_FORMAT
        stream.gop_size = KEY_FRAME_EVERY
        stream.codec_context.thread_count = 1
        count = 0
        for picture in pictures:
            if count == 0:
                stream.height, stream.width = picture.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            count += 1
        if count == 0:
            raise ValueError("a video of no pictures")
        container.mux(stream.encode(None))
    return buffer.getvalue()


class VideoFile:
    """An MP4 that grows by segments. All of them must come from `encode_segment` with the same size and rate."""

    def __init__(self, path: Path, fps: int) -> None:
        import av

        path.parent.mkdir(parents=True, exist_ok=True)
        self._container: Any = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        self._stream: Any = None
        self._fps = fps
        self.n_frames = 0
        self.n_bytes = 0

    def append(self, segment: bytes) -> None:
        """Goes on with the frames of a segment."""
        import av

        with av.open(BytesIO(segment)) as source:
            given = source.streams.video[0]
            if self._stream is None:
                self._stream = self._container.add_stream_from_template(given)
            shift = int(Fraction(self.n_frames, self._fps) / given.time_base)
            for packet in source.demux(given):
                if packet.dts is None:  # the end of the segment
                    continue
                packet.pts += shift
                packet.dts += shift
                packet.stream = self._stream
                self._container.mux(packet)
                self.n_frames += 1
        self.n_bytes += len(segment)

    def close(self) -> None:
        """Completes the file."""
        self._container.close()


class VideoFiles:
    """The MP4 files of one video feature: an episode never spans two, and a full file is followed by a new one."""

    def __init__(self, root: Path, name: str, fps: int) -> None:
        self.root = root
        self.name = name
        self.fps = fps
        self.file_number = -1
        self.file: VideoFile | None = None

    def add(self, segment: bytes, length: int) -> dict[str, int | float]:
        """Append an episode. Returns its columns of metadata. ValueError if it has another number of frames."""
        if self.file is None or self.file.n_bytes >= schema.VIDEO_FILES_SIZE_MB * 2**20:
            self.close()
            self.file_number += 1
            self.file = VideoFile(self.root / schema.VIDEO_PATH.format(video_key=self.name, **self._place()), self.fps)
        first = self.file.n_frames
        self.file.append(segment)
        if self.file.n_frames - first != length:
            raise ValueError(f"{self.name} has {self.file.n_frames - first} frames in an episode of {length}")
        columns: dict[str, int | float] = dict(self._place())
        columns |= {"from_timestamp": first / self.fps, "to_timestamp": self.file.n_frames / self.fps}
        return {f"videos/{self.name}/{column}": value for column, value in columns.items()}

    def close(self) -> None:
        """Completes the last file."""
        if self.file is not None:
            self.file.close()

    def _place(self) -> dict[str, int]:
        chunk, file = divmod(self.file_number, schema.CHUNKS_SIZE)
        return {"chunk_index": chunk, "file_index": file}


def first_frame(segment: bytes) -> Picture:
    """The first picture of a segment, uint8 [H,W,3]."""
    import av

    with av.open(BytesIO(segment)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def decode_frames(path: Path, *, from_timestamp: float, length: int, fps: int) -> list[Picture]:
    """Frames of one episode of a file, uint8 [H,W,3] each. UserError naming the file if they cannot be had.

    Any codec that PyAV knows; frames are found by their timestamps, which must be multiples of 1/fps.
    """
    import av

    first = round(from_timestamp * fps)
    found: dict[int, Picture] = {}
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            container.seek(int(Fraction(first, fps) / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                number = round(float(frame.pts * stream.time_base) * fps)
                if first <= number < first + length:
                    found[number - first] = frame.to_ndarray(format="rgb24")
                if number >= first + length - 1:
                    break
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; make the dataset again") from error
    except (av.error.FFmpegError, OSError) as error:
        raise UserError(f"{path} is not a readable video ({error}); make the dataset again") from error
    missing = next((i for i in range(length) if i not in found), None)
    if missing is not None:
        raise UserError(f"{path} has no frame at {(first + missing) / fps:.3f} s; make the dataset again")
    return [found[i] for i in range(length)]
