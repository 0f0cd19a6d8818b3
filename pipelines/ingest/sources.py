"""Sources as they are found on disk: format, pieces of work, and how their media are to be read."""

from dataclasses import dataclass
from pathlib import Path

from blm.model.errors import UserError
from blm.model.prompts import SYSTEM_PROMPTS
from blm.pipelines.datasets.readers.detect import detect
from blm.pipelines.datasets.readers.formats import FORMATS
from blm.pipelines.datasets.readers.load import MediaRules
from blm.pipelines.datasets.readers.record import Options
from blm.pipelines.datasets.readers.split import Piece, corpus_files, split
from blm.pipelines.ingest.options import IngestConfig, SourceConfig
from blm.pipelines.ingest.pieces import Work
from blm.pipelines.schema import nearest

BENCHMARK_FPS, BENCHMARK_FRAMES = 2.0, 32
"""How much of a benchmark's video is looked at, whatever the sources keep of theirs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A source on disk."""

    source: SourceConfig
    """What was asked for."""
    format: str
    """What it is."""
    why: str
    """How that is known."""
    pieces: tuple[Piece, ...]
    """Pieces of work, in the canonical order."""

    @property
    def files(self) -> list[Path]:
        """What the pieces are cut from."""
        return sorted({Path(piece.path) for piece in self.pieces})


def find_source(source: SourceConfig, config: IngestConfig) -> Found:
    """Look at a source. UserError if there is nothing, nothing known, or no media folder where one is named."""
    options = Options(columns=source.columns, tags=source.tags, questions=source.questions, seed=config.seed)
    if source.media_root is not None and not source.media_root.is_dir():
        raise UserError(f"source {source.name}: media_root {source.media_root} is no folder")
    if source.format != "auto" and source.format not in FORMATS:
        raise UserError(f"source {source.name}: format {source.format!r}; {nearest(source.format, ['auto', *FORMATS])}")
    try:
        if source.format == "auto":
            detected = detect(source.path, options)
            name, why = detected.format, detected.why
        else:
            name, why = source.format, "as asked for"
        pieces = split(source.path, name, max(1, int(config.piece_mb * 2**20)), options)
    except UserError as error:
        raise UserError(f"source {source.name}: {error}") from error
    return Found(source=source, format=name, why=why, pieces=tuple(pieces))


def find_benchmark(path: Path, config: IngestConfig) -> list[Found]:
    """Everything in a benchmark's folder, file by file: some hold several benchmarks. UserError if nothing is known."""
    found = []
    for file in corpus_files(path):
        source = SourceConfig(name="benchmark", path=file, media_root=path if path.is_dir() else path.parent)
        try:
            found.append(find_source(source, config))
        except UserError:  # a file of notes beside the questions
            continue
    if not found:
        raise UserError(f"{path} holds no benchmark in a format that is known; mend corpora.decontaminate")
    return found


def work_of(found: Found, parts: Path, out: Path, *, benchmark: str = "") -> Work:
    """What workers need to know of a source. benchmark: a name for it, if it is one."""
    source = found.source
    root = source.media_root or (source.path if source.path.is_dir() else source.path.parent)
    rules = MediaRules(
        root=str(root),
        fps=BENCHMARK_FPS if benchmark else source.fps,
        max_frames=BENCHMARK_FRAMES if benchmark else source.max_frames,
        max_pixels=source.max_pixels,
        max_frame_pixels=source.max_pixels,
        decode=False,  # every picture is sketched, for which it is decoded
    )
    name = benchmark or source.name
    return Work(
        source=source,
        rules=rules,
        pieces=found.pieces,
        stem=parts / name,
        quarantine=out / "quarantine" / name,
        system=SYSTEM_PROMPTS.get(source.system, source.system).strip(),
        limit=-(-source.limit // max(1, len(found.pieces))),
    )
