"""Frames of a video file by their times, decoded at what they cost and no more.

What a container says about itself is not believed: its packets are listed first (nothing is decoded for that), and
their times are the truth that frames are chosen by. Decoding then begins at the last complete frame before each one
that is wanted, so an hour costs what its few frames cost. The demuxer is named by the file's first bytes: FFmpeg never
gets to guess, and so never takes a file for a playlist that has it open others.
"""

from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from blm.pipelines.datasets.readers.images import check_size, fitting_size
from blm.pipelines.datasets.readers.record import Fault

Picture = npt.NDArray[np.uint8]
Source = str | Path | bytes
"""A file, or its bytes."""
Pick = Callable[[npt.NDArray[np.float64]], list[int]]
"""Times of all frames in seconds, ascending -> which of them are wanted, ascending."""

MOST_BYTES = 8 * 2**30
"""Of a video file."""
MOST_PACKETS = 2_000_000
"""Frames of a video: 18 hours at 30 a second."""
MOST_DECODED, MOST_DECODED_PIXELS = 20_000, 40_000_000_000
"""Frames that are decoded to have those that are kept, and their pixels: eleven minutes of 1080p at 30 a second
without a complete frame after the first."""
TRUNCATED = 0.9
"""A file with less than that share of the frames it announces was cut short."""
MARGIN_S = 1.0
"""Around a part of a video, what is looked at besides."""
_MAGIC = ((b"\x1aE\xdf\xa3", "matroska"), (b"GIF8", "gif"), (b"FLV", "flv"), (b"OggS", "ogg"), (b"\0\0\1\xba", "mpeg"))
_VIDEO_REASONS = {"image_too_large": "video_too_large", "image_unreadable": "video_unreadable"}
"""Of faults in a frame's size."""


