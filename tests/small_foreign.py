"""Tiny corpora in the true layout of each foreign format, made here: pictures, clips, and the files that name them."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from blm.pipelines.datasets.readers.load import MediaRules, load_record
from blm.pipelines.datasets.readers.record import Options, Record, Rejected
from blm.pipelines.datasets.readers.split import PIECE_BYTES, read_piece, split

SIDE = 48
EGOTHINK = ("Activity", "Forecast", "Localization/spatial", "Object/existence")


def picture(number: int = 0, *, width: int = SIDE, height: int = SIDE) -> np.ndarray:
    """A coloured field with a bright corner, which tells up from down; uint8 [H,W,3]."""
    field = np.full((height, width, 3), (40 + 5 * (number % 30), 90, 160), dtype=np.uint8)
    field[: height // 4, : width // 4] = 250
    return field


def encoded(array: np.ndarray | None = None, format: str = "JPEG", **options: Any) -> bytes:
    """A picture in a file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(picture() if array is None else array).save(buffer, format, **options)
    return buffer.getvalue()


def clip(frames: int = 20, fps: int = 10, *, key_frame_every: int = 12, width: int = SIDE, height: int = SIDE) -> bytes:
    """An MP4 whose k-th frame is a grey of 8 * k (up to 248)."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "4", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.gop_size = key_frame_every
        stream.codec_context.thread_count = 1
        for k in range(frames):
            grey = np.full((height, width, 3), 8 * (k % 32), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def put(path: Path, content: bytes | str) -> Path:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def llava_sample(
    number: int = 0, image: Any = "images/0.jpg", question: str = "<image>\nWhat is it?"
) -> dict[str, Any]:
    """One conversation as LLaVA writes it."""
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": f"A blue field, number {number}."}]
    return {"id": f"sample-{number}", "image": image, "conversations": turns}


def write_llava(root: Path, samples: Sequence[Any] | None = None, *, lines: bool = False) -> Path:
    """A LLaVA corpus: one JSON file and a folder of pictures."""
    for k in range(3):
        put(root / f"images/{k}.jpg", encoded(picture(k)))
    given = [llava_sample(k, f"images/{k % 3}.jpg") for k in range(7)] if samples is None else samples
    if lines:
        return put(root / "train.jsonl", "".join(json.dumps(sample) + "\n" for sample in given))
    return put(root / "train.json", json.dumps(given, indent=1))


def write_cosmos(root: Path) -> Path:
    """Two subsets of the Cosmos-Reason1 benchmark."""
    for subset, n_options in (("robovqa", 2), ("agibot", 4)):
        put(root / subset / "clips/a.mp4", clip())
        options = {letter: f"step {letter}" for letter in "ABCD"[:n_options]} | ({"D": None} if n_options < 4 else {})
        pair = {"question": "What comes next?", "index2ans": options, "answer": "B"}
        rows = [{"video": "clips/a.mp4", "qa_pairs": pair}, {"video": "clips/a.mp4", "qa_pairs": [pair, pair]}]
        put(root / subset / f"{subset}_benchmark_qa_pairs.json", json.dumps(rows))
    return root


def write_cosmos_sft(root: Path) -> Path:
    """A subset of the Cosmos-Reason1 fine-tuning set."""
    put(root / "robovqa/video_clips/a.mp4", clip())
    turns = [
        {"role": "system", "content": "Answer the questions."},
        {"role": "user", "content": "What does the robot do?"},
        {"role": "assistant", "content": "<think>It moves.</think>\n<answer>It pushes.</answer>"},
    ]
    put(root / "robovqa/reasoning.json", json.dumps([{"video": "/cache/robovqa/a.mp4", "conversations": turns}] * 2))
    return root


def write_sharerobot(root: Path, *, shorthand: bool = False) -> Path:
    """One file of ShareRobot's planning questions, its frames unpacked below `rt_frames_success`."""
    home = "rt_frames_success/rtx_frames_success_42/62_robo_set#episode_1570"
    for k in range(3):
        put(root / home / f"frame_{k}.png", encoded(picture(k), "PNG"))
    marks = "<image 0-2>" if shorthand else "<image> <image> <image> "
    text = f"{marks}\nAfter <move the banana towards the mug>, what's the most probable next event?"
    row = {
        "id": f"/mnt/hpfs/baaiei/jyShi/{home}",
        "task": "Future_Prediction_Task",
        "selected_step": 3,
        "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "<place the banana>"}],
        "image": [f"/mnt/hpfs/baaiei/jyShi/ShareRobot/planning/{home}/frame_{k}.png" for k in range(3)],
    }
    put(root / "future_prediction_task.json", json.dumps([row, row]))
    return root


def write_egothink(root: Path) -> Path:
    """Four of EgoThink's twelve folders."""
    for name in EGOTHINK:
        put(root / name / "images/1.jpg", encoded(picture(len(name))))
        row = {"source_dataset": "ego4d", "image_path": ["1.jpg"], "question": "What am I doing?", "answer": "tying"}
        put(root / name / "annotations.json", json.dumps([row]))
    return root


def write_webdataset(root: Path, n: int = 4, suffix: str = "") -> Path:
    """A shard of samples with a picture, with two cameras, with a video and with names of another machine."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / f"shard-000.tar{suffix}"
    with tarfile.open(path, "w:gz" if suffix == ".gz" else "w") as tar:
        for k in range(n):
            media: dict[str, bytes]
            sample = llava_sample(k)
            del sample["image"]
            if k % 4 == 0:
                media = {"jpg": encoded(picture(k))}
            elif k % 4 == 1:
                media = {"cam0.jpg": encoded(picture(k)), "cam1.jpg": encoded(picture(k + 1))}
                sample = llava_sample(k, ["cam0.jpg", "cam1.jpg"], "<image><image>\nWhat differs?")
            elif k % 4 == 2:
                media = {"mp4": clip()}
                sample["conversations"][0]["value"] = "What happens?"
            else:
                media = {"png": encoded(picture(k), "PNG")}
                sample["image"] = "/data/of/somebody/else.png"
            add_member(tar, f"{k:06d}.json", json.dumps(sample).encode())
            for name, content in media.items():
                add_member(tar, f"{k:06d}.{name}", content)
    return path


def add_member(tar: tarfile.TarFile, name: str, content: bytes, **fields: Any) -> None:
    """A member of a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(content))


def write_parquet(root: Path, n: int = 6) -> Path:
    """Conversations as the Hugging Face hub has them: pictures as structs of bytes, two rows a group."""
    rows = [
        {
            "id": k,
            "images": [{"bytes": encoded(picture(k)), "path": None}],
            "messages": [
                {"role": "user", "content": "<image>What is it?"},
                {"role": "assistant", "content": f"Field {k}"},
            ],
        }
        for k in range(n)
    ]
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), root / "train-00000-of-00001.parquet", row_group_size=2)
    return root / "train-00000-of-00001.parquet"


def read_all(
    path: Path, format: str, *, size: int = PIECE_BYTES, options: Options | None = None
) -> list[Record | Rejected]:
    """Everything a corpus has, piece by piece."""
    return [found for piece in split(path, format, size, options) for found in read_piece(piece)]


def records(path: Path, format: str, **options: Any) -> list[Record]:
    """The same, where nothing may be rejected."""
    found = read_all(path, format, **options)
    assert not [one for one in found if isinstance(one, Rejected)], found
    return [one for one in found if isinstance(one, Record)]


def load(record: Record, root: Path, **rules: Any) -> Any:
    """A record with its media: a ChatRow or Rejected."""
    return load_record(record, MediaRules(root=str(root), **rules), "foreign")
