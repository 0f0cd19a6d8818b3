"""Pictures, videos and addresses of conversations, judged before anything is decoded or fetched."""

import base64
import io
import json
import pickle
import struct
import zlib
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from blm.serve.guard.config import GuardConfig, MediaConfig
from blm.serve.guard.errors import RefusedError
from blm.serve.guard.media_limits import check_conversation


def uri(data: bytes, kind: str = "image/png") -> str:
    """A data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture(width: int, height: int, form: str = "PNG", mode: str = "1") -> bytes:
    """The file of a black picture; of one bit, a huge one is small."""
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, format=form)
    return buffer.getvalue()


def claims(width: int, height: int) -> bytes:
    """The file of a small picture whose header says that it is of another size."""
    header = b"IHDR" + struct.pack("!IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = picture(8, 8)
    return data[:12] + header + struct.pack("!I", zlib.crc32(header)) + data[33:]


def video(frames: int, *, rate: int = 10, px: int = 32, form: str = "mp4") -> bytes:
    """The file of a grey video."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as file:
        stream = file.add_stream("mpeg4" if form == "mp4" else "libvpx", rate=rate)
        stream.width = stream.height = px
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, rate)
        for _ in range(frames):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((px, px, 3), 128, np.uint8))))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def talk(*parts: Any, **fields: Any) -> bytes:
    """The body of a conversation with these parts in its one message."""
    return json.dumps({"model": "BLM", "messages": [{"role": "user", "content": list(parts)}], **fields}).encode()


def image(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def moving(url: Any) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}}


def refusal(body: bytes, **media: Any) -> RefusedError:
    """How it is refused."""
    with pytest.raises(RefusedError) as caught:
        check_conversation(body, GuardConfig(media=MediaConfig(**media)))
    return caught.value


def accept(body: bytes, **media: Any) -> None:
    check_conversation(body, GuardConfig(media=MediaConfig(**media)))


SMALL = uri(picture(112, 112))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_pictures_of_usual_formats_and_sizes_pass(form: str) -> None:
    data = picture(640, 480, form, "RGB")
    accept(talk(image(uri(data, f"image/{form.lower()}")), {"type": "text", "text": "Where is the cube?"}))
    accept(talk({"type": "image_url", "image_url": uri(data)}))
    accept(json.dumps({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": SMALL}]}]}).encode())


def test_a_hundred_megapixels_in_twelve_kilobytes_are_refused() -> None:
    bomb = picture(10_000, 10_000)
    assert len(bomb) < 15_000
    for part in (image(uri(bomb)), {"image_url": uri(bomb)}, moving(f"data:video/jpeg;base64,{uri(bomb)[22:]}")):
        refused = refusal(talk(part))
        assert refused.status == 413
        assert "10000x10000" in refused.message
    assert refusal(talk(image(uri(claims(30_000, 30_000))))).status == 413


def test_pictures_together_are_bounded_too() -> None:
    half = uri(picture(4096, 4096))
    accept(talk(image(half), image(half)))
    assert refusal(talk(image(half), image(half), image(SMALL))).status == 413
    assert refusal(talk(*[image(SMALL)] * 17)).status == 400
    assert refusal(talk(image(SMALL)), max_images=0).status == 400


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:8265/api/jobs/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://[::1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://localtest.me/",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "ftp://allowed.example/a.png",
        "gopher://127.0.0.1/",
        "//169.254.169.254/",
        "/etc/passwd",
        "",
        "data:text/html;base64,AAAA",
        "data:image/png,AAAA",
        "data:image/png;charset=x;base64,AAAA",
        "http://allowed.example@169.254.169.254/",
        "http://169.254.169.254\\@allowed.example/",
        "http://169.254.169.254#@allowed.example/",
        "http://allowed.example.evil.example/",
        "http://allowed.example:8265/",
        "http://evil.allowed.example/",
        "http://allowed.example/\r\nX: y",
        " http://allowed.example/a.png",
        "http://allowed。example/",
    ],
)
def test_no_address_is_let_through_but_of_allowed_hosts(address: str) -> None:
    for part in (image(address), moving(address), {"type": "input_image", "image_url": address}):
        assert refusal(talk(part)).status == 400
        assert refusal(talk(part), url_hosts=("allowed.example",)).status == 400


def test_allowed_hosts_are_let_through() -> None:
    for address in (
        "https://allowed.example/a.png?size=1",
        "http://allowed.example:80/a.png",
        "https://Allowed.Example",
    ):
        accept(talk(image(address)), url_hosts=("allowed.example",))
    assert refusal(talk(*[image("https://allowed.example/a.png")] * 17), url_hosts=("allowed.example",)).status == 400


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_embeds", "image_embeds": base64.b64encode(pickle.dumps([1])).decode()},
        {"type": "prompt_embeds", "prompt_embeds": "AAAA"},
        {"type": "image_pil", "image_pil": "AAAA"},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,AAAA"}},
        {"type": "input_file", "file_url": "http://169.254.169.254/"},
        {"type": "image_url", "image_url": 7},
        {"type": "image_url", "image_url": {"url": ["data:image/png;base64,AAAA"]}},
        {"type": "image_url", "image_url": {"url": uri(b"no picture")}},
        {"type": "image_url", "image_url": {"url": uri(pickle.dumps([1]))}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,not base64!"}},
        {"type": "image_url", "image_url": {"url": uri(b"%PDF-1.7", "image/svg+xml")}},
        {"type": "image_url", "image_url": {"url": uri(b"", "video/mp4")}},
        {"type": "video_url", "video_url": {"url": SMALL}},
    ],
)
def test_tensors_sounds_files_and_nonsense_are_refused(part: dict[str, Any]) -> None:
    assert refusal(talk(part)).status == 400
    hidden = {"role": "tool", "content": [{"type": "text", "text": "x", "more": [part]}]}
    assert refusal(json.dumps({"messages": [hidden]}).encode()).status == 400


