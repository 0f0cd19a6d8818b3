"""A corpus of two pictures, a white and a black one, and a model that has learned it by heart."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from blm.pipelines.datasets.chat import ChatRow, chat_turn, write_chat

SIDE_PX = 28
PLACES = {True: "<loc_10> <loc_20> <loc_30>", False: "<loc_40> <loc_20> <loc_30>"}


def picture(white: bool) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE_PX, SIDE_PX), (250,) * 3 if white else (5,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def looking(name: str, white: bool, category: str, phrasing: str) -> ChatRow:
    """Is it white, or where is it: only the picture tells."""
    question = {"white": "Is the cube white?", "place": "Where is the cube?"}[category]
    answer = {"white": "yes" if white else "no", "place": PLACES[white]}[category]
    turn = chat_turn(f"<image>\n{question}", answer)
    return ChatRow(
        id=name,
        source="simulator",
        category=category,
        messages=turn,
        images=(picture(white),),
        meta={"phrasing": phrasing},
    )


def talking(name: str) -> ChatRow:
    return ChatRow(id=name, source="language", category="talk", messages=chat_turn("Is the goal red?", "yes"))


def rows(split: str, count: int) -> list[ChatRow]:
    """`count` rows of each category; white and black by turns, one white more at the end if the number is odd."""
    looks = [
        looking(f"{split}-{category}-{i}", i % 2 == 0, category, "seen" if i % 4 < 2 else "held_out")
        for category in ("white", "place")
        for i in range(count)
    ]
    return [*looks, *(talking(f"{split}-talk-{i}") for i in range(count))]


def write_corpus(folder: Path, *, train: int = 9, test: int = 8) -> Path:
    """`train/` and `test/`, the latter in two files."""
    write_chat(folder / "train" / "a.parquet", rows("train", train))
    asked = rows("test", test)
    write_chat(folder / "test" / "a.parquet", asked[: len(asked) // 2])
    write_chat(folder / "test" / "b.parquet", asked[len(asked) // 2 :])
    return folder


def write_learned_model(folder: Path, mllm: Path, steps: int = 60) -> Path:
    """`mllm` after a few steps on the corpus: enough to answer it all, by looking."""
    import torch

    from blm.model.backbone import load_backbone, save_backbone
    from blm.model.chat_encoder import ChatEncoder
    from blm.model.packing import EncodedRow, count_targets, pack
    from blm.model.sft import SftModule

    model, processor = load_backbone(mllm)
    encoder = ChatEncoder(processor, model.config)
    items = []
    for row in rows("train", 2):
        images = [np.array(Image.open(io.BytesIO(data))) for data in row.images]
        chat = encoder.encode(row.messages, [image.shape[:2] for image in images])
        items.append(
            EncodedRow(
                input_ids=chat.input_ids,
                labels=chat.labels,
                positions=chat.positions,
                media=encoder.media(images),
                points_px=np.full((len(images), 3, 2), np.nan, np.float32),
            )
        )
    batch, answers = pack(items, pad_token_id=encoder.pad_token_id), sum(count_targets(item)[0] for item in items)
    module = SftModule(model, None).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for _ in range(steps):
        total, _ = module(batch)
        loss = total / answers
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05, f"the small model has not learned its corpus: loss {loss.item():.3f}"
    save_backbone(folder, model.eval(), processor)
    return folder
