"""The server's own log: one JSON object a line on standard error, with the id of the request it belongs to.

    {"time": "2026-01-31T12:00:00.123Z", "level": "info", "event": "request", "request_id": "a1", "path": "/v1/actions"}

Nothing that a client sent is in it but the path and the request id: no pictures, no instructions, no keys, no query.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

LOGGER = "blm.serve"
"""Everything below it ends in the same lines: modules may log by `logging.getLogger("blm.serve.<module>")` too."""
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the request that is being answered; empty outside of one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogConfig:
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important lines that are written; `info` has one a request."""
    form: Literal["json", "text"] = "json"
    """`text` is for people, on a terminal."""
    requests: bool = True
    """Whether every request and session gets a line; warnings and errors always do."""


@contextmanager
def request_id(value: str) -> Iterator[None]:
    """Lines written inside carry this id."""
    token = REQUEST_ID.set(value)
    try:
        yield
    finally:
        REQUEST_ID.reset(token)


def log(event: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """Write a line: what happened in a word or two, and plain values. error: its traceback goes into the log."""
    logging.getLogger(LOGGER).log(level, event, exc_info=error, extra={"fields": fields})


class JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def __init__(self, **always: Any) -> None:
        """always: in every line, for example the replica's name."""
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter`."""
        return json.dumps(entry(record) | self._always, default=str, ensure_ascii=False)


class TextLines(logging.Formatter):
    """A record for people: time, level, event, and the rest as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter`."""
        line = entry(record)
        head = f"{line.pop('time')[11:23]} {line.pop('level'):<7} {line.pop('event')}"
        trace = line.pop("traceback", "")
        return " ".join([head, *(f"{name}={value}" for name, value in line.items())]) + (f"\n{trace}" if trace else "")


def entry(record: logging.LogRecord) -> dict[str, Any]:
    """What a line says, in order."""
    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line: dict[str, Any] = {"time": moment, "level": record.levelname.lower(), "event": record.getMessage()}
    if REQUEST_ID.get():
        line["request_id"] = REQUEST_ID.get()
    line |= getattr(record, "fields", {})
    if record.exc_info and record.exc_info[1] is not None:
        line |= {
            "error": f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}",
            "traceback": logging.Formatter().formatException(record.exc_info),
        }
    return line


def set_up_logs(config: LogConfig, *, stream: TextIO | None = None, **always: Any) -> logging.Logger:
    """The server's logger, writing to a stream (standard error). Called again, it replaces what it did before.

    always: plain values in every line, for example `replica="model#a1b2"`.
    """
    logger = logging.getLogger(LOGGER)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(**always) if config.form == "json" else TextLines())
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(config.level.upper())
    return logger
