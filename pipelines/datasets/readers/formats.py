"""The formats by name, and which of them a single sample is in."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from blm.pipelines.datasets.readers import cosmos, egothink, instructions, llava, openai, own, sharerobot
from blm.pipelines.datasets.readers.fields import Sample
from blm.pipelines.datasets.readers.record import Fault, Options, Place, Record, Rejected, rejected

Convert = Callable[[Sample, Place, Options], Iterator[Record]]
MOST_PACKED = 10_000
"""Samples that one packed row may hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """How a format is read."""

    title: str
    """What it is, for a person."""
    convert: Convert


def convert_any(sample: Sample, place: Place, options: Options) -> Iterator[Record]:
    """The records of a sample in whatever layout its fields are."""
    name = sample_format(sample, options)
    if name is None:
        shown = ", ".join(str(key)[:40] for key in list(sample)[:12])
        raise Fault("no_messages", f"no known layout has just these fields: {shown}")
    return FORMATS[name].convert(sample, place, options)


def sample_format(sample: Any, options: Options | None = None) -> str | None:
    """The format that a sample's fields tell, or None."""
    columns = options.columns if options else {}
    if not isinstance(sample, dict):
        return None
    turns = sample.get(columns.get("messages", "conversations"), sample.get("messages"))
    first = turns[0] if isinstance(turns, list | tuple) and turns and isinstance(turns[0], dict) else {}
    if own.fits(sample):
        return "blm"
    if "qa_pairs" in sample:
        return "cosmos_benchmark"
    if "image_path" in sample and "question" in sample:
        return "egothink"
    if "selected_step" in sample or _mentions_frames(sample):
        return "sharerobot"
    if "conversations" in sample and "video" in sample and "role" in first and "<video>" not in str(first)[:2000]:
        return "cosmos_sft"
    if isinstance(turns, list | tuple):
        return "openai" if "conversations" not in sample and "from" not in first else "llava"
    if "prompt" in columns or instructions.fits(sample):
        return "instructions"
    return None


def _mentions_frames(sample: Sample) -> bool:
    images = sample.get("image")
    first = images[0] if isinstance(images, list) and images else None
    return isinstance(first, str) and sharerobot.FRAMES in first


FORMATS: dict[str, Reader] = {
    "llava": Reader(title="LLaVA, ShareGPT, Qwen-VL and LLaMA-Factory conversations", convert=llava.read),
    "openai": Reader(title="OpenAI and ms-swift messages", convert=openai.read),
    "instructions": Reader(title="Alpaca, query and response, question and answer", convert=instructions.read),
    "sharerobot": Reader(title="ShareRobot planning questions", convert=sharerobot.read),
    "egothink": Reader(title="EgoThink annotations", convert=egothink.read),
    "cosmos_benchmark": Reader(title="Cosmos-Reason1 multiple choice", convert=cosmos.read_benchmark),
    "cosmos_sft": Reader(title="Cosmos-Reason1 fine-tuning conversations", convert=cosmos.read_sft),
    "blm": Reader(title="this project's own conversations", convert=own.read),
    "parquet": Reader(title="Parquet in any of these layouts", convert=convert_any),
    "webdataset": Reader(title="WebDataset tars of any of these layouts", convert=convert_any),
    "lerobot": Reader(title="a LeRobotDataset v3.0, asked about", convert=convert_any),
}
"""Every format by the name it is chosen by."""


def read_sample(
    sample: Any, place: Place, options: Options, convert: Convert = convert_any
) -> Iterator[Record | Rejected]:
    """The records of one value of a file, packed rows unpacked; what is bad is rejected, whatever it is."""
    if isinstance(sample, list | tuple) and sample:
        for i, packed in enumerate(sample[:MOST_PACKED]):
            inner = Place(id=f"{place.id}.{i}", where=f"{place.where}, sample {i + 1}", folder=place.folder)
            yield from read_sample(packed if isinstance(packed, dict) else None, inner, options, convert)
        if len(sample) > MOST_PACKED:
            yield rejected(place.where, Fault("record_too_large", f"{len(sample)} samples in one row"))
        return
    try:
        if isinstance(sample, Fault):
            raise sample
        if not isinstance(sample, dict):
            raise Fault("wrong_type", f"a sample is a {type(sample).__name__}, not an object")
        yield from list(_identified(sample, convert(sample, place, options)))
    except Fault as fault:
        yield rejected(place.where, fault, "" if isinstance(sample, Fault) else sample)
    except Exception as error:  # a week of ingestion must not end in the one sample that nobody foresaw
        yield rejected(place.where, Fault("reader_error", f"{type(error).__name__}: {error}"), sample)


def _identified(sample: Sample, records: Iterator[Record]) -> Iterator[Record]:
    """Records that remember the id their corpus gave them, as text."""
    given = sample.get("id", sample.get("sample_id"))
    for record in records:
        if isinstance(given, str | int) and not isinstance(given, bool):
            record.meta["id"] = given[:200] if isinstance(given, str) else str(given % 10**60)
        yield record
