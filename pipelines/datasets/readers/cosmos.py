"""The published layouts of the Cosmos-Reason1 releases: RoboVQA, AgiBot, HoloAssist, BridgeData, RoboFail.

- Benchmark and reinforcement-learning rows, in `<subset>/<subset>_benchmark_qa_pairs.json`:
  `{"video": "clips/a.mp4", "qa_pairs": {"question": ..., "index2ans": {"A": ..., "B": ...}, "answer": "B"}}`.
  They become multiple-choice conversations in the official words.
- Fine-tuning rows: `{"video": "a.mp4", "conversations": [{"role": "user", "content": ...}]}`, clips in `video_clips`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from blm.pipelines.datasets.episode_words import CHOICE_PROMPT
from blm.pipelines.datasets.readers import llava
from blm.pipelines.datasets.readers.fields import Sample, facts, text
from blm.pipelines.datasets.readers.media_refs import basename, video
from blm.pipelines.datasets.readers.record import Fault, MediaRef, Options, Place, Record
from blm.pipelines.datasets.readers.turns import build_record

SYSTEM = "Answer the questions."
"""What the official evaluation and the fine-tuning rows have the system say."""
CLIP_FOLDERS = ("clips", "video_clips")


def multiple_choice(question: str, options: Mapping[str, str]) -> str:
    """A question in the official words. options: letter -> text, in order."""
    lines = [f"({letter}) {answer}" for letter, answer in options.items()]
    return "\n".join([question, *lines, CHOICE_PROMPT])


def options_of(pair: Mapping[str, Any]) -> dict[str, str]:
    """Letters and texts of a question's options. Fault if there are none.

    Readers that give all rows one schema fill in letters that a question does not have; these are dropped.
    """
    given = pair.get("index2ans")
    if not isinstance(given, Mapping):
        raise Fault("wrong_type", "`index2ans` is not an object of letters")
    options = {str(letter): answer for letter, answer in sorted(given.items()) if answer is not None}
    if not options:
        raise Fault("wrong_type", "`index2ans` has no option")
    return {letter: text(options, letter) for letter in options}


def right_letter(pair: Mapping[str, Any]) -> str:
    """The letter of the right answer, whichever of its two names it goes by."""
    return text(pair, "answer", "correct_answer").strip().strip("().").upper()


def read_benchmark(sample: Sample, place: Place, options: Options) -> Iterator[Record]:
    """One conversation for every question about the clip."""
    pairs = sample.get("qa_pairs")
    several = isinstance(pairs, list | tuple)
    for i, pair in enumerate(pairs if isinstance(pairs, list | tuple) else [pairs]):
        if not isinstance(pair, dict):
            raise Fault("wrong_type", "`qa_pairs` is neither a question nor a list of them")
        choices, letter = options_of(pair), right_letter(pair)
        if letter not in choices:
            raise Fault("wrong_type", f"the answer {letter[:20]!r} is none of the options")
        yield build_record(
            [("user", multiple_choice(text(pair, "question"), choices)), ("assistant", letter)],
            place=Place(id=f"{place.id}.{i}", where=place.where, folder=place.folder) if several else place,
            videos=(clip(sample.get("video")),),
            system=SYSTEM,
            category=subset(place),
            meta=facts(sample, ("video", "qa_pairs")) | {"form": "choice", "said": choices[letter][:200]},
        )


def read_sft(sample: Sample, place: Place, options: Options) -> Iterator[Record]:
    """A conversation about a clip."""
    without = {name: value for name, value in sample.items() if name != "video"}
    turns = llava.read_turns(sample.get("conversations", sample.get("messages")), options)
    yield build_record(
        turns,
        place=place,
        videos=(clip(sample.get("video")),),
        category=subset(place),
        meta=facts(without, ("conversations", "messages")),
    )


def clip(value: Any) -> MediaRef:
    """A clip wherever the releases and their copies keep it: the row's path is that of the machine it was made on."""
    found = video(value)
    if not found.paths:
        return found
    (given,) = found.paths
    name = basename(given)
    own = () if given.startswith("/") else (given,)
    return MediaRef(paths=(*own, *(f"{folder}/{name}" for folder in CLIP_FOLDERS), name))


def subset(place: Place) -> str:
    """RoboVQA, AgiBot and so on: the folder that the file stands in."""
    return basename(place.folder)[:60]
