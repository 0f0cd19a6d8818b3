"""A judge on this machine: a real HTTP server that speaks OpenAI's protocol and grades by what it finds in the text."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class SmallJudge:
    """What the server does, and what it was asked."""

    grade: Callable[[str], str]
    """From the user's turn to the reply."""
    failures: list[int] = field(default_factory=list)
    """Statuses with which the next requests are answered instead."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    busy: int = 0
    most_busy: int = 0
    url: str = ""


def by_words(text: str) -> str:
    """1 for an answer that is the reference, 0.5 for one that begins like it, else 0."""
    reference = text.split("[The Start of Reference Answer]\n")[1].split("\n[The End of Reference Answer]")[0]
    answer = text.split("[The Start of Assistant's Answer]\n")[1].split("\n[The End of Assistant's Answer]")[0]
    rating = 1 if answer == reference else 0.5 if answer[:3] == reference[:3] else 0
    return f"The reference says {reference!r}. Rating: [[{rating}]]"


@contextmanager
def small_judge(grade: Callable[[str], str] = by_words) -> Iterator[SmallJudge]:
    """The server, as long as the block lasts."""
    judge = SmallJudge(grade=grade)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            with lock:
                judge.busy += 1
                judge.most_busy = max(judge.most_busy, judge.busy)
            try:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                judge.requests.append(body)
                judge.keys.append(self.headers.get("Authorization", ""))
                status = judge.failures.pop(0) if judge.failures else 200
                if self.path != "/v1/chat/completions":
                    status = 404
                text = judge.grade(body["messages"][-1]["content"])
                reply = {"choices": [{"message": {"role": "assistant", "content": text}}]}
            finally:
                with lock:  # before it is sent: whoever has the reply may ask the next question
                    judge.busy -= 1
            self._send(status, reply if status == 200 else {"error": {"message": "not now"}})

        def _send(self, status: int, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "0.01")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    judge.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
