"""Options of what stands before the model: who may ask, how much, how large, and how long it may take.

Counts hold for one replica: with N replicas a key may have up to N times as many requests open.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from blm.model.errors import UserError

MESSAGE_BYTES = 64 * 2**20
"""What `blm.model.wire` reads at most: forty observations of three raw pictures of 420 px."""
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaConfig:
    """Pictures and videos of conversations, judged by their headers before anything is decoded."""

    max_images: int = 16
    """Most pictures of one request, frames of `video/jpeg` not among them."""
    max_image_pixels: int = 2**24
    """Most pixels of one picture."""
    max_pixels: int = 2**25
    """Most pixels of all pictures of one request."""
    max_videos: int = 4
    """Most videos of one request."""
    max_video_s: float = 120.0
    """Longest video."""
    max_video_frames: int = 3600
    """Most frames of one video."""
    max_video_pixels: int = 2**31
    """Most pixels of all frames of all videos of one request: the work of decoding them."""
    url_hosts: tuple[str, ...] = ()
    """Hosts from which pictures and videos may be fetched over http and https; nothing is fetched from any other."""

    def __post_init__(self) -> None:
        for name in ("max_images", "max_videos"):
            _least(name, getattr(self, name), 0)
        for name in ("max_image_pixels", "max_pixels", "max_video_frames", "max_video_pixels"):
            _least(name, getattr(self, name), 1)
        if self.max_video_s <= 0:
            raise UserError(f"max_video_s is {self.max_video_s}; give a time above 0")
        for host in self.url_hosts:
            if not _HOST.fullmatch(host):
                raise UserError(f"url_hosts has {host!r}; write bare host names in lower case, as example.com")


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardConfig:
    """What is asked of every request and connection before it reaches the model."""

    key_file: Path | None = None
    """Keys, one a line as `NAME DIGEST` (`blm keys new` writes it); read again when it changes."""
    key_variable: str = "BLM_API_KEYS"
    """Environment variable with keys, as `NAME=KEY` with commas between; read by `blm serve` when it starts."""
    key_hashes: Mapping[str, str] = field(default_factory=dict)
    """Name -> SHA-256 of the key in hexadecimal; what is in the environment variable ends up here."""
    open_paths: tuple[str, ...] = ("/health", "/healthz", "/livez", "/docs", "/openapi.json", "/playground")
    """Places that need no key: they tell nothing that is secret. Whole paths, without what is below them."""
    allowed_origins: tuple[str, ...] = ()
    """Web pages besides the server's own whose scripts may ask, as https://example.com; `*` for all."""

    key_rate_per_s: float = 0.0
    """Requests a second (on a WebSocket: messages) of one key in the long run; 0: as many as it likes."""
    key_burst: int = 20
    """Requests that a key which was silent may send at once before that rate holds."""
    key_requests: int = 256
    """Requests of one key that are being answered at a time."""
    key_connections: int = 128
    """WebSockets of one key."""
    max_requests: int = 512
    """Requests of all keys together that are being answered at a time."""
    max_connections: int = 256
    """WebSockets of all keys together."""
    retry_after_s: int = 1
    """What a client is told to wait when there is no room."""

    max_body_bytes: int = MESSAGE_BYTES
    """Largest body of a request."""
    max_buffered_bytes: int = 2**29
    """Bodies of all requests together that are being answered at a time."""
    max_message_bytes: int = MESSAGE_BYTES
    """Largest message on a WebSocket."""
    max_header_bytes: int = 2**15
    """Longest header of a request, its address included."""
    max_json_depth: int = 64
    """How deep lists and objects of JSON may be nested."""
    max_answers: int = 16
    """Most answers to one question of a conversation (`n`, `best_of`)."""

    header_s: float = 10.0
    """Time for a whole header to arrive, from the opening of the connection or the first byte of the next request."""
    body_s: float = 60.0
    """Time for a whole body to arrive."""
    answer_s: float = 600.0
    """Time until an answer begins."""
    send_s: float = 60.0
    """How long a client may leave what it is sent lying unread."""
    idle_s: float = 900.0
    """How long a WebSocket may be silent in both directions."""
    ping_s: float = 30.0
    """Time between questions whether a WebSocket's client is still there."""
    pong_s: float = 300.0
    """How long it may take to say so: one that simulates for a while says nothing meanwhile."""

    media: MediaConfig = field(default_factory=MediaConfig)
    """Pictures and videos in conversations."""

    def __post_init__(self) -> None:
        for name in ("key_burst", "key_requests", "key_connections", "max_requests", "max_connections"):
            _least(name, getattr(self, name), 1)
        for name in ("retry_after_s", "max_body_bytes", "max_message_bytes", "max_json_depth", "max_answers"):
            _least(name, getattr(self, name), 1)
        _least("max_buffered_bytes", self.max_buffered_bytes, self.max_body_bytes)
        _least("max_header_bytes", self.max_header_bytes, 1024)
        for name in ("header_s", "body_s", "answer_s", "send_s", "idle_s", "ping_s", "pong_s"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} is {getattr(self, name)}; give a time above 0")
        if self.key_rate_per_s < 0:
            raise UserError(f"key_rate_per_s is {self.key_rate_per_s}; give a rate above 0, or 0 for none")
        for name, digest in self.key_hashes.items():
            if not _DIGEST.fullmatch(digest):
                raise UserError(f"key_hashes.{name} is no SHA-256 in hexadecimal; make one with `blm keys new {name}`")
        for path in self.open_paths:
            if not path.startswith("/") or path == "/v1/actions":
                raise UserError(
                    f"open_paths has {path!r}; name places such as /health, and none that the model answers"
                )


def _least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{name} is {value}; give {least} or more")
