"""The image: what the Dockerfile copies is there and reaches the builder, and its script installs what it should."""

import os
import re
import shlex
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
from small_manifests import ROOT

DOCKER = ROOT / "cluster" / "docker"
TEXT = re.sub(r"\\\n\s*", "", (DOCKER / "Dockerfile").read_text())
LINES = [line.split(maxsplit=1) for line in TEXT.splitlines() if line.strip() and not line.startswith("#")]

STAND_IN = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >> "$TOLD"
"""
PYTHON = """
case "$*" in
    *"-m venv"*) mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" ;;
    *get_path*) echo "$SITE" ;;
esac
"""


def instructions(name: str) -> list[str]:
    return [rest for word, rest in LINES if word == name]


def test_what_is_copied_is_there_and_reaches_the_builder() -> None:
    said = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in said if line and not line.startswith("#")]
    assert rules[0] == "*"
    kept = [line[1:] for line in rules if line.startswith("!")]
    sources = [word for rest in instructions("COPY") if "--from" not in rest for word in rest.split()[:-1]]
    assert len(sources) >= 10
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) or source.startswith(f"{pattern}/") for pattern in kept), source


def test_the_wheel_is_built_first_and_installed_into_the_second_stage() -> None:
    stages = [rest.split()[-1] for rest in instructions("FROM")]
    assert stages == ["wheel", "image"]
    assert "--from=wheel /wheels/blm-*.whl /setup/wheels/" in instructions("COPY")
    assert any("pip wheel" in rest and "--no-deps" in rest for rest in instructions("RUN"))
    assert instructions("USER") == ["1000"]  # Kubernetes believes no name with runAsNonRoot


def test_no_image_comes_from_a_named_host_and_no_secret_is_an_argument() -> None:
    arguments = dict(rest.partition("=")[::2] for rest in instructions("ARG"))
    assert set(arguments) == {"BASE", "DEVICE"}
    assert "/" not in arguments["BASE"]
    for rest in instructions("RUN"):
        assert ("pip" not in rest and "environment" not in rest) or "type=secret" in rest


def image(tmp_path: Path, step: str, device: str) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """Run install.sh as the Dockerfile lays it out, among programs that only note what they were told."""
    setup = tmp_path / "setup"
    (setup / "wheels").mkdir(parents=True)
    for path in [*(ROOT / "cluster" / "setup").iterdir(), DOCKER / "install.sh"]:
        if path.is_file():
            (setup / path.name).write_bytes(path.read_bytes())
    (setup / "wheels" / "blm-0.1.0-py3-none-any.whl").touch()
    programs, site = tmp_path / "bin", tmp_path / "site"
    programs.mkdir()
    site.mkdir()
    bodies = {"apt-get": "", "apt-cache": "echo '  Candidate: 24.3.4-1'", "python3.11": PYTHON, "id": "echo 0"}
    bodies |= {"ldconfig": "", "sudo": '"$@"', "dpkg-query": "exit 1"}
    for name, body in bodies.items():
        (programs / name).write_text(STAND_IN + body)
        (programs / name).chmod(0o755)
    told = tmp_path / "told"
    own = {"TOLD": str(told), "SITE": str(site), "BLM_VENV": str(tmp_path / "venv"), "BLM_PYTHON": "python3.11"}
    done = subprocess.run(
        ["bash", str(setup / "install.sh"), step, device],
        env={"PATH": f"{programs}:{os.environ['PATH']}"} | own,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return done, [shlex.split(line, posix=False) for line in told.read_text().splitlines()] if told.exists() else []


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_wheel_is_installed_with_pins_for_its_device(tmp_path: Path, device: str) -> None:
    done, told = image(tmp_path, "environment", device)
    assert done.returncode == 0, done.stdout + done.stderr
    (install,) = [words for words in told if words[1:4] == ["-m", "pip", "install"]]
    assert f"{tmp_path}/setup/wheels/blm-0.1.0-py3-none-any.whl[{device}]" in install
    assert f"{tmp_path}/setup/constraints/{device}.txt" in install
    assert (ROOT / "constraints" / f"{device}.txt").is_file()
    assert (tmp_path / "site" / "blm_torchvision_cpu.pth").exists() == (device == "cpu")
    assert any("uninstall" in words for words in told) == (device == "cpu")


def test_system_libraries_and_software_vulkan_are_installed(tmp_path: Path) -> None:
    done, told = image(tmp_path, "system", "gpu")
    assert done.returncode == 0, done.stdout + done.stderr
    installed = {word for words in told if words[0] == "apt-get" and "install" in words for word in words}
    assert {"wget", "g++", "libvulkan1", "mesa-vulkan-drivers"} <= installed


def test_another_device_is_refused(tmp_path: Path) -> None:
    done, told = image(tmp_path, "system", "tpu")
    assert done.returncode == 1
    assert "error: DEVICE is 'tpu'" in done.stderr
    assert told == []