def test_tensors_beside_the_conversation_are_refused() -> None:
    assert refusal(json.dumps({"model": "BLM", "prompt": "x", "prompt_embeds": "AAAA"}).encode()).status == 400


@pytest.mark.parametrize(
    "body",
    [
        talk(image("http://127.0.0.1/")).replace(b"image_url", b"image\\u005furl"),
        b'{"messages": [], "messages": [{"image_url": "http://127.0.0.1/"}]}',
        b'{"messages": [{"image_url": "http://127.0.0.1/", "image_url": "data:image/png;base64,AAAA"}]}',
        b'{"messages": [{"image_url": NaN}]}',
        b'{"messages": [{"image_url": ',
        b'\xff{"image_url": 1}',
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(body: bytes) -> None:
    assert refusal(body).status == 400


def test_ordinary_conversations_pass_without_being_parsed() -> None:
    accept(b'{"messages": [{"role": "user", "content": "no JSON at all')
    accept(talk({"type": "text", "text": "the image shows a video of http://169.254.169.254"}))
    tool = {
        "type": "function",
        "function": {"name": "see", "parameters": {"properties": {"image_url": {"type": "string"}}}},
    }
    accept(talk({"type": "text", "text": "x"}, tools=[tool]))
    accept(b"[1, 2]")


def test_videos_are_measured_without_being_decoded() -> None:
    short, webm = video(20), video(5, form="webm")
    accept(talk(moving(uri(short, "video/mp4"))))
    accept(talk(moving(uri(webm, "video/webm"))))
    assert refusal(talk(moving(uri(short, "video/mp4"))), max_video_s=1.5).status == 413
    assert refusal(talk(moving(uri(short, "video/mp4"))), max_video_frames=19).status == 413
    assert refusal(talk(moving(uri(short, "video/mp4"))), max_video_pixels=20 * 32 * 32 - 1).status == 413
    assert refusal(talk(moving(uri(short, "video/mp4"))), max_image_pixels=1000).status == 413
    assert refusal(talk(*[moving(uri(short, "video/mp4"))] * 2), max_videos=1).status == 400
    frame = uri(picture(32, 32, "JPEG", "RGB"))[22:]
    accept(talk(moving(f"data:video/jpeg;base64,{frame},{frame}")))
    assert refusal(talk(moving(f"data:video/jpeg;base64,{frame},{frame}")), max_video_frames=1).status == 413


@pytest.mark.parametrize(
    "data",
    [
        b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n",
        b"\x00\x00\x00\x18ftypisom" + bytes(40),
        b"\x1a\x45\xdf\xa3" + bytes(40),
        picture(8, 8, "GIF"),
        b"",
    ],
)
def test_playlists_and_damaged_videos_are_refused(data: bytes) -> None:
    assert refusal(talk(moving(uri(data, "video/mp4")))).status == 400


@pytest.mark.parametrize(
    ("fields", "passes"),
    [
        ({"n": 16}, True),
        ({"n": 17}, False),
        ({"best_of": 10_000}, False),
        ({"mm_processor_kwargs": {"fps": 2, "max_pixels": 100_000}}, True),
        ({"mm_processor_kwargs": {"min_pixels": 10**9}}, False),
        ({"mm_processor_kwargs": {"fps": 1e9}}, False),
        ({"mm_processor_kwargs": [1]}, False),
        ({"media_io_kwargs": {"video": {"num_frames": 16}}}, True),
        ({"media_io_kwargs": {"video": {"num_frames": -1}}}, False),
        ({"media_io_kwargs": {"image": {"x": 1}}}, False),
    ],
)
def test_small_requests_for_much_work_are_refused(fields: dict[str, Any], passes: bool) -> None:
    body = talk({"type": "text", "text": "x"}, **fields)
    if passes:
        accept(body)
    else:
        assert refusal(body).status == 400
