"""The clients of `blm bench serve`, in a process of their own.

One JSON object a line on standard input, one on standard output; clients are threads and never pause. Neither PyTorch
nor Ray is loaded, so that what is measured is the server.

- `{"do": "act", "url", "clients", "seconds", "protocol"}`: each robot asks again as soon as it is answered
- `{"do": "talk", "url", "streams", "conversations" or "seconds", "tokens", "image_px", "first"}`: each conversation is
  one question about a picture that nobody has seen, answered greedily and as a stream
- `{"do": "describe", "url"}`: what the server says of its policy; nothing of a server without one

A request that is refused or breaks is an error, `{"error"}`: what a server does when it is full is another benchmark.
"""

import json
import os
import sys

from blm.pipelines.benchmarks.serve_people import talk
from blm.pipelines.benchmarks.serve_robots import act, describe

WORK = {"act": act, "talk": talk, "describe": describe}


def main() -> None:
    """Answers requests until standard input ends."""
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = WORK[request["do"]](request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        os.write(answers, (json.dumps(answer) + "\n").encode())


if __name__ == "__main__":
    main()
