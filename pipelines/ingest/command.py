"""`blm ingest`: conversations of any common format to chat Parquet, without the rest of the pipeline.

blm ingest PATH... --out DIR                      formats are detected; a source is named after its file or folder
blm ingest robovqa=data/robovqa.json --out DIR    with a name of its own
blm ingest --config sources.yaml --out DIR        all options a source, as under `corpora.sources` in a preset
"""

import argparse
import json
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from blm.model.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm ingest`."""
    parser.add_argument("paths", nargs="*", metavar="[NAME=]PATH", help="files or folders of conversations")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where train, test and reports go")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="YAML with `sources` and other options of blm.pipelines.ingest.options",
    )
    parser.add_argument("--format", default="auto", metavar="NAME", help="of every PATH (default: detected)")
    parser.add_argument("--media-root", type=Path, metavar="DIR", help="folder that paths of pictures start from")
    parser.add_argument("--fps", type=float, default=1.0, metavar="N", help="frames a second of a video (default: 1)")
    parser.add_argument("--max-frames", type=int, default=16, metavar="N", help="frames of a video (default: 16)")
    parser.add_argument("--holdout", type=float, default=0.0, metavar="SHARE", help="rows for testing (default: 0)")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="records a source at most (default: all)")
    parser.add_argument(
        "--decontaminate", type=Path, action="append", default=[], metavar="DIR",
        help="a benchmark whose items are left out; may be given again",
    )  # fmt: skip
    parser.add_argument(
        "--max-rejected-share", type=float, default=0.05, metavar="SHARE", help="bad records to bear (default: 0.05)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="decides what is held out (default: 0)")
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N", help="processes; 0: this one, without Ray (default: 2)"
    )
    parser.add_argument("--address", metavar="ADDRESS", help="join this Ray cluster instead of starting one")
    parser.epilog = __doc__


def main(name: str, arguments: argparse.Namespace) -> int:
    """Ingest; the last line is one JSON object with the report of every source."""
    from blm.cluster import ray_runtime

    if arguments.workers < 0:
        raise UserError(f"--workers is {arguments.workers}; give 1 or more, or 0 to work in this process alone")
    ray_runtime.set_environment()
    from blm.pipelines.ingest.flow import forget_parts, ingest

    config, workers = _config(arguments), arguments.workers
    with ray_runtime.connected(num_cpus=workers, address=arguments.address) if workers else nullcontext():
        reports = ingest(config, arguments.out, workers=workers, progress=_say)
    forget_parts(arguments.out)
    print(json.dumps(reports))
    return 0


def _say(text: str) -> None:
    print(f"[ingest] {text}", flush=True)


def _config(arguments: argparse.Namespace) -> Any:
    """The options given, as an `IngestConfig`. UserError for what is missing or impossible."""
    from blm.pipelines.ingest.options import IngestConfig
    from blm.pipelines.schema import build, parse_yaml

    values: dict[str, Any] = {}
    if arguments.config is not None:
        try:
            text = arguments.config.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--config {arguments.config} cannot be read ({error})") from error
        values = parse_yaml(text, where=str(arguments.config)) or {}
        if not isinstance(values, dict) or not isinstance(values.get("sources", []), list):
            raise UserError(f"{arguments.config}: write options, and under `sources` a list of groups")
    common = {name: getattr(arguments, name) for name in ("format", "fps", "max_frames", "holdout", "limit")}
    if arguments.media_root is not None:
        common["media_root"] = str(arguments.media_root)
    sources = [*values.get("sources", []), *(_named(text) | common for text in arguments.paths)]
    if not sources:
        raise UserError("nothing to ingest; name a file or folder, or give --config")
    defaults = {
        "decontaminate": [str(path) for path in arguments.decontaminate],
        "max_rejected_share": arguments.max_rejected_share,
        "seed": arguments.seed,
    }
    return build(IngestConfig, defaults | values | {"sources": sources}, where=str(arguments.config or "blm ingest"))


def _named(text: str) -> dict[str, Any]:
    """`name=path`, or a path after which the source is named."""
    name, equals, path = text.partition("=")
    if equals and name and "/" not in name:
        return {"name": name, "path": path}
    stem = Path(text).resolve().name.split(".")[0]
    return {"name": re.sub(r"\W+", "_", stem).strip("_") or "source", "path": text}
