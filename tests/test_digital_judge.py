"""A judge behind a real endpoint: asked as published, patiently, once for each answer, and never replaced."""

import itertools
import threading
import time
from pathlib import Path

import pytest
from small_judge import small_judge

from blm.model.errors import UserError
from blm.pipelines.digital.judge import Case, Judge, JudgeConfig, case_key
from blm.pipelines.digital.verdict import SYSTEM, instruction

CASES = [
    Case(question="What am I holding?", reference="a cup", answer="a cup"),
    Case(question="What am I holding?", reference="a cup", answer="a cube"),
    Case(question="What am I holding?", reference="a cup", answer="nothing"),
]


def config(url: str, **changes: object) -> JudgeConfig:
    return JudgeConfig(**{"url": url, "model": "small", "backoff_s": 0.01} | changes)  # type: ignore[arg-type]


def test_a_judge_rates_as_published_and_is_asked_once_for_each_answer(tmp_path: Path) -> None:
    with small_judge() as server:
        judge = Judge(config(server.url), tmp_path / "verdicts.jsonl")
        verdicts = judge.rate([*CASES, CASES[0]])
        assert [verdict.rating for verdict in verdicts] == [1.0, 0.5, 0.0, 1.0]
        assert "The reference says 'a cup'" in verdicts[0].reply
        assert len(server.requests) == 3
        request = min(server.requests, key=lambda body: len(body["messages"][1]["content"]))
        assert request["messages"] == [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": instruction(CASES[0].question, "a cup", "a cup")},
        ]
        assert (request["model"], request["temperature"], request["max_tokens"]) == ("small", 0, 2048)
    # Without the server: everything is remembered.
    again = Judge(config("http://127.0.0.1:9/v1"), tmp_path / "verdicts.jsonl").rate(CASES)
    assert [verdict.rating for verdict in again] == [1.0, 0.5, 0.0]


def test_another_judge_or_answer_is_another_case() -> None:
    keys = {case_key("small", case) for case in CASES} | {case_key("large", case) for case in CASES}
    assert len(keys) == 6


def test_a_busy_endpoint_is_asked_again_and_a_torn_memory_is_mended(tmp_path: Path) -> None:
    memory = tmp_path / "verdicts.jsonl"
    memory.write_text('{"key": "torn')
    with small_judge() as server:
        server.failures = [429, 503, 500]
        verdicts = Judge(config(server.url, concurrency=1), memory).rate(CASES)
        assert [verdict.rating for verdict in verdicts] == [1.0, 0.5, 0.0]
        assert len(server.requests) == 6
    assert len(memory.read_text().splitlines()) == 3


def test_an_endpoint_that_stays_away_or_refuses_ends_it_and_nothing_is_lost(tmp_path: Path) -> None:
    with small_judge() as server:
        Judge(config(server.url), tmp_path / "verdicts.jsonl").rate(CASES[:1])
        server.failures = [503] * 10
        with pytest.raises(UserError, match=r"cannot be reached \(status 503"):
            Judge(config(server.url, retries=2), tmp_path / "verdicts.jsonl").rate(CASES)
        server.failures = [401]
        with pytest.raises(UserError, match=r"refuses \(status 401.*correct its URL, model or key"):
            Judge(config(server.url, concurrency=1), tmp_path / "verdicts.jsonl").rate(CASES)
        server.failures = []
        asked = len(server.requests)
        Judge(config(server.url), tmp_path / "verdicts.jsonl").rate(CASES[:1])
        assert len(server.requests) == asked
    with pytest.raises(UserError, match="cannot be reached"):
        Judge(config(server.url, retries=0), tmp_path / "verdicts.jsonl").rate(CASES)
    with small_judge() as server, pytest.raises(UserError, match=r"refuses \(status 404"):
        Judge(config(server.url + "/wrong"), tmp_path / "other.jsonl").rate(CASES)


def test_a_waiting_judge_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with small_judge() as server:
        server.failures = [503, 401, *[503] * 20]
        began_s = time.monotonic()
        with pytest.raises(UserError, match="refuses"):
            Judge(config(server.url, concurrency=2, backoff_s=20), tmp_path / "v.jsonl").rate(CASES[:2])
        assert time.monotonic() - began_s < 8


def test_what_cannot_be_read_is_asked_three_times_and_stays_without_a_rating(tmp_path: Path) -> None:
    replies = itertools.chain(["no idea", "still none", "Rating: [[0.5]]"], itertools.repeat("none"))
    with small_judge(lambda _: next(replies)) as server:
        judge = Judge(config(server.url, concurrency=1), tmp_path / "verdicts.jsonl")
        (late, never) = judge.rate(CASES[:2])
        assert (late.rating, never.rating, never.reply) == (0.5, None, "none")
        assert len(server.requests) == 6
        judge.rate(CASES[:2])
        assert len(server.requests) == 9  # the one without a rating is tried again, the other is not


def test_questions_go_side_by_side_but_not_more_than_allowed(tmp_path: Path) -> None:
    together = threading.Barrier(3, timeout=30)

    def in_company(_: str) -> str:
        together.wait()  # no answer before three are asked
        return "[[1]]"

    cases = [Case(question=str(i), reference="a", answer="b") for i in range(12)]
    with small_judge(in_company) as server:
        Judge(config(server.url, concurrency=3), tmp_path / "verdicts.jsonl").rate(cases)
        assert server.most_busy == 3


def test_the_key_comes_from_the_environment_and_from_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with small_judge() as server:
        Judge(config(server.url, key_env="JUDGE_KEY"), tmp_path / "verdicts.jsonl").rate(CASES[:1])
        Judge(config(server.url), tmp_path / "other.jsonl").rate(CASES[:1])
        assert server.keys == ["Bearer secret", ""]
    assert "secret" not in (tmp_path / "verdicts.jsonl").read_text()
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(UserError, match="JUDGE_KEY holds no key"):
        Judge(config("http://127.0.0.1:9", key_env="JUDGE_KEY"), tmp_path / "verdicts.jsonl")
    with pytest.raises(UserError, match="needs a URL and a model"):
        JudgeConfig(url="localhost", model="small")
