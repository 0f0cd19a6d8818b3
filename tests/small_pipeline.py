"""A pipeline of three tiny real stages for the tests of the runner, run in a process of its own.

    PYTHONPATH=FOLDER python small_pipeline.py FOLDER [--until STAGE] [--from STAGE] [--to N] ...

`make_stages` writes the stages' modules into FOLDER, where a test may edit them and workers find them: `count` counts
slowly to a number and keeps what it counted, `square` squares it in a Ray task, `total` adds it up and fails if it is
told to.
"""

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

SCRIPT = __file__
MODULES = {
    "count": '''
        """Counts to a number, one file a step, going on from the files that are there."""
        import time
        from blm.cluster import depot
        VERSION = 1
        def count(config, context):
            for i in range(config.to):
                path = context.out / f"{i:03d}.txt"
                if path.exists():
                    continue
                time.sleep(config.pause_s)
                path.write_text(str(i))
                depot.keep(path)
                context.tracker.log_metrics({"counted": i + 1}, step=i)
                context.progress(f"{i + 1} of {config.to}")
            return {"numbers": config.to}
    ''',
    "square": '''
        """Squares the numbers of `count` in a Ray worker."""
        VERSION = 1
        def square(config, context):
            import ray
            texts = [path.read_text() for path in sorted(context.inputs["count"].glob("*.txt"))]
            numbers = ray.get(ray.remote(in_worker).remote(texts))
            (context.out / "squares.txt").write_text(" ".join(map(str, numbers)))
            return {"largest": max(numbers)}
        def in_worker(texts):
            from blm.model.errors import UserError
            print("[square] in a worker", flush=True)
            for text in texts:
                if not text.isdigit():
                    raise UserError(f"{text!r} is no number; count again")
            return [int(text) ** 2 for text in texts]
    ''',
    "total": '''
        """Adds up the squares."""
        VERSION = 1
        def total(config, context):
            if config.fail:
                raise ZeroDivisionError("told to fail")
            squares = (context.inputs["square"] / "squares.txt").read_text().split()
            (context.out / "total.txt").write_text(str(sum(map(int, squares))))
            return {"total": sum(map(int, squares))}
    ''',
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CountConfig:
    to: int = 3
    pause_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SquareConfig:
    pass


@dataclass(frozen=True, kw_only=True, slots=True)
class TotalConfig:
    fail: bool = False


def make_stages(folder: Path) -> None:
    """Write the stages' modules, dedented, into a folder."""
    import textwrap

    for name, source in MODULES.items():
        (folder / f"{name}_stage.py").write_text(textwrap.dedent(source).lstrip())


def prepare(folder: Path, store: Path) -> Path:
    """Make a folder one with the stages' modules and with an MLflow store, of which `store` is an empty one."""
    make_stages(folder)
    (folder / "runs/small").mkdir(parents=True)
    shutil.copy(store, folder / "runs/small/mlflow.db")
    return folder


def environment(folder: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    return kept | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, str(folder), *words]
    return subprocess.run(command, env=environment(folder), capture_output=True, text=True, timeout=120, check=False)


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, SCRIPT, str(folder), *words]
    return subprocess.Popen(
        command,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def stages(*, with_ray: bool = True) -> tuple:
    """The three stages; without Ray only the first two that need none."""
    from blm.pipelines.stages import Stage

    count = Stage(name="count", module="count_stage", needs_ray=False, about="count")
    square = Stage(name="square", module="square_stage", inputs=("count",), about="square")
    total = Stage(name="total", module="total_stage", inputs=("square",), needs_ray=False, about="add up")
    return (count, square, total) if with_ray else (count,)


def make_config(**changes: object) -> object:
    """A configuration for them; changes are like count_to=5."""
    from blm.actors.sim.world import WorldConfig
    from blm.pipelines.workspace import ResourceConfig

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        name: str = "small"
        seed: int = 0
        world: WorldConfig = field(default_factory=WorldConfig)
        resources: ResourceConfig = field(default_factory=lambda: ResourceConfig(object_store_gb=0.1))
        count: CountConfig = field(default_factory=CountConfig)
        square: SquareConfig = field(default_factory=SquareConfig)
        total: TotalConfig = field(default_factory=TotalConfig)

    config = Config()
    for name, value in changes.items():
        group, _, option = name.partition("_")
        config = replace(config, **{group: replace(getattr(config, group), **{option: value}) if option else value})
    return config


def main() -> int:
    """Run the small pipeline as `blm run` runs the big one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--root", help="where runs live instead of FOLDER/runs")
    parser.add_argument("--until")
    parser.add_argument("--only")
    parser.add_argument("--from", dest="redo_from")
    parser.add_argument("--accept-code", action="store_true")
    parser.add_argument("--to", type=int, default=3)
    parser.add_argument("--pause-s", type=float, default=0.0)
    parser.add_argument("--fail", action="store_true")
    given = parser.parse_args()
    from blm.cluster import depot
    from blm.pipelines.cli import guarded
    from blm.pipelines.run import RunOptions, run, summarise

    def body() -> int:
        options = RunOptions(
            root=depot.enter(given.root or given.folder / "runs"),
            until=given.until,
            only=given.only,
            redo_from=given.redo_from,
            accept_code=given.accept_code,
        )
        config = make_config(count_to=given.to, count_pause_s=given.pause_s, total_fail=given.fail)
        print(summarise(run(config, options, stages())))
        return 0

    return guarded(body)


if __name__ == "__main__":
    sys.exit(main())
