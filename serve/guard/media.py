"""Files of pictures and videos, judged by their headers: how much decoding them would take, without doing it.

A picture's size stands in its header. A video's packets are counted without being decoded, since its header may lie;
only containers of the MP4 and Matroska families are opened at all: other formats that FFmpeg knows are playlists,
which name further files and addresses.
"""

import binascii
import io
import warnings

from PIL import Image, UnidentifiedImageError

from blm.serve.guard.config import MediaConfig
from blm.serve.guard.errors import RefusedError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_LONGEST_HEADER = 12


class MediaBudget:
    """What the pictures and videos of one request take together."""

    def __init__(self, config: MediaConfig) -> None:
        self._config = config
        self._pictures = self._videos = 0
        self._pixels = self._video_pixels = 0

    def add_picture(self, pixels: int) -> None:
        """Count a picture. RefusedError when it is one, or are pixels, too many."""
        self._pictures += 1
        self._pixels += pixels
        if self._pictures > self._config.max_images:
            raise _refused(f"more than {self._config.max_images} pictures in one request", 400)
        if self._pixels > self._config.max_pixels:
            raise _refused(f"pictures of more than {self._config.max_pixels} pixels in one request; send smaller ones")

    def add_video(self, pixels: int) -> None:
        """Count a video, with the pixels of all its frames. RefusedError as above."""
        self._videos += 1
        self._video_pixels += pixels
        if self._videos > self._config.max_videos:
            raise _refused(f"more than {self._config.max_videos} videos in one request", 400)
        if self._video_pixels > self._config.max_video_pixels:
            raise _refused("videos of more pixels than one request may have; send shorter or smaller ones")


def decode_base64(text: str) -> bytes:
    """The bytes. RefusedError (400) for anything but plain base64."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        raise _refused("a data URI that is not valid base64; encode the bytes of a file", 400) from None


def check_picture(data: bytes, config: MediaConfig) -> int:
    """Pixels of a picture. RefusedError: 400 if it is none, 413 if it has too many."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is the stricter one
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                width, height = picture.size
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, Image.DecompressionBombError):
            raise _refused("a picture of far too many pixels; send a smaller one") from None
        raise _refused(f"a picture that is no readable {', '.join(FORMATS)}", 400) from None
    if width * height > config.max_image_pixels:
        raise _refused(f"a picture of {width}x{height} pixels; send one of {config.max_image_pixels} at most")
    return width * height


def check_video(data: bytes, config: MediaConfig) -> int:
    """Pixels of all frames of a video. RefusedError: 400 if it is none, 413 if it is too long or too large."""
    if not (data[4:8] == b"ftyp" or data[:4] == b"\x1a\x45\xdf\xa3") or len(data) < _LONGEST_HEADER:
        raise _refused("a video that is no MP4, WebM or Matroska file", 400)
    import av

    try:
        with av.open(io.BytesIO(data), options={"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"}) as file:
            if not file.streams.video:
                raise _refused("a video without pictures", 400)
            stream = file.streams.video[0]
            width, height = stream.codec_context.width, stream.codec_context.height
            if width * height > config.max_image_pixels:
                raise _refused(f"a video of {width}x{height}; send one of {config.max_image_pixels} pixels at most")
            frames, end_s = 0, 0.0
            for packet in file.demux(stream):
                if packet.size == 0:
                    continue
                frames += 1
                if packet.pts is not None and packet.time_base is not None:
                    end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if frames > config.max_video_frames or end_s > config.max_video_s:
                    most = f"{config.max_video_frames} frames or {config.max_video_s:g} s"
                    raise _refused(f"a video of more than {most}; send a shorter one")
    except (av.FFmpegError, ValueError, OverflowError):
        raise _refused("a video that cannot be read; send an MP4, WebM or Matroska file", 400) from None
    return int(frames * width * height)


def _refused(message: str, status: int = 413) -> RefusedError:
    return RefusedError(status, message, reason="media")
