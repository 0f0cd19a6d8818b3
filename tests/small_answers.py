"""A tiny multimodal model that has learned six questions by heart, and the small corpus that asks them.

Two of the answers depend on the picture, so a model that answers them has looked.
"""

import io
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from blm.model.prompts import loc_token
from blm.pipelines.datasets.chat import ChatRow, chat_turn, write_chat

SIDE = 28
COLORS = {"red": (200, 20, 20), "blue": (20, 20, 200)}
PLACES = {"red": (0.10, -0.10, 0.02), "blue": (-0.20, 0.10, 0.02)}
SUMS = {"What is 1 plus 1?": "2", "What is 2 plus 1?": "3"}


def picture(name: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), COLORS[name]).save(buffer, "PNG")
    return buffer.getvalue()


def position(name: str) -> str:
    return " ".join(loc_token(axis, value) for axis, value in enumerate(PLACES[name]))


def question_rows() -> list[ChatRow]:
    """Six questions of three categories, one a row."""
    rows = []
    for name in COLORS:
        for category, text, answer in (
            ("color", "Which color?", name),
            ("object_position", "Where is the cube?", position(name)),
        ):
            turn = chat_turn(f"<image>\n{text}", answer)
            rows.append(
                ChatRow(
                    id=f"{name}-{category}",
                    source="simulator",
                    category=category,
                    images=(picture(name),),
                    messages=turn,
                    meta={"seed": 3_000_000},
                )
            )
    return rows + [
        ChatRow(id=f"sum-{i}", source="language", category="arithmetic", messages=chat_turn(*pair))
        for i, pair in enumerate(SUMS.items())
    ]


def training_rows() -> list[ChatRow]:
    """Conversations about the same pictures, red three times and blue once: `red` is the commonest answer."""
    rows = []
    for i, name in enumerate(("red", "red", "red", "blue")):
        first = chat_turn("<image>\nWhich color?", name)
        second = chat_turn("Where is the cube?", position(name))
        rows.append(
            ChatRow(
                id=f"train-{i}",
                source="simulator",
                category="mixed",
                images=(picture(name),),
                messages=(*first, *second),
                meta={"categories": ["color", "object_position"], "seed": 2_000_000 + i},
            )
        )
    language = ChatRow(id="t-sum", source="language", category="arithmetic", messages=chat_turn("1 + 1 =", "2"))
    return [*rows, language]


def write_inputs(root: Path, model: Path) -> dict[str, Path]:
    """Folders as `corpora` and `stage1` leave them, the latter with a copy of `model`."""
    rows = question_rows()
    write_chat(root / "corpora" / "test" / "simulator-0000.parquet", rows[:4])
    write_chat(root / "corpora" / "test" / "language-0000.parquet", rows[4:])
    write_chat(root / "corpora" / "train" / "all-0000.parquet", training_rows())
    shutil.copytree(model, root / "stage1" / "model")
    before = {"all": 0.1, "color": 0.25, "arithmetic": 0.0}
    (root / "stage1" / "metrics.json").write_text(json.dumps({"accuracy": {"before": before}}))
    return {"corpora": root / "corpora", "stage1": root / "stage1"}


def write_learned_model(folder: Path, steps: int = 60) -> Path:
    """A model of half a million parameters trained on `question_rows` until it knows them (some seconds on a core)."""
    import torch
    from torch.nn import functional as F

    from blm.model.backbone import TinyBackboneConfig, build_tiny, make_processor, save_backbone
    from blm.model.prompts import encode_chat
    from blm.model.rope import mrope_positions
    from blm.model.sft import EncodedRow, answer_logits, collate, forward_hidden
    from blm.model.tokenizer import train_tokenizer

    rows = question_rows()
    texts = [message["text"] for row in rows for message in row.messages]
    tokenizer = train_tokenizer(texts * 20, 512)
    config = TinyBackboneConfig(vision_depth=1, vision_width=32, depth=2, width=96, vocab_size=512)
    model = build_tiny(config, tokenizer, 0)
    encoded = []
    for row in rows:
        chat = encode_chat(tokenizer, row.messages, [1] * len(row.images))
        grids = [(1, 1)] * len(row.images)
        positions = mrope_positions(chat.input_ids, image_token_id=model.config.image_token_id, grids=grids)
        images = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in row.images]
        encoded.append(
            EncodedRow(
                input_ids=np.array(chat.input_ids, np.int32),
                labels=np.array(chat.labels, np.int32),
                positions=positions,
                images=np.stack(images) if images else np.zeros((0, SIDE, SIDE, 3), np.uint8),
                points_px=np.full((len(images), 3, 2), np.nan, np.float32),
            )
        )
    batch = collate(encoded, tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        hidden, _ = forward_hidden(model, batch)
        loss = F.cross_entropy(*answer_logits(model, hidden, batch.labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_backbone(folder, model.eval(), make_processor(tokenizer))
    return folder
