"""openpi's own client against a whole server. Runs in an environment of its own; see test_clients_live.py.

.venv-openpi/bin/python tests/openpi_live.py PORT
"""

import json
import sys

import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

policy = WebsocketClientPolicy(host="127.0.0.1", port=int(sys.argv[1]), api_key="empty")
metadata = policy.get_server_metadata()
grey = np.full((metadata["image_px"], metadata["image_px"], 3), 100, np.uint8)
pictures = dict.fromkeys(metadata["pictures"], grey)
told = {"prompt": "Push the cube", "embodiment": metadata["robot"], "seed": 3}
observation = {**pictures, metadata["state"]: np.linspace(0, 1, 8), **told}
first, again = policy.infer(observation), policy.infer(observation)
assert np.array_equal(first["actions"], again["actions"])
broker = ActionChunkBroker(policy, action_horizon=metadata["action_horizon"])
rows = [broker.infer(observation)["actions"] for _ in range(metadata["action_horizon"])]
assert np.array_equal(rows, first["actions"])
try:
    policy.infer({**observation, "prompt": ""})
    complaint = ""
except RuntimeError as error:
    complaint = str(error)
print(json.dumps({"actions": first["actions"].tolist(), "timing": first["server_timing"], "complaint": complaint}))
