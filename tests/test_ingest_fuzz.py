"""Anything in a corpus: nothing ends the run, and every record is a sound row or counted with a reason."""

import io
import json
import random
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from small_ingest import jpeg, looking, talking

from blm.pipelines.datasets.chat import read_chat, validate_row
from blm.pipelines.ingest.flow import forget_parts, ingest
from blm.pipelines.ingest.options import IngestConfig, SourceConfig

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
INSIDE = ["good.jpg", "cut.jpg", "huge.png", "text.jpg", "empty.jpg", "thin.png", "\0.jpg", "../../outside.jpg", ""]
ELSEWHERE = ["../outside.jpg", "/etc/passwd", "link.jpg", "", "a" * 5000, "images\\good.jpg", "video.mp4"]
ADDRESSES = ["https://example.org/a.jpg", "data:image/png;base64,AAAA", "file:///etc/passwd"]
PATHS = st.sampled_from([*(f"images/{name}" for name in INSIDE), *ELSEWHERE, *ADDRESSES])
TEXTS = st.sampled_from(
    [
        "<image>\nWhat?",
        "Here.",
        "",
        " ",
        "<image>" * 3,
        "<video>",
        "<|im_end|>\n<|im_start|>assistant",
        "x" * 200_000,
        "\0",
    ]
) | st.text(max_size=40)
TURN = st.fixed_dictionaries(
    {"from": st.sampled_from(["human", "gpt", "system", "robot", "user", "assistant"]) | JUNK, "value": TEXTS | JUNK}
)
RECORD = st.one_of(
    st.just(looking(1) | {"image": "images/good.jpg"}),
    st.integers(0, 50).map(talking),
    JUNK,
    st.fixed_dictionaries(
        {"conversations": st.lists(TURN, max_size=5) | JUNK},
        optional={"image": PATHS | st.lists(PATHS, max_size=3) | JUNK, "video": PATHS | JUNK, "id": JUNK},
    ),
    st.fixed_dictionaries(
        {"messages": st.lists(st.fixed_dictionaries({"role": JUNK, "content": TEXTS | JUNK}), max_size=4) | JUNK},
        optional={"images": st.lists(PATHS, max_size=2), "videos": JUNK},
    ),
)
FUZZ = settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))


def make_media(folder: Path) -> None:
    images = folder / "images"
    images.mkdir()
    good = jpeg(1)
    (images / "good.jpg").write_bytes(good)
    (images / "cut.jpg").write_bytes(good[: len(good) // 2])
    (images / "text.jpg").write_text("no picture")
    (images / "empty.jpg").touch()
    huge = io.BytesIO()
    Image.new("1", (12_000, 10_000)).save(huge, "PNG")  # 120 megapixels in few bytes
    (images / "huge.png").write_bytes(huge.getvalue())
    Image.new("RGB", (4000, 1)).save(images / "thin.png")
    (folder / "video.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    (folder.parent / "outside.jpg").write_bytes(jpeg(2))
    (folder / "link.jpg").symlink_to(folder.parent / "outside.jpg")


def check(path: Path, name: str) -> dict[str, Any]:
    """Ingest what is there; every record must be accounted for. Returns the report."""
    out = path.parent / "out"
    source = SourceConfig(name="fuzz", path=path, format=name, holdout=0.2)
    options = IngestConfig(sources=(source,), max_rejected_share=1.0, piece_mb=0.001)
    report = ingest(options, out, workers=0, progress=lambda text: None)["fuzz"]
    forget_parts(out)
    gone = report["rejected"] + sum(report["duplicates"].values()) + sum(report["decontaminated"].values())
    assert report["records"] == sum(report["kept"].values()) + gone
    assert "reader_error" not in report["rejected_by_reason"]
    rows = [row for split in ("train", "test") for file in (out / split).glob("*") for row in read_chat(file)]
    assert len(rows) == sum(report["kept"].values())
    good = jpeg(1)
    for row in rows:
        validate_row(row)
        assert all(image == good for image in row.images), "the one good picture, none from outside"
    lines = [
        json.loads(line) for file in (out / "quarantine").rglob("*.jsonl") for line in file.read_text().splitlines()
    ]
    assert len(lines) == report["rejected"]
    assert all(len(json.dumps(line)) < 8000 for line in lines)
    return report


@FUZZ
@given(
    st.lists(RECORD, min_size=1, max_size=12), st.sampled_from(["json", "jsonl"]), st.sampled_from(["llava", "openai"])
)
def test_json_of_any_content(records, suffix, name):
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "corpus"
        folder.mkdir()
        make_media(folder)
        path = folder / f"a.{suffix}"
        texts = [json.dumps(record) for record in records]
        path.write_text("\n".join(texts) if suffix == "jsonl" else json.dumps([talking(51), *records]))
        if suffix == "jsonl":
            path.write_text(json.dumps(talking(51)) + "\n" + path.read_text())
        assert check(path, name)["records"] >= 1


@FUZZ
@given(st.binary(max_size=200), st.integers(0, 2**32))
def test_files_with_bytes_damaged_anywhere(noise, seed):
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "corpus"
        folder.mkdir()
        make_media(folder)
        lines = [json.dumps(talking(i)) for i in range(30)]
        content = bytearray(("\n".join(lines) + "\n").encode())
        for byte in noise:
            content[draw.randrange(400, len(content))] = byte
        (folder / "a.jsonl").write_bytes(bytes(content))
        assert check(folder / "a.jsonl", "llava")["kept"]["train"] > 0


@FUZZ
@given(
    st.lists(
        st.tuples(st.sampled_from(["json", "jpg", "png", "mp4", "txt", "cam0.jpg"]), st.binary(max_size=60)), max_size=8
    )
)
def test_tars_of_any_members(members):
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "corpus/a.tar"
        path.parent.mkdir()
        with tarfile.open(path, "w") as tar:
            good = [("0.json", json.dumps(looking(1)).encode()), ("0.jpg", jpeg(1))]
            for name, content in [*good, *((f"{i // 2 + 1}.{kind}", data) for i, (kind, data) in enumerate(members))]:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        assert check(path, "webdataset")["records"] >= 1


@FUZZ
@given(st.lists(st.tuples(st.binary(max_size=40), st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=6))
def test_parquet_of_any_pictures_and_words(cells):
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "corpus/a.parquet"
        path.parent.mkdir()
        rows = [
            {
                "image": {"bytes": picture, "path": None},
                "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}],
            }
            for picture, question, answer in [(jpeg(1), "<image>\nWhat?", "That."), *cells]
        ]
        pq.write_table(pa.Table.from_pylist(rows), path)
        assert check(path, "parquet")["records"] == len(rows)
