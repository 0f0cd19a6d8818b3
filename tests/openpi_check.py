"""openpi's own client against our server. Runs in an environment of its own; see test_policy_peers.py.

    .venv-openpi/bin/python tests/openpi_check.py PORT OBSERVATIONS.npz OUT.npz

Asks for a chunk for each observation, row by row through the chunk broker too, and what comes of a bad one.
"""

import json
import sys

import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

port, given, out = int(sys.argv[1]), np.load(sys.argv[2]), sys.argv[3]
policy = WebsocketClientPolicy(host="127.0.0.1", port=port)
metadata = policy.get_server_metadata()
assert isinstance(metadata, dict)
observations = [
    {
        "observation/image": given["pictures"][i],
        "observation/state": given["states"][i].astype(np.float64),
        "prompt": "push the cube",
        "seed": int(given["seeds"][i]),
    }
    for i in range(len(given["states"]))
]
chunks = [policy.infer(one) for one in observations]
broker = ActionChunkBroker(policy, action_horizon=metadata["action_horizon"])
rows = [broker.infer(observations[0])["actions"] for _ in range(metadata["action_horizon"])]
try:
    policy.infer({**observations[0], "prompt": ""})
    complaint = ""
except RuntimeError as error:
    complaint = str(error)
after = policy.infer(observations[0])
np.savez(
    out,
    chunks=np.stack([chunk["actions"] for chunk in chunks]),
    rows=np.stack(rows),
    after=after["actions"],
    complaint=complaint,
    timing=json.dumps(chunks[-1]["server_timing"]),
)
