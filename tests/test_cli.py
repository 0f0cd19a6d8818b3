"""The command line as a person meets it: a table of contents at once, and mistakes in one clear line."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import report_inputs

import blm.pipelines.benchmarks
from blm.pipelines.bench import BENCHMARKS
from blm.pipelines.cli import COMMANDS, main
from blm.pipelines.cli_options import options_of
from blm.pipelines.show import duration, size
from blm.pipelines.stages import STAGES
from blm.pipelines.workspace import content_hash, list_files, write_json

BLM = str(Path(sys.executable).with_name("blm"))


def call(*words: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BLM, *words], capture_output=True, text=True, timeout=timeout_s, check=False)


def assert_one_line(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ")
    for part in parts:
        assert part in result.stderr


def test_help_is_the_table_of_contents() -> None:
    result = call("--help")
    assert result.returncode == 0
    positions = [result.stdout.index(f"\n  {name} ") for name in COMMANDS]
    assert positions == sorted(positions)
    for stage in STAGES:
        assert stage.about in result.stdout
    assert call().stdout == result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 100


def test_every_command_is_listed_once_and_stages_in_order() -> None:
    names = list(COMMANDS)
    assert len(names) == len(set(names))
    assert [name for name in names if name in {s.name for s in STAGES}] == [s.name for s in STAGES]


def functions(path: Path) -> dict[str, list[str]]:
    """The functions of a source file, with the names of their parameters; nothing is imported."""
    return {
        node.name: [argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]]
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }


PIPELINES = Path(blm.pipelines.benchmarks.__file__).parents[1]


@pytest.mark.parametrize("command", [c for c in COMMANDS.values() if c.module], ids=lambda command: command.name)
def test_every_command_with_a_module_has_its_function_there(command: object) -> None:
    found = functions(PIPELINES / (command.module.replace(".", "/") + ".py"))  # type: ignore[attr-defined]
    assert found["main"] == ["name", "arguments"]
    assert found.get("add_arguments", ["parser"]) == ["parser"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_takes_the_options_that_it_is_given(name: str) -> None:
    module = name.replace("-", "_")
    taken = functions(PIPELINES / "benchmarks" / f"{module}.py")[f"bench_{module}"]
    assert set(BENCHMARKS[name].options) <= set(taken)


def test_the_version_is_told() -> None:
    assert call("--version").stdout.startswith("blm 0.")


def test_stage_help_lists_its_options_with_their_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["stage2", "--help"])
    shown = capsys.readouterr().out
    assert "needs finished: render stage1 intents" in shown
    assert "stage2.steps: int = " in shown
    assert "Optimiser steps." in shown


def test_commands_of_two_words_stand_beside_those_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for words in (["evaluate"], ["evaluate", "digital"]):
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        shown[words[-1]] = capsys.readouterr().out
    assert shown["evaluate"].startswith("usage: blm evaluate [-h]")
    assert shown["digital"].startswith("usage: blm evaluate digital [-h]")
    assert "evaluate.episodes_per_cell" in shown["evaluate"]
    assert main(["digital"]) == 2
    assert "unknown command 'digital'" in capsys.readouterr().err


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_stage_has_options_and_each_is_explained(stage: object) -> None:
    lines = options_of(stage.name).splitlines()  # type: ignore[attr-defined]
    heads = [i for i, line in enumerate(lines) if not line.startswith("      ")]
    assert heads
    assert all(i + 1 < len(lines) and lines[i + 1].startswith("      ") for i in heads)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["rnu"], ["unknown command 'rnu'; did you mean 'run'?"]),
        (["run", "--presett", "tiny"], ["unrecognized arguments: --presett tiny; see `blm run --help`"]),
        (["run", "--preset", "tinny"], ["unknown preset 'tinny'; did you mean 'tiny'?"]),
        (["run", "--preset", "gone.yaml"], ["preset file gone.yaml does not exist"]),
        (["run", "--until", "stage3"], ["unknown stage 'stage3'; did you mean 'stage"]),
        (["run", "--from", "stage2", "--until", "stage1"], ["--from stage2 comes after --until stage1"]),
        (
            ["run", "--set", "stage2.stps=3"],
            ["--set stage2.stps=3: unknown option 'stage2.stps'; did you mean 'steps'?"],
        ),
        (["run", "--set", "world.cells=[panda/PushCup]"], ["PushCup", "PushCube"]),
        (["status", "nothing"], ["no run 'nothing'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and len(value) > 1 else None,
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: list[str],
    parts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(words)
    assert_one_line(subprocess.CompletedProcess(words, code, stderr=capsys.readouterr().err), *parts)


def test_an_unknown_option_in_a_file_names_the_file(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("stage1:\n  tiny: {widht: 3}\n")
    assert_one_line(
        call("run", "--preset", str(own)), f"{own}: unknown option 'stage1.tiny.widht'; did you mean 'width'?"
    )


def test_a_stage_without_its_inputs_names_the_first_one_that_is_missing(tmp_path: Path) -> None:
    result = call("stage2", "--root", str(tmp_path))
    assert_one_line(result, "stage2 needs render, which is not finished", "`blm render`", "blm run --until stage2")


def test_a_missing_model_folder_is_one_line(tmp_path: Path) -> None:
    assert_one_line(call("serve", "--model", str(tmp_path / "absent")), str(tmp_path / "absent"))


def finished_collect(root: Path, content: bytes) -> Path:
    """A finished `collect` of the tiny preset with one episode file; returns the file."""
    from blm.pipelines.config import load_config
    from blm.pipelines.plan import make_plan

    step = make_plan(load_config("tiny"), STAGES, root / "tiny")["collect"]
    path = step.folder / "episodes" / "panda-PushCube" / "seeds-0-9.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    files = list_files(step.folder)
    manifest = {
        "format": 1,
        "stage": "collect",
        "fingerprint": step.fingerprint,
        "code": step.code,
        "content": content_hash(files),
        "files": files,
        "inputs": {},
        "summary": {},
        "wall_s": 1.0,
        "peak_memory_gb": 0.1,
        "finished": "2026-01-01 10:00:00",
    }
    write_json(step.folder / "manifest.json", manifest)
    return path


@pytest.mark.ray
def test_a_corrupt_parquet_file_is_one_line(tmp_path: Path) -> None:
    path = finished_collect(tmp_path, b"PAR1 this is no Parquet file PAR1")
    result = call("render", "--preset", "tiny", "--root", str(tmp_path))
    assert_one_line(result, path.name)


def test_a_truncated_file_of_a_finished_stage_is_one_line(tmp_path: Path) -> None:
    path = finished_collect(tmp_path, b"x" * 100)
    path.write_bytes(b"x" * 50)
    result = call("run", "--preset", "tiny", "--root", str(tmp_path), "--until", "collect")
    assert_one_line(result, path.name, "has 50 bytes, it was written with 100", "--from collect")


def test_a_finished_stage_is_skipped_and_its_status_told(tmp_path: Path) -> None:
    finished_collect(tmp_path, b"x" * 100)
    result = call("run", "--preset", "tiny", "--root", str(tmp_path), "--until", "collect")
    assert result.returncode == 0, result.stderr
    assert "collect (1 of 1): finished 2026-01-01 10:00:00 in 1.0 s, skipped" in result.stdout
    shown = call("status", "--root", str(tmp_path)).stdout
    assert "collect    finished 2026-01-01 10:00:00" in shown
    assert "render     not yet" in shown
    assert call("status", "tiny", "--root", str(tmp_path)).stdout == shown
    assert call("status", str(tmp_path / "tiny")).stdout == shown


def test_an_evaluation_is_shown_in_the_papers_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = report_inputs.make_inputs(tmp_path / "tiny", cells=("panda/PushCube", "panda/PickCube", "xarm6/PushCube"))
    stages = {"evaluate": {"folder": folders["evaluate"].name}}
    write_json(tmp_path / "tiny" / "run.json", {"stages": stages})
    write_json(tmp_path / "tiny" / "compare" / "a-b" / "compare.json", report_inputs.compared())
    assert main(["show", str(tmp_path / "tiny")]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    assert ["success,", "%", "PushCube", "PickCube", "average"] in rows
    assert ["panda", "92", "(81-97)", "92", "(81-97)", "92.0"] in rows
    assert ["xarm6", "92", "(81-97)", "-", "92.0"] in rows
    assert ["panda", "100", "86", "93.0"] in rows  # the paper's BLM1
    assert lines.index("  this run") < lines.index("  random actions") < lines.index("  paper: BLM1")
    assert "  simulated by: cpu, lite" in lines
    assert any("a-b: runs/a is better" in line for line in lines)
    assert main(["show", str(folders["evaluate"]), "--peers", "none"]) == 0
    assert "paper" not in capsys.readouterr().out


def test_what_has_no_evaluation_cannot_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"stages": {}}))
    assert main(["show", str(tmp_path)]) == 2
    assert "has not been evaluated" in capsys.readouterr().err
    assert main(["show", str(tmp_path / "absent")]) == 2
    assert "neither a run nor an evaluation" in capsys.readouterr().err


def test_presets_are_listed() -> None:
    names = ["tiny", "laptop", "grid24", "small", "paper", "paper_robot", "paper_cell"]
    assert [line.split()[0] for line in call("presets").stdout.splitlines()] == names


def test_durations_and_sizes_read_well() -> None:
    assert [duration(s) for s in (0.04, 59.9, 61, 3725)] == ["0.0 s", "59.9 s", "1 min 01 s", "1 h 02 min"]
    assert [size(b) for b in (0, 999, 1000, 12_345_678, 5e12)] == ["0 B", "999 B", "1.0 kB", "12.3 MB", "5.0 TB"]
