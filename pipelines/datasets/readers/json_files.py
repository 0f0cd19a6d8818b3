"""JSON and JSON Lines of any size, in pieces: where to cut, and the values of one piece.

A large array is cut block by block, 250 MB in about a second and a few megabytes of memory. Where an element is broken,
strings, brackets and commas tell its end: it costs itself, not the file, if its brackets come in pairs.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blm.pipelines.datasets.readers.record import Fault

MOST_RECORD_BYTES = 64 * 2**20
"""A line or array element beyond that is refused unread; one with a few pictures in base64 fits."""
BLOCK = 4 * 2**20
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{},]|"', re.DOTALL)
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()
_BOM = b"\xef\xbb\xbf"

Cut = tuple[int, int, int]
"""First byte, byte after the last, and number of the first value (from 1)."""
Value = tuple[int, Any]
"""Number of a value (line, or element of the array), and the value or a `Fault`."""


def layout(path: Path) -> str:
    """`lines`, `array`, or `whole` for a file that is one object."""
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return "lines"
    with path.open("rb") as file:
        head = file.read(BLOCK).removeprefix(_BOM).lstrip()
        first, newline, rest = head.partition(b"\n")
    if newline and rest.strip():
        try:
            parse(first)
        except Fault:
            pass
        else:
            return "lines"
    if head.startswith(b"["):
        return "array"
    return "whole" if newline and not first.rstrip().endswith(b"}") else "lines"


def parse(text: bytes) -> Any:
    """One JSON value. Fault if it is none, is not UTF-8 or is nested too deeply."""
    try:
        return json.loads(text.decode())
    except UnicodeDecodeError as error:
        raise Fault("invalid_utf8", str(error)) from error
    except RecursionError as error:
        raise Fault("malformed_json", "nested too deeply") from error
    except ValueError as error:  # also integers of more digits than Python reads
        raise Fault("malformed_json", str(error)) from error


# ---------------------------------------------------------------------------------------------------------- lines


def cut_lines(path: Path, size: int) -> list[Cut]:
    """Pieces of about `size` bytes that end at line ends."""
    cuts: list[Cut] = []
    start, first, line, position = 0, 1, 1, 0
    with path.open("rb") as file:
        while block := file.read(max(1, min(size, BLOCK))):
            end = block.rfind(b"\n") + 1
            if end and position + end - start >= size:
                line += block.count(b"\n", 0, end)
                cuts.append((start, position + end, first))
                start, first = position + end, line
                line += block.count(b"\n", end)
            else:
                line += block.count(b"\n")
            position += len(block)
    if position > start:
        cuts.append((start, position, first))
    return cuts


def read_lines(path: Path, cut: Cut) -> Iterator[Value]:
    """The values of a piece's lines; empty lines are passed over."""
    start, stop, number = cut
    with path.open("rb") as file:
        file.seek(start)
        while file.tell() < stop and (line := file.readline(MOST_RECORD_BYTES)):
            if len(line) == MOST_RECORD_BYTES and not line.endswith(b"\n"):
                while (more := file.readline(BLOCK)) and not more.endswith(b"\n"):
                    pass
                yield number, Fault("record_too_large", f"a line of more than {MOST_RECORD_BYTES} bytes")
            elif line := (line.removeprefix(_BOM) if number == 1 else line).strip():
                yield number, _value(line)
            number += 1


def _value(text: bytes) -> Any:
    try:
        return parse(text)
    except Fault as fault:
        return fault


# ---------------------------------------------------------------------------------------------------------- arrays


def cut_array(path: Path, size: int) -> list[Cut]:
    """Pieces of about `size` bytes that end between elements of the file's array."""
    cuts: list[Cut] = []
    size = min(size, MOST_RECORD_BYTES)
    piece_start, piece_stop, first = -1, 0, 1
    for number, (start, stop) in enumerate(elements(path), start=1):
        if piece_start >= 0 and (stop - piece_start > size or start == piece_stop):  # or after the array's end
            cuts.append((piece_start, piece_stop, first))
            piece_start = -1
        if piece_start < 0:
            piece_start, first = start, number
        piece_stop = stop
    if piece_start >= 0:
        cuts.append((piece_start, piece_stop, first))
    return cuts


def elements(path: Path) -> Iterator[tuple[int, int]]:
    """Where the elements of an array stand: first byte and byte after the last. What follows an array that has come to
    its end is one more, and so is what an unfinished one ends with.
    """
    size = path.stat().st_size
    base, at, opened = 0, 0, False
    buffer = ""  # bytes as Latin-1: one character each, and all that structures JSON is ASCII
    with path.open("rb") as file:
        while len(buffer) - at <= MOST_RECORD_BYTES and (block := file.read(BLOCK)):
            buffer, base, at = buffer[at:] + block.decode("latin-1"), base + at, 0
            if not opened:
                at, opened = buffer.find("[") + 1, True
            while (end := _element_end(buffer, at)) >= 0:
                last = buffer[end] != ","
                if not last or buffer[at:end].strip():
                    yield base + at, base + end
                if last:
                    if not _blank(path, base + end + 1, size):
                        yield base + end, size
                    return
                at = end + 1
    if not _blank(path, base + at, size):
        yield base + at, size


def _element_end(buffer: str, at: int) -> int:
    """Where the comma or bracket after an element stands; -1 if the buffer ends before."""
    try:
        _, end = _DECODER.raw_decode(buffer, _SPACE.match(buffer, at).end())  # type: ignore[union-attr]
        end = _SPACE.match(buffer, end).end()  # type: ignore[union-attr]
    except (ValueError, RecursionError):
        end = len(buffer)
    if end < len(buffer) and buffer[end] in ",]":
        return end
    depth = 0  # broken, or cut by the end of the buffer: strings and brackets still tell where it ends
    for token in _TOKEN.finditer(buffer, at):
        mark = token[0]
        if mark in "[{":
            depth += 1
        elif mark in "]},":
            if depth == 0:
                return token.start()
            depth -= mark != ","
        elif mark == '"':  # a string that goes on after the buffer
            break
    return -1


def _blank(path: Path, start: int, stop: int) -> bool:
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(min(stop - file.tell(), BLOCK)):
            if block.strip():
                return False
    return True


def read_array(path: Path, cut: Cut) -> Iterator[Value]:
    """The elements of a piece of an array."""
    start, stop, first = cut
    if stop - start > MOST_RECORD_BYTES:
        yield first, Fault("record_too_large", f"an element of {stop - start} bytes")
        return
    with path.open("rb") as file:
        file.seek(start)
        text = file.read(stop - start).removeprefix(_BOM)
    try:
        values = parse(b"[" + text + b"]")
    except Fault:  # some element is bad: one by one
        values = [_value(element) for element in _parts(text)]
    yield from enumerate(values, start=first)


def _parts(text: bytes) -> list[bytes]:
    """Elements between the commas of the outermost level."""
    depth, start, found = 0, 0, []
    for token in _TOKEN.finditer(text.decode("latin-1")):
        mark = token[0]
        if mark in "[{":
            depth += 1
        elif mark in "]}":
            depth -= 1
        elif mark == "," and depth == 0:
            found.append(text[start : token.start()])
            start = token.end()
    return [*found, text[start:]]
