"""Which format a corpus is in, told by what is in it, and why."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blm.model.errors import UserError
from blm.pipelines.datasets.readers import json_files, parquet_rows, webdataset
from blm.pipelines.datasets.readers.dataset_info import options_of
from blm.pipelines.datasets.readers.formats import FORMATS, sample_format
from blm.pipelines.datasets.readers.record import Fault, Options, printable
from blm.pipelines.datasets.readers.split import corpus_files, file_layout

LOOKED_AT = 20
"""Samples of a file that are looked at until one tells its format."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Detected:
    """A format, and what it was told by."""

    format: str
    """Key of `FORMATS`."""
    why: str
    """For a person: the file and what is in it."""


def detect(path: str | Path, options: Options | None = None) -> Detected:
    """The format of a file or folder. UserError if none is found; a format can always be named instead."""
    root = Path(path)
    if (root / "meta" / "info.json").is_file():
        return Detected(format="lerobot", why=f"{root} has meta/info.json")
    files = corpus_files(root)
    for suffixes, format in (((".parquet",), "parquet"), ((".tar", ".tgz", ".gz", ".bz2", ".xz"), "webdataset")):
        own = [file for file in files if file.name.lower().endswith(suffixes)]
        if len(own) == len(files):
            return Detected(format=format, why=_container(own[0], format, options))
        if own:
            raise UserError(f"{root} holds {own[0].name} among files of other kinds; name one of them, or a format")
    for file in files:
        of_file = options_of(file, options or Options())
        for sample in _samples(file):
            if (format := sample_format(sample, of_file) or "") in FORMATS:
                return Detected(format=format, why=f"{file.name} has {_shown(sample)}")
    raise UserError(
        f"{files[0]} is in no format that is known ({', '.join(FORMATS)}); name one, or say which column is which"
    )


def _samples(file: Path) -> list[Any]:
    """Some of the first samples of a JSON file, packed ones unpacked."""
    layout = file_layout(file)
    if layout == "array":
        spans = [span for span, _ in zip(json_files.elements(file), range(LOOKED_AT), strict=False)]
        values = [v for start, stop in spans for _, v in json_files.read_array(file, (start, stop, 1))]
    else:
        cut = (0, file.stat().st_size, 1)
        read = json_files.read_lines if layout == "lines" else json_files.read_array
        values = [v for (_, v), _ in zip(read(file, cut), range(LOOKED_AT), strict=False)]
    return [value[0] if isinstance(value, list) and value else value for value in values]


def _container(file: Path, format: str, options: Options | None) -> str:
    """What a Parquet file or a tar holds, in words."""
    sample: Any = None
    if format == "parquet":
        sample = parquet_rows.first_row(file)
    else:
        _, _, members = next(webdataset.read_tar(file, (0, file.stat().st_size, 1)), (0, "", []))
        if not isinstance(members, Fault):
            try:
                sample = webdataset.sample_of(members)
            except Fault:
                return f"{file.name} is a tar"
    inner = sample_format(sample, options)
    if inner is None:
        return f"{file.name}, whose first sample is in no layout that is known"
    return f"{file.name} has {_shown(sample)}: {FORMATS[inner].title}"


def _shown(sample: Any) -> str:
    return "fields " + ", ".join(printable(str(name))[:30] for name in list(sample)[:8])
