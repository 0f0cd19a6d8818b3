"""`blm evaluate digital`: the digital benchmarks of the paper, our own held-out questions, and plain language.

blm evaluate digital --model runs/tiny/stage1-1a2b3c4d/model --benchmarks benchmarks
blm evaluate digital --model Qwen/Qwen2.5-VL-7B-Instruct --hub --replicas 8 --judge-url ... --judge-model ...

    generated.jsonl   every answer as it comes; the same command goes on where it was broken off
    verdicts.jsonl    every verdict of a judge; nothing is judged twice
    answers.jsonl     what was asked, said, extracted and scored
    digital.json      the scores, and how they came about
    digital.md, .html the paper's tables with its rows beside ours
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any, Literal

from blm.model.errors import UserError
from blm.pipelines.digital.benchmarks import NAMES, LoadRules
from blm.pipelines.digital.generate import EngineConfig, Reading
from blm.pipelines.digital.judge import DEFAULT_KEY, JudgeConfig
from blm.pipelines.digital.media import MOST_PIXELS, MediaRules
from blm.pipelines.digital.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm evaluate digital`."""
    parser.epilog = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", required=True, metavar="DIR|NAME", help="folder of a model, or its hub name")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default: runs/digital/<model>)")
    what = parser.add_argument_group("what is asked")
    what.add_argument("--benchmarks", type=Path, metavar="DIR", help="folder below which the benchmarks lie")
    what.add_argument("--hub", action="store_true", help="fetch them from the Hugging Face hub instead")
    what.add_argument("--corpora", type=Path, metavar="DIR", help="corpora folder: held-out questions, plain language")
    what.add_argument("--texts", type=Path, nargs="+", default=[], metavar="PATH", help="more plain language to read")
    what.add_argument("--frames", type=Path, metavar="DIR", help="where rt_frames_success lies, if elsewhere")
    what.add_argument("--only", default="", metavar="A,B", help=f"of {', '.join(NAMES)}")
    what.add_argument("--limit", type=int, default=0, metavar="N", help="questions of each, evenly over sub-categories")
    what.add_argument("--allow-missing", action="store_true", help="media that are missing count as wrong")
    how = parser.add_argument_group("how it is asked")
    how.add_argument("--mode", choices=("letter", "reasoning"), default="letter", help="of the Cosmos-Reason1 four")
    how.add_argument("--fps", type=float, default=4.0, help="frames a second taken from videos (default: 4)")
    how.add_argument("--video-frames", type=int, default=0, metavar="N", help="frames of a video, instead of a rate")
    how.add_argument("--max-frames", type=int, default=64, metavar="N", help="most frames of a video (default: 64)")
    how.add_argument("--max-images", type=int, default=30, metavar="N", help="most frames of ShareRobot (default: 30)")
    how.add_argument("--max-pixels", type=int, default=1280 * 28 * 28, metavar="N", help="most pixels of a picture")
    how.add_argument(
        "--max-video-pixels", type=int, default=MOST_PIXELS, metavar="N", help="of a video's frames together"
    )
    score = parser.add_argument_group("how it is scored")
    score.add_argument("--parser", choices=("robust", "official"), default="robust", help="how letters are read")
    score.add_argument("--judge", choices=("endpoint", "exact", "none"), help="who grades free answers")
    score.add_argument("--judge-url", metavar="URL", help="OpenAI-compatible endpoint, as in http://host:8000/v1")
    score.add_argument("--judge-model", metavar="NAME", help="the judge's name there")
    score.add_argument("--judge-key-env", default=DEFAULT_KEY, metavar="VARIABLE", help="variable that holds its key")
    score.add_argument("--judge-concurrency", type=int, default=8, metavar="N", help="answers judged at a time")
    score.add_argument("--judge-cache", type=Path, metavar="FILE", help="file of verdicts (default: in --out)")
    score.add_argument("--scorer", choices=("judge", "exact", "bleu"), default="judge", help="of ShareRobot")
    run = parser.add_argument_group("what runs it")
    run.add_argument("--engine", choices=("vllm", "transformers"), default="vllm", help="(default: vllm)")
    run.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    run.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    run.add_argument("--replicas", type=int, default=1, metavar="N", help="engines side by side")
    run.add_argument("--tensor-parallel", type=int, default=1, metavar="N", help="GPUs of each engine")
    run.add_argument("--batch", type=int, default=32, metavar="N", help="questions an engine has at a time")
    run.add_argument("--max-length", type=int, default=0, metavar="N", help="tokens of a question and its answer")
    run.add_argument("--memory", type=float, default=0.0, help="vLLM: share of a GPU, or GB of KV cache on a CPU")
    run.add_argument("--address", metavar="ADDRESS", help="join this Ray cluster instead of starting one")
    parser.add_argument("--label", default="", help="the model's name in tables")
    parser.add_argument("--compare", type=Path, nargs="+", default=[], metavar="FILE", help="digital.json of others")


