"""Opens a dataset with the `lerobot` package itself. Runs in an environment of its own; see test_lerobot.py.

    .venv-lerobot/bin/python tests/lerobot_check.py DATASET_FOLDER ...

Prints a JSON object a folder with what it read, for the test to compare with what was written.
"""

import json
import sys

import numpy as np
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

CHUNK_OFFSETS = (0, 1, 2)


def main(root: str) -> None:
    dataset = LeRobotDataset("local/blm", root=root)
    fps = dataset.fps
    last = dataset[len(dataset) - 1]
    item = dataset[0]
    windows = LeRobotDataset("local/blm", root=root, delta_timestamps={"action": [i / fps for i in CHUNK_OFFSETS]})
    end_of_episode = windows[int(windows.meta.episodes[0]["dataset_to_index"]) - 1]
    second = LeRobotDataset("local/blm", root=root, episodes=[1])
    torch.manual_seed(0)
    seen = []
    for batch in torch.utils.data.DataLoader(dataset, batch_size=4, shuffle=True):
        seen += batch["index"].tolist()
    camera = dataset.meta.camera_keys[0]
    report = {
        "frames": len(dataset),
        "episodes": dataset.num_episodes,
        "fps": fps,
        "robot_type": dataset.meta.robot_type,
        "camera_keys": dataset.meta.camera_keys,
        "task_of_first": item["task"],
        "task_of_last": last["task"],
        "state_of_last": last["observation.state"].tolist(),
        "picture_shape": list(item[camera].shape),
        "picture_means": [float(dataset[index][camera].mean()) for index in range(len(dataset))],
        "codec": dataset.meta.features[camera].get("info", {}).get("video.codec"),
        "chunk_of_first": np.asarray(item["action_chunk"]).tolist(),
        "chunk_is_pad_of_last": np.asarray(last["action_chunk_is_pad"]).tolist(),
        "success_of_last": bool(last["next.success"]),
        "window": end_of_episode["action"].tolist(),
        "window_is_pad": end_of_episode["action_is_pad"].tolist(),
        "second_episode_frames": len(second),
        "loader_saw": sorted(seen),
        "batch_chunk_shape": list(torch.as_tensor(np.asarray(batch["action_chunk"])).shape),
        "stats_state_std": np.asarray(dataset.meta.stats["observation.state"]["std"]).tolist(),
        "stats_picture_std": np.asarray(dataset.meta.stats[camera]["std"]).tolist(),
        "extra_columns": {k: dataset.meta.episodes[0][k] for k in ("cell", "seed", "geometry")},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        main(folder)
