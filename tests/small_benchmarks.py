"""The digital benchmarks in their published layouts, a few records each, with real clips and pictures."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from blm.pipelines.digital import egothink, sharerobot

QUESTION = "What is the most plausible next subtask?"
CLIPS = ("b.mp4", "a.mp4")
EPISODE = "62_robo_set#episode_(1)"
MADE_ON = "/mnt/hpfs/baaiei/jyShi/rt_frames_success"
PACKED_AS = "mnt/hpfs/baaiei/jyShi/ShareRobot/planning/rt_frames_success"


def write_clip(path: Path, seconds: float = 1.0, fps: int = 10, size: tuple[int, int] = (64, 48)) -> Path:
    """A short H.264 video that grows brighter, frame i being of brightness 20 i, from 20 on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i in range(round(seconds * fps)):
            frame = np.full((size[1], size[0], 3), min(20 * (i + 1), 255), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def jpeg(shade: int = 120, size: tuple[int, int] = (56, 56), kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 80, 40)).save(buffer, kind)
    return buffer.getvalue()


def write_file(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    return write_file(path, json.dumps(rows).encode())


# ------------------------------------------------------------------------------------------------------------- cosmos


def cosmos_rows() -> list[dict[str, Any]]:
    """Three questions about two clips: one clip twice, letters without an option, both names of the answer."""
    pair = {"question": QUESTION, "index2ans": {"A": "Grasp the cup", "B": "Push the cup"}, "answer": "B"}
    with_none = pair | {"index2ans": {"A": "yes", "B": "no", "C": None, "D": None}, "answer": "A"}
    renamed = {"question": "Is it done?", "index2ans": {"A": "yes", "B": "no"}, "correct_answer": "B"}
    return [
        {"video": f"clips/{CLIPS[0]}", "qa_pairs": pair},
        {"video": f"clips/{CLIPS[0]}", "qa_pairs": with_none},
        {"video": f"clips/{CLIPS[1]}", "qa_pairs": [renamed]},
    ]


def write_cosmos(root: Path, name: str, *, packed: bool = False, clips: bool = True) -> Path:
    """`root/name`: questions, and clips beside them or in an archive."""
    folder = root / name
    write_rows(folder / f"{name}_benchmark_qa_pairs.json", cosmos_rows())
    if clips:
        for clip in CLIPS:
            write_clip(folder / "clips" / clip)
    if packed:
        with tarfile.open(folder / "clips.tar.gz", "w:gz") as archive:
            archive.add(folder / "clips", "clips")
        for clip in CLIPS:
            (folder / "clips" / clip).unlink()
        (folder / "clips").rmdir()
    return folder


# ----------------------------------------------------------------------------------------------------------- egothink

GROUPS = ("localization", "object", "planning", "reasoning")


def egothink_row(number: int, category: str) -> dict[str, Any]:
    row = {"source_dataset": "ego4d", "image_path": [f"{number}.jpg"]}
    return row | {"question": f"What about {category} {number}?", "answer": f"answer {number}"}


def write_egothink(root: Path, per_category: int = 2) -> Path:
    """`root/data` as in the repository: capital folders, groups with folders of their own."""
    for category in egothink.CATEGORIES:
        group, _, sub = category.partition("_")
        folder = root / "data" / group.capitalize() / sub if group in GROUPS else root / "data" / category.capitalize()
        write_rows(folder / "annotations.json", [egothink_row(i, category) for i in range(per_category)])
        for i in range(per_category):
            write_file(folder / "images" / f"{i}.jpg", jpeg(100 + i))
    return root


def write_egothink_parquet(root: Path, per_category: int = 2) -> Path:
    """As in the copies on the hub: a folder a configuration, pictures inside."""
    for category in egothink.CATEGORIES:
        name = category.capitalize().replace("Forecast", "Forecasting")
        rows = [egothink_row(i, category) for i in range(per_category)]
        table = pa.table(
            {
                "image": [{"bytes": jpeg(100 + i), "path": row["image_path"][0]} for i, row in enumerate(rows)],
                "question": [row["question"] for row in rows],
                "answer": [row["answer"] for row in rows],
                "id": [str(i) for i in range(per_category)],
            }
        )
        (root / name).mkdir(parents=True)
        pq.write_table(table, root / name / "test-00000-of-00001.parquet", row_group_size=1)
    return root


# --------------------------------------------------------------------------------------------------------- sharerobot


def sharerobot_row(task: str, number: int, frames: int) -> dict[str, Any]:
    episode = f"{MADE_ON}/rtx_frames_success_42/{EPISODE}"
    short = any(word in task for word in ("Success", "Discriminative"))
    return {
        "id": episode,
        "task": task,
        "selected_step": 3,
        "conversations": [
            {"from": "human", "value": "<image> " * frames + f"\nAfter <move the cup {number}>, what comes next?"},
            {"from": "gpt", "value": ("yes" if number % 2 == 0 else "no") if short else "<place the cup>"},
        ],
        "image": [f"{episode}/frame_{i}.png" for i in range(frames)],
    }


def write_sharerobot(root: Path, per_category: int = 2, frames: int = 3) -> Path:
    """`root/planning`: test and (mixed) jsons, frames where the archive puts them."""
    for category in sharerobot.CATEGORIES:
        # The published values: Success_(Positive)_Task, Planning_with_Context_Task.
        task = category.title().replace("With", "with")
        rows = [sharerobot_row(task, i, frames) for i in range(per_category)]
        write_rows(root / "planning" / "test" / f"{category}_templates.json", rows)
        write_rows(root / "planning" / "jsons" / f"{category}.json", rows * 2)
    folder = root / "planning" / "images" / PACKED_AS / "rtx_frames_success_42" / EPISODE
    for i in range(frames):
        write_file(folder / f"frame_{i}.png", jpeg(60 * i, kind="PNG"))
    return root


def write_all(root: Path, per_category: int = 1) -> Path:
    """All six."""
    for name in ("robovqa", "agibot", "holoassist"):
        write_cosmos(root / "cosmos", name)
    write_cosmos(root / "cosmos", "robofail", packed=True)
    write_egothink(root / "EgoThink", per_category)
    write_sharerobot(root / "ShareRobot", per_category)
    return root
