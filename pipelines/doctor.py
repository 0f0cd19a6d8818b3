"""Every part of the installation, tried out: one line each, and for what is broken the command that mends it.

Each check runs in a process of its own, so that a crash in native code or a library that hangs is one more FAIL line.
The checks themselves are in `doctor_checks.py`.

    blm doctor            a list for people
    blm doctor --json     one JSON object
    blm doctor --cluster  every node of the cluster that runs here (`doctor_cluster.py`)
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Literal

from blm.pipelines.cli_options import ROOT_HELP

Status = Literal["ok", "warn", "FAIL"]

REINSTALL = "rm -rf .venv && make setup"
SYSTEM = "make setup"
BUSY = "if the machine is busy, blm doctor again once it is not; else"
ANSWER = "blm-doctor: "
"""How the line begins in which a check's process answers; libraries print what they like before it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing to try."""

    name: str
    """Also the name of its function in `doctor_checks`."""
    mend: str
    """What to run if it fails and does not know better itself."""
    timeout_s: float = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What came of a check."""

    name: str
    status: Status
    detail: str
    mend: str = ""
    seconds: float = 0.0


CHECKS = (
    Check(name="python", mend=REINSTALL, timeout_s=10),
    Check(name="memory", mend="close other programs"),
    Check(name="disk", mend="free some disk space"),
    Check(name="shared_memory", mend="mount -o remount,size=4G /dev/shm (a container: --shm-size=4g)"),
    Check(name="torch", mend=REINSTALL),
    Check(name="torchvision", mend=REINSTALL),
    Check(name="transformers", mend=REINSTALL),
    Check(name="vllm", mend=REINSTALL, timeout_s=120),
    Check(name="ray", mend="ray stop; rm -rf /dev/shm/plasma*; blm doctor"),
    Check(name="robots", mend=REINSTALL),
    Check(name="physics", mend=REINSTALL),
    Check(name="renderer", mend=SYSTEM),
    Check(name="planner", mend=REINSTALL),
    Check(name="video", mend=REINSTALL),
)
"""In the order in which they are shown. Slow ones are started first."""

SLOW = ("vllm", "renderer", "ray", "transformers", "planner", "physics")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm doctor`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("--cluster", action="store_true", help="check every node of a running Ray cluster instead")
    parser.add_argument(
        "--address", metavar="ADDRESS", help="of that cluster (default: RAY_ADDRESS, or the one on this machine)"
    )
    parser.add_argument("--root", metavar="DIR", help=f"try it from every node: {ROOT_HELP.partition(' (')[0]}")


def main(name: str, arguments: argparse.Namespace) -> int:
    """`blm doctor`."""
    if arguments.cluster:
        from blm.pipelines.doctor_cluster import doctor_cluster

        return doctor_cluster(address=arguments.address, root=arguments.root, as_json=arguments.json)
    return doctor(as_json=arguments.json)


def doctor(*, as_json: bool = False) -> int:
    """Run every check and print what it found. Returns 0, or 1 if anything is broken."""
    began = time.monotonic()
    findings = []
    for finding in run_checks(CHECKS):
        findings.append(finding)
        if not as_json:
            print(as_line(finding), flush=True)
    broken = [finding.name for finding in findings if finding.status == "FAIL"]
    seconds = time.monotonic() - began
    if as_json:
        print(json.dumps({"ok": not broken, "seconds": round(seconds, 1), "checks": [asdict(one) for one in findings]}))
    elif broken:
        print(f"\n{len(broken)} of {len(findings)} checks failed: {', '.join(broken)}")
    else:
        print(f"\nall {len(findings)} checks passed in {seconds:.0f} s")
    return 1 if broken else 0


def as_line(finding: Finding) -> str:
    """A finding as a person reads it."""
    line = f"{finding.status:<5} {finding.name:<14} {finding.detail}"
    return f"{line}\n      {'':<14} mend: {finding.mend}" if finding.mend else line


def run_checks(checks: tuple[Check, ...]) -> Iterable[Finding]:
    """What came of each check, in their order, as soon as those before it are known."""
    with ThreadPoolExecutor(max_workers=min(4, (os.cpu_count() or 1) + 1)) as pool:
        slow_first = sorted(checks, key=lambda check: SLOW.index(check.name) if check.name in SLOW else len(SLOW))
        running = {check.name: pool.submit(run_check, check) for check in slow_first}
        for check in checks:
            yield running[check.name].result()


def run_check(check: Check) -> Finding:
    """Run one check in a process of its own; what it starts ends with it."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.doctor_checks", check.name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=check.timeout_s)
        finding = _read(check, output, process.returncode)
    except subprocess.TimeoutExpired:
        detail = f"no answer in {check.timeout_s:.0f} s"
        finding = Finding(name=check.name, status="FAIL", detail=detail, mend=f"{BUSY} {check.mend}")
    finally:
        _end(process)
    return Finding(
        name=finding.name,
        status=finding.status,
        detail=finding.detail,
        mend=finding.mend,
        seconds=round(time.monotonic() - began, 1),
    )


def _read(check: Check, output: str, code: int) -> Finding:
    """The answer in a process's output, or what its end says if there is none."""
    lines = output.strip().splitlines()
    for line in reversed(lines):
        if line.startswith(ANSWER):
            answer = json.loads(line.removeprefix(ANSWER))
            mend = answer["mend"] or (check.mend if answer["status"] != "ok" else "")
            return Finding(name=check.name, status=answer["status"], detail=answer["detail"], mend=mend)
    how = f"crashed with {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return Finding(
        name=check.name, status="FAIL", detail=f"{how}: {lines[-1] if lines else 'no output'}", mend=check.mend
    )


def _end(process: subprocess.Popen[str]) -> None:
    """Kill what is left of a check: it leads a process group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
