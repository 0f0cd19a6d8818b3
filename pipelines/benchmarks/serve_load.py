"""The clients of `blm bench serve`, in a process of their own.

One JSON object a line on standard input, one on standard output; clients are threads and never pause. Neither PyTorch
nor Ray is loaded, so that what is measured is the server.

- `{"do": "act", "url", "clients", "seconds", "protocol"}`: each robot asks again as soon as it is answered
- `{"do": "talk", "url", "streams", "conversations" or "seconds", "tokens", "image_px", "first"}`: each conversation is
  one question about a picture that nobody has seen, answered greedily and as a stream
- `{"do": "describe", "url"}`: what the server says of its policy; nothing of a server without one

A request that is refused or breaks is an error, `{"error"}`: what a server does when it is full is another benchmark.
"""

from typing import Any

from blm.pipelines.benchmarks.serve_people import talk
from blm.pipelines.benchmarks.serve_robots import act, describe
from blm.pipelines.benchmarks.workers import answer_requests

WORK = {"act": act, "talk": talk, "describe": describe}


def answer(request: dict[str, Any]) -> Any:
    """What came of a request."""
    try:
        return WORK[request["do"]](request)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    answer_requests(answer)
