"""Language retention: figures that follow from the probabilities, of questions, options, prose and any text."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from small_corpus import rows, write_corpus
from small_families import write_family

from blm.model.backbone import load_backbone
from blm.model.chat_encoder import ChatEncoder
from blm.model.errors import UserError
from blm.model.prompts import IGNORE_INDEX
from blm.pipelines.datasets.chat import write_chat
from blm.pipelines.datasets.language import facts
from blm.pipelines.retention import compare, measure_retention
from blm.pipelines.retention_sources import GENERAL, file_passages, general_passages, text_passages


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def encoder(tiny_mllm) -> ChatEncoder:
    return ChatEncoder.load(tiny_mllm)


def by_key(found: dict) -> dict[tuple[str, str], dict]:
    return {(row["source"], row["category"]): row for row in found["categories"]}


def test_the_shipped_set_is_small_sound_and_not_trained_on():
    shipped = json.loads(GENERAL.read_text(encoding="utf-8"))
    assert GENERAL.stat().st_size < 60_000
    assert len(shipped["questions"]) >= 100
    assert len(shipped["prose"]) >= 5
    texts = [question[1] for question in shipped["questions"]]
    assert len(set(texts)) == len(texts)
    for topic, question, *options in shipped["questions"]:
        assert topic
        assert question.endswith("?")
        assert len(set(options)) == 4
    trained = {text for fact in facts() for text in fact.questions}
    assert not trained & set(texts)


def test_windows_score_every_token_once_with_context_before_it(encoder):
    text = "Where is the cube? Push the cube to the goal. " * 30
    windows = list(text_passages(text, encoder, source="prose", window=64))
    ids = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    scored = [window.row.labels[window.row.labels != IGNORE_INDEX] for window in windows]
    assert np.concatenate(scored).tolist() == ids
    assert sum(window.n_bytes for window in windows) == len(text.encode())
    assert len(windows) > 2
    for window in windows[1:]:
        assert len(window.row.input_ids) <= 64
        assert (window.row.labels[:32] == IGNORE_INDEX).all()


def test_a_learned_corpus_is_read_with_less_surprise(corpus, learned_mllm, tiny_mllm):
    before = measure_retention(tiny_mllm, corpus, device="cpu", dtype="float32")
    after = measure_retention(str(learned_mllm), corpus, device="cpu", dtype="float32")
    assert (before["n"], before["accuracy"]) == (8, 0.0)  # rows with pictures are not language
    assert (after["n"], after["accuracy"], after["high"]) == (8, 1.0, 1.0)
    assert 0.6 < after["low"] < 0.7
    assert after["perplexity"] < 1.2 < before["perplexity"]
    assert after["bits_per_byte"] < before["bits_per_byte"]
    table = by_key(after)
    assert table["corpus", "talk"]["n"] == table["corpus", "all"]["n"] == 8
    assert table["general", "all"]["n"] == sum(
        row["n"] for (source, topic), row in table.items() if source == "general" and topic != "all"
    )
    assert table["prose", "prose"]["accuracy"] is None
    lines = compare(before, after)
    assert len(lines) == 1 + len(after["categories"])
    assert any(line.startswith("corpus, talk") and "0.0% -> 100.0%" in line for line in lines)


def test_figures_are_those_of_the_models_own_probabilities(tiny_mllm, tmp_path):
    text = "Push the cube to the goal."
    (tmp_path / "note.txt").write_text(text)
    found = by_key(measure_retention(tiny_mllm, None, device="cpu", dtype="float32", texts=[tmp_path / "note.txt"]))
    row = found["note.txt", "note.txt"]
    model, processor = load_backbone(tiny_mllm)
    tokenizer = processor.tokenizer
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    ids = torch.tensor([[start, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    nats = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum").item()
    assert row["perplexity"] == pytest.approx(math.exp(nats / (ids.shape[1] - 1)), rel=1e-3)
    assert row["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(text), rel=1e-3)


def test_the_likeliest_option_by_bytes_is_the_choice(tiny_mllm, encoder):
    found = by_key(measure_retention(tiny_mllm, None, device="cpu", dtype="float32"))
    model, _ = load_backbone(tiny_mllm)
    right, asked = 0, 0
    passages = [p for p in general_passages(encoder) if p.category == "sky"]
    for number in dict.fromkeys(p.question for p in passages):
        costs = []
        for passage in (p for p in passages if p.question == number):
            with torch.no_grad():
                logits = model(input_ids=torch.from_numpy(passage.row.input_ids.astype(np.int64))[None]).logits[0]
            labels = torch.from_numpy(passage.row.labels.astype(np.int64))
            nats = torch.nn.functional.cross_entropy(
                logits[:-1], labels[1:], reduction="sum", ignore_index=IGNORE_INDEX
            )
            costs.append(nats.item() / passage.n_bytes)
        right += costs[0] < min(costs[1:])
        asked += 1
    assert found["general", "sky"]["n"] == asked == 8
    assert found["general", "sky"]["accuracy"] == right / asked


def test_a_folder_of_conversations_and_a_folder_of_texts_are_read(encoder, tmp_path):
    write_chat(tmp_path / "chats" / "a.parquet", rows("test", 3))
    conversations = list(file_passages(tmp_path / "chats", encoder, 0))
    assert len(conversations) == 3  # the six that show a picture are left out
    assert {passage.source for passage in conversations} == {"chats"}
    assert all(passage.asked for passage in conversations)
    (tmp_path / "texts").mkdir()
    for name in ("b.md", "a.txt"):
        (tmp_path / "texts" / name).write_text(f"Push the cube. {name}")
    texts = list(file_passages(tmp_path / "texts", encoder, 0))
    assert [encoder.tokenizer.decode(p.row.input_ids[1:]) for p in texts] == [
        "Push the cube. a.txt",
        "Push the cube. b.md",
    ]
    assert len(list(file_passages(tmp_path / "texts", encoder, 1))) == 1


def test_foreign_conversations_are_read_as_ingestion_reads_them(encoder, tmp_path):
    lines = [
        {"messages": [{"role": "user", "content": "Is the goal red?"}, {"role": "assistant", "content": "yes"}]},
        {"messages": "broken"},
    ]
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (passage,) = file_passages(path, encoder, 0)
    answer = passage.row.labels[passage.row.labels != IGNORE_INDEX]
    assert encoder.tokenizer.decode(answer).startswith("yes")
    assert (passage.source, passage.n_bytes) == ("chat.jsonl", 3)


def test_what_holds_no_language_is_refused(encoder, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        list(file_passages(tmp_path / "nothing.txt", encoder, 0))
    write_chat(tmp_path / "a.parquet", [row for row in rows("test", 2) if row.images])
    with pytest.raises(UserError, match="neither plain text nor a conversation"):
        list(file_passages(tmp_path / "a.parquet", encoder, 0))


@pytest.mark.parametrize("family", ["qwen3_vl", "internvl"])
def test_other_families_are_measured_too(family, tmp_path):
    folder = write_family(tmp_path / family, family)
    (tmp_path / "note.txt").write_text("Push the cube to the goal. " * 20)
    found = measure_retention(folder, None, device="cpu", dtype="float32", texts=[tmp_path / "note.txt"])
    table = by_key(found)
    assert table["general", "all"]["n"] == found["n"] > 100
    assert 1.0 < table["note.txt", "note.txt"]["perplexity"] < 1e6
