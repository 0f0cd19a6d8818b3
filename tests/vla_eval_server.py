"""A model server of `vla-eval` itself, for our client. Runs in an environment of its own; see test_policy_peers.py.

    .venv-vla-eval/bin/python tests/vla_eval_server.py CHUNK

Prints its port. It hands out a chunk of CHUNK rows action by action: the state, ten times the row's number, the mean of
its picture and the length of the task's words, all added up. A task called `fail` raises.
"""

import sys
from functools import partial
from typing import Any

import anyio
import numpy as np
from vla_eval.model_servers.base import SessionContext
from vla_eval.model_servers.predict import PredictModelServer
from vla_eval.model_servers.serve import serve_async


class Adding(PredictModelServer):
    def predict(self, obs: dict[str, Any], ctx: SessionContext) -> dict[str, Any]:
        if obs["task_description"] == "fail":
            raise ValueError("told to fail")
        base = obs["state"] + obs["images"]["agentview"].mean() + len(obs["task_description"])
        return {"actions": base + 10 * np.arange(self.chunk_size)[:, None]}


async def main(chunk: int) -> None:
    async with anyio.create_task_group() as group:
        port = await group.start(partial(serve_async, Adding(chunk_size=chunk), host="127.0.0.1", port=0))
        print(port, flush=True)


anyio.run(main, int(sys.argv[1]))
