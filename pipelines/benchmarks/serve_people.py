"""People of `blm bench serve`: each asks about a picture nobody has seen, and reads the answer as it is written."""

import http.client
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np

from blm.pipelines.benchmarks.serve_http import connect, headers, read
from blm.serve.config import SERVED_NAME
from blm.serve.web.codec import encode_picture

QUESTION = "Where is the cube?"


def talk(request: dict[str, Any]) -> dict[str, Any]:
    """Conversations side by side, so many or for so many seconds: when each began to be answered, and how fast it went
    on."""
    streams, first = request["streams"], request["first"]
    end_s = time.perf_counter() + request.get("seconds", float("inf"))
    share = -(-request.get("conversations", 10**9) // streams)

    def run(place: int) -> list[dict[str, Any]]:
        held = []
        with closing(connect(request["url"])) as connection:
            for turn in range(share):
                body = question(first + place + turn * streams, request["image_px"], request["tokens"])
                if time.perf_counter() >= end_s:
                    break
                held.append(converse(connection, body))
        return held

    began_s = time.perf_counter()
    with ThreadPoolExecutor(streams) as threads:
        found = [threads.submit(run, place) for place in range(streams)]
    wall_s = time.perf_counter() - began_s
    return {"conversations": [one for future in found for one in future.result()], "seconds": wall_s}


def question(number: int, image_px: int, tokens: int) -> str:
    """A request about picture `number`, answered with exactly so many tokens."""
    picture = np.random.default_rng(number).integers(0, 256, (image_px, image_px, 3), dtype=np.uint8)
    content = [
        {"type": "image_url", "image_url": {"url": encode_picture(picture)}},
        {"type": "text", "text": QUESTION},
    ]
    body = {
        "model": SERVED_NAME,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(body)


def converse(connection: http.client.HTTPConnection, body: str) -> dict[str, Any]:
    """One streamed answer: `ttft_ms` to its first text, `total_ms` to its end, `tokens`, and the text itself."""
    began_s = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", body, headers())
    response = connection.getresponse()
    if response.status != 200:
        read(response)
    first_s, last_s, tokens, text = 0.0, 0.0, 0, ""
    for event in events(response):
        now_s = time.perf_counter()
        if event.get("error"):
            raise RuntimeError(f"the conversation broke off: {event['error']}")
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        for choice in event.get("choices", ()):
            piece = choice["delta"].get("content") or ""
            if piece and not text:
                first_s = now_s
            text, last_s = text + piece, now_s
    return {
        "ttft_ms": 1e3 * ((first_s or last_s) - began_s),
        "total_ms": 1e3 * (last_s - began_s),
        "tokens": tokens,
        "text": text,
    }


def events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The events of a stream, to its `[DONE]`. RuntimeError if it ends before."""
    while line := response.readline():
        if line.startswith(b"data: [DONE]"):
            response.read()  # the connection is used again
            return
        if line.startswith(b"data: "):
            yield json.loads(line[6:])
    raise RuntimeError("the stream of an answer ended before it was done")