def main(name: str, arguments: argparse.Namespace) -> int:
    """Ask, score, print the tables, and one JSON object as the last line."""
    from blm.cluster.ray_runtime import set_environment

    set_environment()
    settings = settings_of(arguments)
    from blm.pipelines.digital.evaluation import evaluate

    print(json.dumps(evaluate(settings, address=arguments.address)))
    return 0


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings that options ask for. UserError for impossible ones."""
    device: Literal["cpu", "cuda"] = arguments.device if arguments.device != "auto" else _device()
    engine = EngineConfig(
        kind=arguments.engine,
        model=_model(arguments.model),
        device=device,
        dtype=arguments.dtype if arguments.dtype != "auto" else {"cpu": "float32", "cuda": "bfloat16"}[device],
        replicas=arguments.replicas,
        tensor_parallel=arguments.tensor_parallel,
        batch=arguments.batch,
        max_length=arguments.max_length,
        memory=arguments.memory,
    )
    values: dict[str, Any] = {
        "engine": engine,
        "out": arguments.out or _out(engine.model),
        "benchmarks": _whole(arguments.benchmarks),
        "hub": arguments.hub,
        "corpora": _whole(arguments.corpora),
        "texts": tuple(path.resolve() for path in arguments.texts),
        "only": tuple(name.strip() for name in arguments.only.split(",") if name.strip()),
        "load": LoadRules(mode=arguments.mode, max_images=arguments.max_images, frames=_whole(arguments.frames)),
        "media": MediaRules(
            fps=arguments.fps,
            frames=arguments.video_frames,
            max_frames=arguments.max_frames,
            max_image_pixels=arguments.max_pixels,
            max_video_pixels=arguments.max_video_pixels,
        ),
        "reading": Reading(parser=arguments.parser, reasoning=arguments.mode == "reasoning"),
        "scorer": arguments.scorer,
        "limit": arguments.limit,
        "allow_missing": arguments.allow_missing,
        "label": arguments.label,
        "compare": tuple(arguments.compare),
    }
    return Settings(**values, **_judge(arguments))


def _judge(arguments: argparse.Namespace) -> dict[str, Any]:
    """Who grades: an endpoint if one is named, otherwise what was chosen, otherwise nobody."""
    named = arguments.judge_url or arguments.judge_model
    grader = arguments.judge or ("endpoint" if named else "none")
    if grader != "endpoint":
        if named:
            raise UserError(f"--judge {grader} leaves --judge-url and --judge-model no use; leave them out")
        return {"grader": grader}
    judge = JudgeConfig(
        url=arguments.judge_url or "",
        model=arguments.judge_model or "",
        key_env=arguments.judge_key_env,
        concurrency=arguments.judge_concurrency,
    )
    memory = {"verdicts": arguments.judge_cache} if arguments.judge_cache else {}
    return {"grader": grader, "judge": judge, **memory}


def _model(given: str) -> str:
    """A folder by its whole path, for workers that stand elsewhere; a hub name as it is."""
    path = Path(given).expanduser()
    return str(path.resolve()) if path.is_dir() else given


def _whole(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().resolve()


def _out(model: str) -> Path:
    folder = Path(model)
    parts = folder.parts[-3:] if folder.is_absolute() and folder.name == "model" else (folder.name,)
    name = "-".join(parts) if folder.is_absolute() else model.replace("/", "-")
    return Path("runs") / "digital" / name


def _device() -> Literal["cpu", "cuda"]:
    if "CUDA_VISIBLE_DEVICES" in os.environ and not os.environ["CUDA_VISIBLE_DEVICES"]:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
