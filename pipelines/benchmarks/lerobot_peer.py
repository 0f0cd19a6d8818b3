"""The peer of `blm bench feed`: lerobot's dataset and PyTorch's DataLoader, in an environment of their own.

Run as a script by that environment's Python, so it imports nothing of this project. One JSON object a line on standard
input, one on standard output: with `compare` (frames) what their windows hold; else `windows` and `window` (whether
each comes with its chunk of actions), and the answer is the rate of shuffled batches, workers started within the time.
"""

import json
import sys
import time
from typing import Any

import torch
import torch.utils.data
from lerobot.datasets.lerobot_dataset import LeRobotDataset

_opened: dict[bool, Any] = {}


def opened(request: dict[str, Any], window: bool) -> Any:
    """The dataset, opened once, with a chunk of actions or without."""
    if window not in _opened:
        plain = _opened.get(False) or LeRobotDataset("local/bench", root=request["root"])
        _opened[False] = plain
        if window:
            steps = {"action": [i / plain.fps for i in range(request["chunk"])]}
            _opened[True] = LeRobotDataset("local/bench", root=request["root"], delta_timestamps=steps)
    return _opened[window]


def compare(request: dict[str, Any]) -> dict[str, Any]:
    """What the windows of some frames hold."""
    dataset = opened(request, True)
    found = []
    for frame in request["compare"]:
        item = dataset[frame]
        found.append(
            {
                "state": item["observation.state"].tolist(),
                "actions": item["action"].tolist(),
                "is_pad": item["action_is_pad"].tolist(),
                "pictures": [float(item[camera].mean()) for camera in dataset.meta.camera_keys],
            }
        )
    return {"windows": found}


def rate(request: dict[str, Any]) -> dict[str, Any]:
    """Windows a second, of so many."""
    dataset = opened(request, request["window"])
    started_s = time.perf_counter()
    count = 0
    while count < request["windows"]:
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=request["batch"], shuffle=True, num_workers=request["processes"]
        )
        for batch in loader:
            count += len(batch["observation.state"])
            if count >= request["windows"]:
                break
    return {"rate": count / (time.perf_counter() - started_s)}


def main() -> None:
    """Answer requests until standard input ends."""
    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries talk
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps((compare if "compare" in request else rate)(request)), file=answers, flush=True)


if __name__ == "__main__":
    main()
