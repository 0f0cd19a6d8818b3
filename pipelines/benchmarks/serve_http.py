"""HTTP as the clients of `blm bench serve` speak it: the standard library's, which costs a client little."""

import http.client
import os
from urllib.parse import urlsplit

KEY = "BLM_API_KEY"
"""Environment variable with the key of a server that wants one."""
TIMEOUT_S = 120.0


def connect(url: str) -> http.client.HTTPConnection:
    """A connection that is opened with the first request and kept."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname, parts.port, timeout=TIMEOUT_S)


def headers() -> dict[str, str]:
    """Of every request."""
    key = os.environ.get(KEY)
    return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})


def read(response: http.client.HTTPResponse) -> bytes:
    """The body of an answer. RuntimeError for a refusal."""
    body = response.read()
    if response.status != 200:
        raise RuntimeError(f"status {response.status}: {body[:300].decode(errors='replace')}")
    return body
