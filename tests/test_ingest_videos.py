"""Ingestion of videos: kept frames, splits by clip, and benchmark clips by name and by look."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from small_ingest import bad_corpus, picture

from blm.pipelines.datasets.chat import iterate_chat
from blm.pipelines.ingest.flow import PARTS, forget_parts, ingest
from blm.pipelines.ingest.options import IngestConfig, SourceConfig
from blm.pipelines.ingest.parts import load_part
from blm.pipelines.ingest.selection import select, tally


def write_video(path: Path, seed: int, *, size: tuple[int, int] = (128, 96), frames: int = 20, rate: int = 10) -> None:
    """A film in which a square crosses a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = *size, "yuv420p", Fraction(1, rate)
        for i in range(frames):
            shown = np.asarray(picture(seed, (128, 96))).copy()
            shown[30:50, 4 * i : 4 * i + 20] = (250, 30, 30)
            frame = av.VideoFrame.from_image(Image.fromarray(shown).resize(size))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def told(number: int, video: str, question: str = "What does the square do?") -> dict[str, Any]:
    turns = [{"from": "human", "value": f"<video>\n{question}"}, {"from": "gpt", "value": f"It crosses {number}."}]
    return {"id": number, "video": video, "conversations": turns}


def run(config: IngestConfig, out: Path) -> dict[str, Any]:
    report = ingest(config, out, workers=0, progress=lambda text: None)
    forget_parts(out)
    return report["films"]


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Eight films, two questions about each."""
    for i in range(8):
        write_video(tmp_path / f"films/clip_{i:03d}_a.mp4", seed=i)
    records = [told(i, f"clip_{i % 8:03d}_a.mp4", f"Question {i // 8}?") for i in range(16)]
    (tmp_path / "films/films.json").write_text(json.dumps(records))
    return tmp_path / "films/films.json"


def test_frames_are_kept_at_the_rate_asked_for(films, tmp_path):
    source = SourceConfig(name="films", path=films, fps=2.0, max_frames=3)
    report = run(IngestConfig(sources=(source,)), tmp_path / "out")
    assert report["read"]["videos"] == report["kept"]["train"] == 16
    assert report["read"]["frames"] == 16 * 3
    row = next(iterate_chat(tmp_path / "out/train"))
    assert row.messages[0]["text"].count("<video>") == 1
    assert len(row.videos[0].frames) == 3
    assert 0.5 < row.videos[0].fps <= 2.0


def test_all_questions_about_a_clip_are_in_one_split(films, tmp_path):
    source = SourceConfig(name="films", path=films, holdout=0.4)
    report = run(IngestConfig(sources=(source,), seed=2), tmp_path / "out")
    assert 0 < report["kept"]["test"] < 16
    clips = [{int(row.meta["id"]) % 8 for row in iterate_chat(tmp_path / "out" / s)} for s in ("train", "test")]
    assert not clips[0] & clips[1]
    assert clips[0] | clips[1] == set(range(8))


def test_benchmark_clips_are_known_by_name_and_by_look(films, tmp_path):
    benchmark = tmp_path / "benchmark/robovqa"
    write_video(benchmark / "clips/other_name_01.mp4", seed=3, size=(96, 72))  # the same film, smaller
    write_video(benchmark / "clips/clip_005_a.mp4", seed=77)  # another film of the same name
    (benchmark / "clips/cut_000001.mp4").write_bytes((benchmark / "clips/clip_005_a.mp4").read_bytes()[:700])
    pairs = {"question": "What next?", "index2ans": {"A": "this", "B": "that"}, "answer": "A"}
    names = ("other_name_01", "clip_005_a", "gone_00017", "cut_000001")
    rows = [{"video": f"clips/{name}.mp4", "qa_pairs": pairs} for name in names]
    (benchmark / "robovqa_benchmark_qa_pairs.json").write_text(json.dumps(rows))
    said: list[str] = []
    config = IngestConfig(sources=(SourceConfig(name="films", path=films),), decontaminate=(tmp_path / "benchmark",))
    report = ingest(config, tmp_path / "out", workers=0, progress=said.append)["films"]
    assert report["decontaminated"]["clip_name"] == 2
    assert report["decontaminated"]["frame"] == 2
    left = {int(row.meta["id"]) % 8 for row in iterate_chat(tmp_path / "out/train")}
    assert left == set(range(8)) - {3, 5}
    assert any("4 items" in line and "media of 2 missing" in line for line in said)


def test_near_rows_stay_where_they_are_near_by_design_or_on_request(tmp_path):
    source = SourceConfig(name="foreign", path=bad_corpus(tmp_path / "corpus"))
    config = IngestConfig(sources=(source,), max_rejected_share=0.5, near_duplicates=False)
    report = ingest(config, tmp_path / "out", workers=0, progress=lambda text: None)["foreign"]
    assert report["duplicates"] == {"exact": 5, "near": 0}
    parts = [load_part(path.with_suffix("")) for path in sorted((tmp_path / "out" / PARTS / "foreign").glob("*.json"))]
    taken = np.zeros((0, 2), dtype=np.uint64)
    for name, near in (("llava", 1), ("lerobot", 0)):
        fates = select((source,), (name,), (parts,), taken, near=True, seed=0, folder=tmp_path / name)
        assert tally(fates)["near_duplicates"] == near
        assert tally(fates)["exact_duplicates"] == 5
