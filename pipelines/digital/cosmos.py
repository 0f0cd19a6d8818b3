"""RoboVQA, AgiBot, HoloAssist and RoboFail as in NVIDIA's Cosmos-Reason1 benchmark: a clip, a question, options.

    <root>/<name>/<name>_benchmark_qa_pairs.json     [{"video", "qa_pairs": {"question", "index2ans", "answer"}}]
    <root>/<name>/clips/*.mp4                        or clips.tar.gz, unpacked when first read

A row is a question: several rows may show the same clip, and are all scored. Clips of AgiBot and HoloAssist are not in
the published dataset and have to be cut from their sources. Prompts and decoding are the published ones.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from blm.model.errors import UserError
from blm.model.prompts import SYSTEM_PROMPTS, VIDEO_PLACEHOLDER
from blm.pipelines.datasets.readers.cosmos import multiple_choice, options_of, right_letter
from blm.pipelines.datasets.readers.record import Fault
from blm.pipelines.digital.item import Decoding, Item, Media
from blm.pipelines.digital.locate import find_files, unpack_beside
from blm.pipelines.workspace import read_json

Mode = Literal["letter", "reasoning"]

REASONING = (
    "Please answer the question in the following format: <think> your reasoning </think> "
    "<answer> your single letter answer </answer>."
)
DECODING: dict[str, Decoding] = {
    "letter": Decoding(max_new_tokens=10),
    "reasoning": Decoding(max_new_tokens=1024, temperature=0.6, top_p=0.95, seed=1, tries=10),
}
CLIPS = "clips"


def prompt(question: str, options: Mapping[str, str], mode: Mode) -> str:
    """The published words around a question, without the clip."""
    asked = multiple_choice(question, options)
    return f"{asked}\n{REASONING}" if mode == "reasoning" else asked


def load(root: Path, name: str, mode: Mode = "letter") -> list[Item]:
    """Every question of one of the four, one a row of its file. UserError if there is none, or a row is malformed."""
    path = _questions_file(root, name)
    clips = _clips(path.parent)
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(f"{path} does not hold a list of questions; it is not a file of this benchmark")
    return [
        item for index, row in enumerate(rows) for item in _items(row, f"{path} row {index}", index, name, mode, clips)
    ]


def _items(row: Any, where: str, index: int, name: str, mode: Mode, clips: Mapping[str, Path]) -> Iterator[Item]:
    """A row's questions: usually one."""
    try:
        pairs = row["qa_pairs"]
        for number, pair in enumerate(pairs if isinstance(pairs, list) else [pairs]):
            options, answer = options_of(pair), right_letter(pair)
            if answer not in options:
                raise UserError(f"{where}: the answer {answer!r} is none of its options {', '.join(options)}")
            video = str(row["video"])
            path = clips.get(Path(video).name)
            yield Item(
                id=f"{index:04d}" if number == 0 else f"{index:04d}-{number}",
                benchmark=name,
                category=name,
                messages=(
                    {"role": "system", "text": SYSTEM_PROMPTS["cosmos"]},
                    {"role": "user", "text": VIDEO_PLACEHOLDER + prompt(pair["question"], options, mode)},
                ),
                media=(Media(kind="video", path=str(path or video)),),
                reference=answer,
                question=pair["question"],
                options=options,
                decoding=DECODING[mode],
                missing="" if path else video,
            )
    except (Fault, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where} is not a question of this benchmark ({type(error).__name__}: {error})") from error


def _questions_file(root: Path, name: str) -> Path:
    wanted = f"{name}_benchmark_qa_pairs.json"
    found = find_files(root, lambda path: path.name == wanted)
    if not found:
        raise UserError(
            f"{wanted} is nowhere below {root}; download nvidia/Cosmos-Reason1-Benchmark there, or use --hub"
        )
    return found[0]


def _clips(folder: Path) -> dict[str, Path]:
    """The clips beside a file of questions by their names, wherever below it they lie."""
    packed = folder / f"{CLIPS}.tar.gz"
    if packed.is_file() and not (folder / CLIPS).is_dir():
        unpack_beside(packed, folder / CLIPS)
    return {path.name: path for path in sorted(folder.rglob("*.mp4"), reverse=True)}
