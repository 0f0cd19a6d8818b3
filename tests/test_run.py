"""The runner on a pipeline of tiny real stages: order, skipping, resuming after a kill, refusals, exit codes.

Every test runs `small_pipeline.py` in a process of its own, as a person would; stages that need Ray are marked.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from small_pipeline import SCRIPT, call, environment, make_stages, prepare, start


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path) -> Path:
    return prepare(tmp_path, empty_store)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A finished run of all three stages, and what it printed. Tests work on copies."""

    folder: Path
    result: subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    make_stages(folder)
    return Finished(folder=folder, result=call(folder))


@pytest.fixture
def finished_copy(finished: Finished, folder: Path) -> Path:
    assert finished.result.returncode == 0, finished.result.stderr
    shutil.copytree(finished.folder / "runs", folder / "runs", dirs_exist_ok=True)
    return folder


def count_folder(folder: Path) -> Path:
    (found,) = (folder / "runs" / "small").glob("count-*")
    return found


def manifest(stage_folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((stage_folder / "manifest.json").read_text())
    return loaded


def assert_refused(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Exit code 2 and one clear line."""
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    for part in parts:
        assert part in result.stderr


@pytest.mark.ray
def test_stages_run_in_order(finished: Finished) -> None:
    result = finished.result
    assert result.returncode == 0, result.stderr
    order = [result.stdout.index(f"== {name} (") for name in ("count", "square", "total")]
    assert order == sorted(order)
    assert "(pid=" not in result.stdout + result.stderr  # Ray's own words are kept off the console
    (total,) = (finished.folder / "runs" / "small").glob("total-*")
    assert (total / "total.txt").read_text() == str(0 + 1 + 4)
    made = manifest(total)
    assert made["summary"] == {"total": 5}
    assert made["inputs"].keys() == {"square"}
    assert made["peak_memory_gb"] > 0.1
    assert [f["path"] for f in made["files"]] == ["total.txt"]
    assert (finished.folder / "runs" / "small" / "mlflow.db").exists()


@pytest.mark.ray
def test_a_finished_run_is_skipped_without_starting_anything(finished_copy: Path) -> None:
    script = (
        "import sys, small_pipeline\n"
        f"sys.argv = ['x', {str(finished_copy)!r}]\n"
        "code = small_pipeline.main()\n"
        "print(sorted({'ray', 'mlflow', 'torch'} & set(sys.modules)))\n"
        "sys.exit(code)\n"
    )
    path = os.pathsep.join([str(finished_copy), str(Path(SCRIPT).parent)])
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(finished_copy) | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("skipped") == 3
    assert result.stdout.endswith("[]\n")


def test_a_run_killed_in_the_middle_of_a_stage_goes_on_where_it_was(folder: Path) -> None:
    words = ("--until", "count", "--to", "20", "--pause-s", "0.1")
    killed = start(folder, *words)
    assert killed.stdout is not None
    for line in killed.stdout:
        if "[count] 4 of 20" in line:
            break
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    out = count_folder(folder)
    kept = sorted(path.name for path in out.glob("*.txt"))
    assert len(kept) >= 4
    assert not (out / "manifest.json").exists()
    times = {name: (out / name).stat().st_mtime_ns for name in kept}

    again = call(folder, *words)
    assert again.returncode == 0, again.stderr
    assert "attempt 2, going on from what is there" in again.stdout
    assert "[count] 1 of 40" not in again.stdout
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == times
    assert manifest(out)["attempts"] == 2
    assert manifest(out)["wall_s"] > 16 * 0.1


@pytest.mark.ray
def test_a_mistake_found_in_a_worker_is_one_line(folder: Path) -> None:
    module = folder / "count_stage.py"
    module.write_text(module.read_text().replace("write_text(str(i))", "write_text('x')"))
    assert_refused(call(folder), "'x' is no number; count again")


def test_a_fault_of_the_code_shows_its_traceback_and_exits_1(folder: Path) -> None:
    (folder / "count_stage.py").write_text(
        "VERSION = 1\ndef count(config, context):\n    raise ZeroDivisionError('oh')\n"
    )
    result = call(folder, "--until", "count")
    assert result.returncode == 1
    assert "ZeroDivisionError: oh" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")


def test_a_stage_alone_names_the_input_it_misses(folder: Path) -> None:
    assert_refused(call(folder, "--only", "square"), "square needs count, which is not finished", "`blm count`")


def test_unknown_stages_are_refused_with_the_nearest_name(folder: Path) -> None:
    assert_refused(call(folder, "--until", "cuont"), "unknown stage 'cuont'; did you mean 'count'?")


@pytest.mark.ray
def test_a_changed_configuration_gets_a_folder_of_its_own(finished_copy: Path) -> None:
    assert call(finished_copy, "--until", "count", "--to", "2").returncode == 0
    assert len(list((finished_copy / "runs" / "small").glob("count-*"))) == 2


@pytest.mark.ray
def test_work_of_other_code_is_refused_until_it_is_accepted(finished_copy: Path) -> None:
    for name in ("count", "total"):
        module = finished_copy / f"{name}_stage.py"
        module.write_text(module.read_text() + "\n# changed\n")
    assert_refused(
        call(finished_copy), "other code than this: count, total;", "--accept-code", "--from count", "--name"
    )
    assert call(finished_copy, "--accept-code").returncode == 0
    assert call(finished_copy).stdout.count("skipped") == 3


def test_half_finished_work_of_other_code_is_refused_too(folder: Path) -> None:
    words = ("--until", "count", "--to", "50", "--pause-s", "0.1")
    running = start(folder, *words)
    assert running.stdout is not None
    for line in running.stdout:
        if "[count] 2 of" in line:
            break
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    module = folder / "count_stage.py"
    module.write_text(module.read_text() + "\n# changed\n")
    assert_refused(call(folder, *words), "work of other code than this: count")


@pytest.mark.ray
def test_a_new_version_of_a_stage_runs_anew(finished_copy: Path) -> None:
    module = finished_copy / "count_stage.py"
    module.write_text(module.read_text().replace("VERSION = 1", "VERSION = 2"))
    assert "skipped" not in call(finished_copy, "--until", "count").stdout
    assert len(list((finished_copy / "runs" / "small").glob("count-*"))) == 2


@pytest.mark.ray
def test_a_damaged_file_is_refused_and_from_makes_it_anew(finished_copy: Path) -> None:
    out = count_folder(finished_copy)
    (out / "001.txt").write_text("longer")
    assert_refused(call(finished_copy), "001.txt has 6 bytes", "--from count")
    assert call(finished_copy, "--until", "count", "--from", "count").returncode == 0
    assert (out / "001.txt").read_text() == "1"
    assert not list((finished_copy / "runs" / "small").glob("square-*"))  # stood on what was made anew


@pytest.mark.ray
def test_work_made_from_other_data_is_refused(finished_copy: Path) -> None:
    out = count_folder(finished_copy)
    made = manifest(out)
    made["content"] = "of another making"
    (out / "manifest.json").write_text(json.dumps(made))
    assert_refused(call(finished_copy), "square", "other data: count has been made anew since", "--from square")


@pytest.mark.ray
def test_half_finished_work_from_other_data_is_refused(finished_copy: Path) -> None:
    (square,) = (finished_copy / "runs" / "small").glob("square-*")
    (square / "manifest.json").unlink()
    begun = json.loads((square / "stage.json").read_text())
    begun["inputs"]["count"]["content"] = "of another making"
    (square / "stage.json").write_text(json.dumps(begun))
    assert_refused(call(finished_copy), "was begun on other data", "--from square")


def test_two_runs_cannot_share_a_folder(folder: Path) -> None:
    running = start(folder, "--until", "count", "--to", "100", "--pause-s", "0.2")
    assert running.stdout is not None
    for line in running.stdout:
        if "[count] 1 of" in line:
            break
    assert_refused(call(folder, "--until", "count"), f"in use by process {running.pid}", "--name")
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
