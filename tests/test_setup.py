"""`make setup`: what it decides, and what it says when it cannot go on. Nothing is installed here."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETUP = ROOT / "cluster" / "setup"

DEB822 = """Types: deb
# a comment of the image's maker
URIs: https://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/some-key.gpg

Types: deb
URIs: https://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""
ONE_LINE = """# deb https://old.example/debian bookworm main
deb-src https://mirror.example/debian bookworm main
deb [arch=amd64 signed-by=/etc/key.gpg] https://mirror.example/debian bookworm main contrib # the mirror
"""
EMBEDDED_KEY = """Types: deb deb-src
URIs: https://mirror.example/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abcd
 -----END PGP PUBLIC KEY BLOCK-----
"""


def backports(folder: Path, codename: str = "bookworm") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SETUP / "apt_backports.py"), codename, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def bash(script: str, *, path: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a few lines of Bash after the functions of setup.sh's parts."""
    prelude = f"""set -euo pipefail
        here={SETUP} root={ROOT} device=cpu log=/dev/null
        say() {{ echo "[setup] $*"; }}
        fail() {{ echo "error: $1" >&2; echo "  mend: $2" >&2; exit 1; }}
        source {SETUP}/system.sh
        source {SETUP}/environment.sh
    """
    environment = {**os.environ, **variables}
    if path is not None:
        environment["PATH"] = path
    return subprocess.run(
        ["/bin/bash", "-c", prelude + script], env=environment, capture_output=True, text=True, check=False
    )


# ---- where backports come from ------------------------------------------------------------------------------------


def test_backports_take_mirror_and_key_of_a_deb822_source(tmp_path: Path) -> None:
    write(tmp_path / "sources.list.d/debian.sources", DEB822)
    assert backports(tmp_path).stdout == (
        "Types: deb\nURIs: https://mirror.example/debian\nSuites: bookworm-backports\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/some-key.gpg\n"
    )


def test_backports_take_mirror_and_key_of_a_one_line_source(tmp_path: Path) -> None:
    write(tmp_path / "sources.list", ONE_LINE)
    found = backports(tmp_path).stdout
    assert "URIs: https://mirror.example/debian\n" in found
    assert "Signed-By: /etc/key.gpg\n" in found


def test_backports_keep_a_key_written_into_the_source(tmp_path: Path) -> None:
    write(tmp_path / "sources.list.d/debian.sources", EMBEDDED_KEY)
    assert backports(tmp_path).stdout.endswith(
        EMBEDDED_KEY[EMBEDDED_KEY.index("Signed-By") :].replace("By:\n", "By: \n")
    )


def test_backports_that_are_there_are_not_added_again(tmp_path: Path) -> None:
    write(tmp_path / "sources.list", "deb https://mirror.example/debian bookworm-backports main\n")
    write(tmp_path / "sources.list.d/debian.sources", DEB822)
    done = backports(tmp_path)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("text", ["", DEB822.replace("Types: deb\n#", "Types: deb\nEnabled: no\n#")])
def test_backports_without_a_usable_debian_source_are_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path / "sources.list.d/debian.sources", text)
    assert backports(tmp_path).returncode == 3


def test_backports_ignore_files_that_apt_ignores(tmp_path: Path) -> None:
    write(tmp_path / "sources.list.d/debian.sources.save", DEB822)
    assert backports(tmp_path).returncode == 3


# ---- decisions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "recent"),
    [("22.3.6-1+deb12u1", False), ("24.2.8-1", False), ("24.3.0-2", True), ("25.0.7-2~bpo12+1", True), ("", False)],
)
def test_mesa_is_recent_from_24_3_on(version: str, recent: bool) -> None:
    assert (bash(f"mesa_is_recent '{version}'").returncode == 0) is recent


