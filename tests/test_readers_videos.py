"""Videos become a few evenly spaced frames, whatever their container says about itself; broken ones are refused."""

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from small_foreign import clip, put

from blm.pipelines.datasets.readers import video_file
from blm.pipelines.datasets.readers.record import Fault
from blm.pipelines.datasets.readers.video_file import demuxer
from blm.pipelines.datasets.readers.videos import Sampling, choose, frames_at, sample_frames, sample_video


def numbers(pictures: list[np.ndarray]) -> list[int]:
    """Which frames of `small_foreign.clip` these are."""
    return [round(float(picture.mean()) / 8) for picture in pictures]


def fault_of(data: bytes | Path) -> str:
    with pytest.raises(Fault) as caught:
        sample_frames(data, Sampling())
    return caught.value.reason


def reencoded(data: bytes, format: str, codec: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(buffer, "w", format=format) as target:
        stream = target.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 48, "yuv420p"
        for k, frame in enumerate(source.decode(video=0)):
            copy = av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"), format="rgb24")
            copy.pts, copy.time_base = k, Fraction(1, 10)
            target.mux(stream.encode(copy))
        target.mux(stream.encode(None))
    return buffer.getvalue()


def with_matrix(data: bytes, matrix: tuple[int, ...]) -> bytes:
    """The MP4 with another display matrix in its track header."""
    at = data.index(b"tkhd") + 4 + 40
    return data[:at] + struct.pack(">9i", *matrix) + data[at + 36 :]


@pytest.mark.parametrize(
    ("sampling", "expected", "fps"),
    [
        (Sampling(fps=2, max_frames=16), [0, 6, 13, 19], 3 / 1.9),
        (Sampling(fps=10, max_frames=4), [0, 6, 13, 19], 3 / 1.9),
        (Sampling(fps=0, max_frames=3), [0, 10, 19], 2 / 1.9),
        (Sampling(fps=0, max_frames=100), list(range(20)), 10.0),
        (Sampling(fps=0.1, max_frames=16), [0, 19], 1 / 1.9),
        (Sampling(fps=2, max_frames=1), [0], 2.0),
    ],
)
def test_frames_are_even_and_show_both_ends(sampling: Sampling, expected: list[int], fps: float) -> None:
    pictures, rate = sample_frames(clip(20, 10), sampling)
    assert numbers(pictures) == expected
    assert rate == pytest.approx(fps)


def test_times_decide_not_numbers() -> None:
    seconds = np.asarray([0.0, 0.1, 0.2, 0.3, 4.0])  # a camera that stalled
    assert choose(seconds, Sampling(fps=0, max_frames=3)) == [0, 3, 4]
    assert choose(seconds, Sampling(fps=1, max_frames=3), 0.1, 0.35) == [1, 3]
    with pytest.raises(Fault):
        choose(seconds, Sampling(), 5.0, 6.0)


@pytest.mark.parametrize(
    ("format", "codec"), [("matroska", "libx264"), ("avi", "mpeg4"), ("mov", "mpeg4"), ("mpegts", "mpeg2video")]
)
def test_containers_are_told_by_their_first_bytes(format: str, codec: str) -> None:
    data = reencoded(clip(20, 10), format, codec)
    assert demuxer(data) == format
    found = numbers(sample_frames(data, Sampling(fps=0, max_frames=3))[0])
    assert (found[0], found[-1]) == (0, 19)


def test_an_animation_is_a_video_too() -> None:
    frames = [Image.new("RGB", (20, 20), (40 * k, 0, 0)) for k in range(5)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=100)
    pictures, fps = sample_frames(buffer.getvalue(), Sampling(fps=0, max_frames=16))
    assert [int(picture[0, 0, 0]) for picture in pictures] == [0, 40, 80, 120, 160]
    assert fps == pytest.approx(10)


def test_a_part_of_a_video_is_all_that_is_decoded(tmp_path: Path) -> None:
    path = put(tmp_path / "a.mp4", clip(300, 30, key_frame_every=30))
    pictures, fps = sample_frames(path, Sampling(fps=0, max_frames=3), start_s=4.0, stop_s=5.0)
    assert numbers(pictures) == [120 % 32, 134 % 32, 149 % 32]
    assert fps == pytest.approx(2 / (29 / 30))
    still = [np.asarray(Image.open(io.BytesIO(data))) for data in frames_at(path, [6.0, 2.0, 2.0], Sampling())]
    assert numbers(still) == [180 % 32, 60 % 32, 60 % 32]


def test_an_hour_costs_what_its_frames_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_file, "MOST_DECODED", 250)
    pictures, fps = sample_frames(clip(3600, 1, key_frame_every=60, width=16, height=16), Sampling(max_frames=4))
    assert numbers(pictures) == [0, 1200 % 32, 2399 % 32, 3599 % 32]
    assert fps == pytest.approx(3 / 3599)
    assert fault_of(clip(300, 1, key_frame_every=1000, width=16, height=16)) == "video_too_large"


def test_a_phone_held_upright_films_upright() -> None:
    one = 1 << 16
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv444p"
        lying = np.zeros((32, 64, 3), dtype=np.uint8)
        lying[:, :16] = 250  # left in the file is up once it is turned clockwise
        container.mux(stream.encode(av.VideoFrame.from_ndarray(lying, format="rgb24")))
        container.mux(stream.encode(None))
    clockwise = with_matrix(buffer.getvalue(), (0, one, 0, -one, 0, 0, 32 * one, 0, 1 << 30))
    (picture,), _ = sample_frames(clockwise, Sampling())
    assert picture.shape == (64, 32, 3)
    assert picture[:12].min() > 200
    assert picture[20:].max() < 50


def test_frames_are_shrunk_and_encoded() -> None:
    video = sample_video(clip(width=320, height=160), Sampling(max_pixels=5000))
    assert {Image.open(io.BytesIO(frame)).size for frame in video.frames} == {(100, 50)}
    assert all(frame.startswith(b"\xff\xd8") for frame in video.frames)


def test_broken_videos_are_refused_by_their_reason(tmp_path: Path) -> None:
    good = clip(60, 10)
    assert fault_of(b"") == "video_unreadable"
    assert fault_of(b"#EXTM3U\nhttp://example.com/a.ts\n") == "video_unreadable"
    assert fault_of(good[: len(good) // 2]) == "video_unreadable"  # the index comes last
    assert fault_of(reencoded(good, "avi", "mpeg4")[:4000]) == "video_unreadable"
    assert fault_of(put(tmp_path / "zero.mp4", b"")) == "video_unreadable"
    assert fault_of(clip(1, 10).replace(b"vide", b"soun")) == "video_empty"


def test_what_a_header_promises_must_be_there() -> None:
    data = clip(30, 10)
    at = data.index(b"stts") + 8
    (count,) = struct.unpack(">I", data[at + 4 : at + 8])
    lying = data[: at + 4] + struct.pack(">II", count, 2**20) + data[at + 12 :]  # each frame lasts for minutes
    assert fault_of(lying) == "video_unreadable"
