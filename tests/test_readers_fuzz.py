"""Whatever is in a sample, nothing raises: it becomes valid conversations or is rejected, and all are counted."""

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_foreign import clip, encoded, picture
from small_fuzz import checked, home, json_values, likely, plausible, quick, samples

from blm.pipelines.datasets.chat import ChatRow
from blm.pipelines.datasets.readers.formats import FORMATS, read_sample
from blm.pipelines.datasets.readers.images import stored_picture, thumbnail
from blm.pipelines.datasets.readers.record import Fault, Options, Place, Rejected
from blm.pipelines.datasets.readers.videos import Sampling, sample_video

PLACE = Place(id="a:1", where="/a:1", folder=str(home()))
BAD_MEDIA = {
    "cut.jpg": "image_unreadable",
    "empty.png": "image_unreadable",
    "text.jpg": "image_unreadable",
    "huge.jpg": "image_too_large",
    "missing.jpg": "media_missing",
    "folder.jpg": "media_missing",
    "loop.jpg": "media_missing",
    "a" * 5000: "media_missing",
    "a\0b.jpg": "media_missing",
    "link.jpg": "media_outside_root",
    "../secret.jpg": "media_outside_root",
    "a/../../secret.jpg": "media_outside_root",
    "..\\secret.jpg": "media_outside_root",
    "/etc/passwd": "media_outside_root",
    "/dev/zero": "media_outside_root",
    "file:///etc/passwd": "media_outside_root",
    "C:\\a.jpg": "media_outside_root",
    "https://example.com/a.jpg": "media_is_url",
    "data:image/png;base64,AAAA": "image_unreadable",
}
BAD_VIDEOS = {
    "cut.mp4": "video_unreadable",
    "empty.mp4": "video_unreadable",
    "playlist.mp4": "video_unreadable",
    "good.jpg": "video_unreadable",
}


@pytest.mark.parametrize(
    ("field", "path", "reason"),
    [
        *(("image", path, reason) for path, reason in BAD_MEDIA.items()),
        *(("video", path, reason) for path, reason in BAD_VIDEOS.items()),
    ],
)
def test_bad_media_are_refused_by_their_reason(field: str, path: str, reason: str) -> None:
    talk = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]
    (result,) = checked(read_sample({"conversations": talk, field: path}, PLACE, Options(), FORMATS["llava"].convert))
    assert isinstance(result, Rejected)
    assert result.reason == reason


@quick
@given(sample=plausible)
def test_plausible_samples_differ_in_their_media_alone(sample: dict[str, Any]) -> None:
    (result,) = checked(read_sample(sample, PLACE, Options(), FORMATS["llava"].convert))
    if isinstance(result, ChatRow):
        assert result.messages[1]["text"] == sample["conversations"][1]["value"]
    else:
        assert result.reason.startswith(("image", "video", "media", "placeholder", "wrong_type"))


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "lerobot"])
@quick
@given(sample=samples | likely | json_values)
def test_any_sample_is_read_or_rejected(format: str, sample: Any) -> None:
    results = checked(read_sample(sample, PLACE, Options(), FORMATS[format].convert))
    assert results or (isinstance(sample, dict) and sample.get("qa_pairs") == [])


@quick
@given(
    source=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]),
    at=st.integers(0, 10_000),
    noise=st.binary(max_size=8),
    truncate=st.booleans(),
)
def test_damaged_pictures_are_refused_or_can_be_decoded(source: str, at: int, noise: bytes, truncate: bool) -> None:
    data = encoded(picture(width=70, height=50), source)
    at = at % len(data)
    damaged = data[:at] if truncate else data[:at] + noise + data[at + len(noise) :]
    try:
        kept = stored_picture(damaged, max_pixels=4000, max_megapixels=1)
    except Fault as fault:
        assert fault.reason.startswith("image")  # noqa: PT017 (either outcome is right)
    else:
        assert thumbnail(kept, 8) is not None
        assert len(Image.open(io.BytesIO(kept)).convert("RGB").tobytes()) <= 3 * 4000


@quick
@given(at=st.integers(0, 20_000), noise=st.binary(max_size=64), truncate=st.booleans())
def test_damaged_videos_are_refused_or_shown(at: int, noise: bytes, truncate: bool) -> None:
    data = clip(12, 10)
    at = at % len(data)
    damaged = data[:at] if truncate else data[:at] + noise + data[at + len(noise) :]
    try:
        video = sample_video(damaged, Sampling(max_frames=4, max_pixels=2000, max_megapixels=1))
    except Fault as fault:
        assert fault.reason.startswith(("video", "image_shape"))  # noqa: PT017 (either outcome is right)
    else:
        assert 1 <= len(video.frames) <= 4
        assert 0 < video.fps < float("inf")
