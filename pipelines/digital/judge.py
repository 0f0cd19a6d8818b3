"""Grades by a language model behind any endpoint that speaks OpenAI's protocol.

Every verdict is kept in a file, so nothing is paid for twice. A judge that cannot be reached ends the command; what it
has said is kept, and nothing is ever put in its place.
"""

import hashlib
import json
import os
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from blm.model.errors import UserError
from blm.pipelines.digital.verdict import SYSTEM, TEMPLATE, TEMPLATE_NAME, instruction, read_rating
from blm.pipelines.ledger import Ledger

DEFAULT_KEY = "OPENAI_API_KEY"
BUSY = frozenset({408, 409, 425, 429})
"""Statuses, beside those from 500 on, after which asking again makes sense."""
LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeConfig:
    """Who judges, and how patiently it is asked."""

    url: str
    """Base of the endpoint, as in `https://api.openai.com/v1`."""
    model: str
    """Its name there; stands beside every score."""
    key_env: str = DEFAULT_KEY
    """Environment variable that holds the key; without one no key is sent."""
    concurrency: int = 8
    """Questions judged at a time."""
    tries: int = 3
    """How often it is asked until a rating can be read."""
    retries: int = 8
    """How often a busy or failing endpoint is asked again."""
    backoff_s: float = 1.0
    """Wait before the first such repetition; it doubles each time."""
    timeout_s: float = 120.0
    """Longest wait for one reply."""
    max_tokens: int = 2048
    """Longest reply."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")) or not self.model:
            raise UserError(f"the judge needs a URL and a model, not {self.url!r} and {self.model!r}")
        for name in ("concurrency", "tries", "timeout_s", "max_tokens"):
            if getattr(self, name) <= 0:
                raise UserError(f"the judge's {name} is {getattr(self, name)}; give 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """An answer to be judged."""

    question: str
    reference: str
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What came of it."""

    rating: float | None
    """0, 0.5 or 1; None if none could be read."""
    reply: str
    """The judge's last words."""


def case_key(model: str, case: Case) -> str:
    """Under which a verdict is kept: equal if judge, instruction, question, reference and answer are."""
    parts = (model, TEMPLATE_NAME, TEMPLATE, case.question, case.reference, case.answer)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Judge:
    """A judge with its memory."""

    def __init__(self, config: JudgeConfig, memory: Path) -> None:
        """memory: the file of verdicts, made if absent."""
        key = os.environ.get(config.key_env)
        if not key and config.key_env != DEFAULT_KEY:
            raise UserError(f"the environment variable {config.key_env} holds no key for the judge; set it")
        self._config = config
        self._memory = memory
        self._given_up = threading.Event()
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def rate(self, cases: Sequence[Case], progress: Callable[[str], None] = lambda _: None) -> list[Verdict]:
        """A verdict on each case, in order. UserError if the endpoint refuses or stays out of reach."""
        config = self._config
        keys = [case_key(config.model, case) for case in cases]
        with Ledger(self._memory, ("key",)) as memory:
            new = {key: case for key, case in zip(keys, cases, strict=True) if (key,) not in memory}
            unread: dict[str, str] = {}
            if new:
                progress(f"{len(new)} of {len(cases)} answers go to the judge {config.model}")
            limits = httpx.Limits(max_connections=config.concurrency)
            with (
                httpx.Client(headers=self._headers, timeout=config.timeout_s, limits=limits) as client,
                ThreadPoolExecutor(config.concurrency) as pool,
            ):
                waiting = {pool.submit(self._judge, client, case): key for key, case in new.items()}
                try:
                    for future in as_completed(waiting):
                        key, verdict = waiting[future], future.result()
                        if verdict.rating is None:  # asked again next time
                            unread[key] = verdict.reply
                            continue
                        memory.add(
                            [{"key": key, "model": config.model, "rating": verdict.rating, "reply": verdict.reply}]
                        )
                except BaseException:
                    self._given_up.set()  # wakes those that wait for a busy endpoint
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
            return [
                Verdict(rating=None, reply=unread[key])
                if key in unread
                else Verdict(rating=memory[key,]["rating"], reply=memory[key,]["reply"])
                for key in keys
            ]

    def _judge(self, client: httpx.Client, case: Case) -> Verdict:
        """Ask until a rating can be read, `tries` times at most."""
        reply = ""
        for _ in range(self._config.tries):
            reply = self._ask(client, instruction(case.question, case.reference, case.answer))
            rating = read_rating(reply)
            if rating is not None:
                return Verdict(rating=rating, reply=reply)
        return Verdict(rating=None, reply=reply)

    def _ask(self, client: httpx.Client, text: str) -> str:
        """One reply, waiting out a busy endpoint."""
        config = self._config
        body = {
            "model": config.model,
            "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": config.max_tokens,
        }
        url = f"{config.url.rstrip('/')}/chat/completions"
        trouble = ""
        for attempt in range(config.retries + 1):
            asked_for_s = 0.0
            try:
                response = client.post(url, json=body)
            except httpx.HTTPError as error:
                trouble = f"{type(error).__name__}: {error}"
            else:
                if response.status_code == 200:
                    return _said(response, url)
                trouble = f"status {response.status_code}: {' '.join(response.text.split())[:200]}"
                if response.status_code < 500 and response.status_code not in BUSY:
                    raise UserError(f"the judge at {url} refuses ({trouble}); correct its URL, model or key")
                asked_for_s = _retry_after_s(response)
            if attempt < config.retries:
                # Spread out, so that those who were refused together do not come back together.
                wait_s = config.backoff_s * 2**attempt * random.uniform(0.5, 1.0)
                if self._given_up.wait(min(max(wait_s, asked_for_s), LONGEST_WAIT_S)):
                    break
        raise UserError(f"the judge at {url} cannot be reached ({trouble}); give the same command again later")


def _said(response: httpx.Response, url: str) -> str:
    try:
        said: Any = response.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"the judge at {url} does not speak OpenAI's protocol ({error!r})") from error
    return str(said or "")


def _retry_after_s(response: httpx.Response) -> float:
    """What the endpoint wants waited, in seconds; 0 where it does not say so in seconds."""
    value = response.headers.get("retry-after", "")
    return float(value) if value.replace(".", "", 1).isdigit() else 0.0