def test_an_interpreter_of_another_version_is_passed_over(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = bash("find_python", BLM_PYTHON=f"{old} {sys.executable}")
    assert done.stdout.strip() == sys.executable


def test_a_missing_library_names_its_package() -> None:
    assert bash('LIBRARIES="libnothere.so.9=libnothere9 libc.so.6=libc6"; missing_libraries').stdout.split() == [
        "libnothere9"
    ]


def test_the_recipe_changes_with_the_device() -> None:
    recipe = "python=python3; recipe"
    assert bash(recipe).stdout == bash(recipe).stdout != bash(f"device=gpu; {recipe}").stdout


# ---- words for people ---------------------------------------------------------------------------------------------


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a refused setup: one error, one command."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"^error: .+\n  mend: .+\n$", done.stderr, re.MULTILINE), done.stderr
    return done.stderr


def bin_folder(folder: Path, *programs: str) -> str:
    """A PATH of exactly these programs, and a user who is not root."""
    folder.mkdir()
    for program in programs:
        (folder / program).symlink_to(f"/usr/bin/{program}")
    identity = folder / "id"
    identity.write_text("#!/bin/sh\necho 1000\n")
    identity.chmod(0o755)
    return str(folder)


def test_packages_are_missing_and_the_user_may_not_install(tmp_path: Path) -> None:
    said = refusal(bash("apt_install libgl1 libegl1", path=bin_folder(tmp_path / "bin")))
    assert "mend: apt-get install libgl1 libegl1 (as root), then: make setup" in said


def test_no_apt_and_a_library_missing(tmp_path: Path) -> None:
    script = 'LIBRARIES="libnothere.so.9=libnothere9"; prepare_system'
    said = refusal(bash(script, path=bin_folder(tmp_path / "bin"), BLM_PYTHON=sys.executable))
    assert "libnothere9" in said
    assert "BLM_SKIP_SYSTEM=1 make setup" in said


def test_no_suitable_python_and_no_apt(tmp_path: Path) -> None:
    said = refusal(bash("LIBRARIES=; prepare_system", path=bin_folder(tmp_path / "bin"), BLM_PYTHON="no-such-python"))
    assert "Python 3.11" in said


def test_a_failed_step_shows_the_end_of_its_log(tmp_path: Path) -> None:
    script = f"log={tmp_path}/log; run_logged 'it went wrong' 'do this' bash -c 'echo the reason; exit 7'"
    done = bash(script)
    assert done.returncode == 1
    assert "the reason" in done.stderr
    assert "error: it went wrong" in done.stderr
    assert "mend: do this" in done.stderr


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("the only copy")
    script = f"venv={tmp_path} log={tmp_path}/setup.log lock={tmp_path}/.setup-lock python={sys.executable}; make_venv"
    assert "no virtual environment" in refusal(bash(script))
    assert (tmp_path / "thesis.txt").read_text() == "the only copy"


def test_an_unknown_device_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/bash", str(SETUP / "setup.sh")],
        env={**os.environ, "BLM_DEVICE": "tpu", "BLM_VENV": str(tmp_path / "venv")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "tpu" in refusal(done)
    assert not (tmp_path / "venv").exists()


# ---- what is shipped ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", sorted(SETUP.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_valid_bash(script: Path) -> None:
    done = subprocess.run(["/bin/bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def pins(device: str) -> list[str]:
    lines = (ROOT / "constraints" / f"{device}.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def package(requirement: str) -> str:
    """Name of the package in a requirement, as the index compares names."""
    return re.split(r"[\[<>=! ]", requirement)[0].lower().replace("_", "-")


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_constraints_pin_every_package_once_and_name_no_place(device: str) -> None:
    names = [package(line) for line in pins(device)]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+===?[A-Za-z0-9.+!]+", line) for line in pins(device))
    assert len(names) == len(set(names))
    assert "blm" not in names


def test_constraints_of_a_cpu_leave_out_what_only_cuda_builds_bring() -> None:
    assert not {"torchaudio", "torchcodec", "vllm"} & {package(line) for line in pins("cpu")}


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_every_dependency_is_pinned_by_the_constraints(device: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {package(one) for one in [*project["dependencies"], *extras[device], *extras["dev"]]}
    assert wanted - {package(line) for line in pins(device)} == set()


def test_continuous_integration_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text()


@pytest.mark.parametrize(
    "target", ["setup", "demo", "test", "lint", "format", "typecheck", "serve", "lerobot-check", "clean"]
)
def test_make_knows_its_targets(target: str) -> None:
    done = subprocess.run(["make", "-n", target, "CHECKPOINT=x"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
