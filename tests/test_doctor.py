"""`blm doctor`: real checks, and what it makes of checks that crash, hang or fail."""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blm.pipelines import doctor, doctor_checks
from blm.pipelines.doctor import ANSWER, CHECKS, SLOW, Check, as_line, run_check, run_checks

CHEAP = ("python", "memory", "disk", "shared_memory", "video")


def running(command: str) -> bool:
    """Whether a process of that command line is alive."""
    listed = subprocess.run(["ps", "-eo", "stat,args"], capture_output=True, text=True, check=True).stdout
    return any(line.split(None, 1)[1:] == [command] and not line.startswith("Z") for line in listed.splitlines())


def by_name(name: str) -> Check:
    return next(check for check in CHECKS if check.name == name)


@pytest.fixture
def ailing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Puts a package `ailing` with checks of its own before the doctor: each ends in another way."""
    package = tmp_path / "ailing"
    package.mkdir()
    (package / "__init__.py").touch()
    body = f"""
import os, sys, time, subprocess
print("what a library says")
name = sys.argv[1]
if name == "segfault":
    os.kill(os.getpid(), 11)
if name == "silent":
    sys.exit(3)
if name == "hang":
    subprocess.Popen(["sleep", "61.{os.getpid()}"])
    time.sleep(60)
print({ANSWER!r} + '{{"status": "warn", "detail": "half empty", "mend": ""}}')
print("what a library says at the end")
"""
    (package / "doctor_checks.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "__package__", "ailing")
    return "ailing"


@pytest.mark.usefixtures("ailing")
def test_a_crash_is_a_fail_line_that_names_the_signal() -> None:
    finding = run_check(Check(name="segfault", mend="do this"))
    assert (finding.status, finding.mend) == ("FAIL", "do this")
    assert "SIGSEGV" in finding.detail


@pytest.mark.usefixtures("ailing")
def test_a_process_without_an_answer_is_a_fail_line_with_its_last_words() -> None:
    finding = run_check(Check(name="silent", mend="do this"))
    assert finding.status == "FAIL"
    assert "code 3: what a library says" in finding.detail


@pytest.mark.usefixtures("ailing")
def test_a_hang_ends_at_its_timeout_with_all_it_started() -> None:
    began = time.monotonic()
    finding = run_check(Check(name="hang", mend="do this", timeout_s=2))
    assert time.monotonic() - began < 20
    assert (finding.status, finding.detail) == ("FAIL", "no answer in 2 s")
    while running(f"sleep 61.{os.getpid()}"):  # a killed process takes a moment to go
        assert time.monotonic() - began < 20, "what the check started outlived it"
        time.sleep(0.1)


@pytest.mark.usefixtures("ailing")
def test_an_answer_is_found_among_what_libraries_print() -> None:
    finding = run_check(Check(name="fine", mend="do this"))
    assert (finding.status, finding.detail, finding.mend) == ("warn", "half empty", "do this")


@pytest.mark.usefixtures("ailing")
def test_any_fail_makes_the_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (Check(name="fine", mend="a"), Check(name="silent", mend="b")))
    assert doctor.doctor() == 1
    said = capsys.readouterr().out
    assert "warn  fine" in said
    assert "FAIL  silent" in said
    assert "mend: b" in said
    assert "1 of 2 checks failed: silent" in said


def test_cheap_checks_pass_here_in_their_order() -> None:
    checks = tuple(by_name(name) for name in CHEAP)
    findings = list(run_checks(checks))
    assert [finding.name for finding in findings] == list(CHEAP)
    assert all(finding.status != "FAIL" for finding in findings), findings


@pytest.mark.parametrize("name", ["python", "torch"])
def test_check_passes_here(name: str) -> None:
    finding = run_check(by_name(name))
    assert finding.status == "ok", finding
    assert finding.mend == ""


@pytest.mark.sim
@pytest.mark.parametrize("name", ["renderer", "planner"])
def test_simulator_check_passes_here(name: str) -> None:
    assert run_check(by_name(name)).status == "ok"


@pytest.mark.sim
def test_a_machine_without_a_vulkan_driver_gets_a_fail_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "none.json").write_text("{}")
    for name in ("VK_ICD_FILENAMES", "VK_DRIVER_FILES"):
        monkeypatch.setenv(name, str(tmp_path / "none.json"))
    finding = run_check(by_name("renderer"))
    assert finding.status == "FAIL"
    assert finding.mend == "make setup"


def test_json_is_one_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "CHECKS", tuple(by_name(name) for name in ("python", "disk")))
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    assert doctor.main("doctor", parser.parse_args(["--json"])) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is True
    assert [check["name"] for check in answer["checks"]] == ["python", "disk"]


def test_every_check_has_a_function_and_says_how_to_mend() -> None:
    for check in CHECKS:
        assert callable(getattr(doctor_checks, check.name))
        assert check.mend
    assert set(SLOW) <= {check.name for check in CHECKS}


def test_a_finding_that_is_ok_shows_no_remedy() -> None:
    assert "\n" not in as_line(doctor.Finding(name="torch", status="ok", detail="2.13"))


def test_doctor_itself_needs_nothing_but_the_standard_library() -> None:
    code = (
        "import sys, blm.pipelines.doctor; print([n for n in ('numpy', 'psutil', 'torch', 'ray') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"
    assert importlib.import_module("blm.pipelines.doctor") is doctor