def demuxer(head: bytes) -> str:
    """FFmpeg's name for a file of these first bytes. Fault if it is none of the containers of videos."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    if len(head) > 188 and head[0] == head[188] == 0x47:
        return "mpegts"
    raise Fault("video_unreadable", "no container of videos begins like that" if head else "an empty file")


def read_frames(
    source: Source, pick: Pick, *, max_pixels: int, max_megapixels: float, start_s: float = 0.0, stop_s: float = 0.0
) -> tuple[list[float], list[Picture]]:
    """The frames that `pick` chooses, uint8 [H,W,3] of one size each, and their times in seconds. Fault if they cannot
    be had.

    start_s, stop_s: `pick` wants nothing outside of that part of the video; a stop of 0 is its end.
    """
    try:
        name = demuxer(_head(source))
        with _opened(source, name) as container:
            stream = _stream(container, max_megapixels)
            times, complete = _timeline(container, stream, start_s, stop_s)
            begin = times[0] if stream.start_time is None else stream.start_time
            seconds = (np.asarray(times, dtype=np.float64) - begin) * float(stream.time_base)
            chosen = pick(seconds)
            wanted = [times[i] for i in chosen]
            frames = _decoded(container, stream, wanted, complete)
            found = {pts: _to_picture(frame, stream, max_pixels, max_megapixels) for pts, frame in frames}
        if len(found) < len(wanted):  # not every container finds its frames: then all are decoded, in order
            with _opened(source, name) as container:
                stream = _stream(container, max_megapixels)
                frames = _decoded(container, stream, wanted, ())
                found = {pts: _to_picture(frame, stream, max_pixels, max_megapixels) for pts, frame in frames}
    except Fault as fault:
        raise Fault(_VIDEO_REASONS.get(fault.reason, fault.reason), fault.detail) from fault
    except Exception as error:  # FFmpeg's errors, and what damaged headers do to arithmetic
        raise Fault("video_unreadable", f"{type(error).__name__}: {error}") from error
    if len(found) < len(wanted):
        raise Fault("video_unreadable", f"{len(wanted) - len(found)} of {len(wanted)} frames cannot be decoded")
    if len({picture.shape for picture in found.values()}) > 1:
        raise Fault("video_unreadable", "frames of different sizes")
    return [float(seconds[i]) for i in chosen], [found[time] for time in wanted]


def _head(source: Source) -> bytes:
    if isinstance(source, bytes):
        return source[:512]
    with open(source, "rb") as file:
        return file.read(512)


def _opened(source: Source, demuxer: str) -> Any:
    import av

    return av.open(BytesIO(source) if isinstance(source, bytes) else str(source), format=demuxer)


def _stream(container: Any, max_megapixels: float) -> Any:
    if not container.streams.video:
        raise Fault("video_empty", "no stream of pictures")
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    check_size(stream.codec_context.width, stream.codec_context.height, max_megapixels)
    return stream


def _timeline(container: Any, stream: Any, start_s: float, stop_s: float) -> tuple[list[int], list[int]]:
    """Times of all frames in order, and of those that are complete in themselves, in units of the stream. Of a part of
    a video only what lies around it is looked at.
    """
    times: list[int] = []
    complete: list[int] = []
    origin, unit_s = stream.start_time or 0, float(stream.time_base)
    if start_s > 0:
        container.seek(origin + int(start_s / unit_s), stream=stream)
    for packet in container.demux(stream):
        time = packet.dts if packet.pts is None else packet.pts
        if time is None or packet.size == 0 or packet.is_discard:
            continue
        times.append(time)
        if packet.is_keyframe:
            complete.append(time)
        if stop_s > 0 and ((packet.dts or time) - origin) * unit_s > stop_s + MARGIN_S:
            break
        if len(times) > MOST_PACKETS:
            raise Fault("video_too_large", f"more than {MOST_PACKETS} frames")
    if not times:
        raise Fault("video_empty", "no frame in it")
    announced = max(stream.frames or 0, _announced_by_duration(stream)) if stop_s <= 0 else 0
    if len(times) < TRUNCATED * announced - 1:
        raise Fault("video_unreadable", f"cut short: {len(times)} of {announced} frames are there")
    return sorted(set(times)), sorted(complete)


def _announced_by_duration(stream: Any) -> int:
    """Frames that a stream of this duration has, where it gives no number of them."""
    if not stream.duration or not stream.average_rate or stream.frames:
        return 0
    return int(stream.duration * stream.time_base * stream.average_rate)


def _decoded(container: Any, stream: Any, wanted: Sequence[int], complete: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """The wanted frames with their times; some are missing where the file is damaged, or cannot be sought in. Without
    complete frames to go to, the container must stand at its beginning.
    """
    waiting = list(wanted)
    decoded = pixels = 0
    starts = np.asarray(complete, dtype=np.int64)
    while waiting:
        if len(starts):
            before = int(np.searchsorted(starts, waiting[0], side="right")) - 1
            container.seek(int(starts[before]) if before >= 0 else waiting[0], stream=stream)
        for frame in _frames(container, stream):
            decoded += 1
            pixels += frame.width * frame.height
            if decoded > MOST_DECODED or pixels > MOST_DECODED_PIXELS:
                raise Fault("video_too_large", f"{decoded} frames had to be decoded for {len(wanted)}")
            if frame.pts is None or frame.pts < waiting[0]:
                continue
            passed = [time for time in waiting if time <= frame.pts]
            if frame.pts == passed[-1]:
                yield frame.pts, frame
            waiting = waiting[len(passed) :]
            if not waiting or _worth_seeking(frame.pts, waiting[0], starts):
                break
        else:
            return


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """Decoded frames from where the container stands; packets that cannot be decoded are passed over."""
    import av

    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.FFmpegError:
            continue


def _worth_seeking(here: int, following: int, starts: npt.NDArray[np.int64]) -> bool:
    """Whether another complete frame stands between two frames."""
    return bool(np.searchsorted(starts, following, side="right") > np.searchsorted(starts, here, side="right"))


def _to_picture(frame: Any, stream: Any, max_pixels: int, max_megapixels: float) -> Picture:
    """A decoded frame upright, with square pixels, in RGB, no larger than allowed."""
    aspect = stream.sample_aspect_ratio
    width = round(frame.width * float(aspect)) if aspect and 0.2 < aspect < 5 else frame.width
    check_size(width, frame.height, max_megapixels)
    width, height = fitting_size(width, frame.height, max_pixels)
    picture = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
    quarters = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, quarters)) if quarters else picture
