"""Imports point one way, and light modules stay light."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
HEAVY = ("torch", "ray", "vllm", "transformers", "mani_skill", "sapien", "mlflow")
LIGHT = (
    "blm.model.errors",
    "blm.model.embodiments",
    "blm.actors.sim.world",
    "blm.cluster.ray_runtime",
    "blm.pipelines.cli",
    "blm.pipelines.cli_run",
    "blm.pipelines.config",
    "blm.pipelines.doctor",
    "blm.pipelines.stages",
)


def loaded_after(statement: str, names: tuple[str, ...]) -> set[str]:
    """Which of the packages a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint('loaded:', *(name for name in {names!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--config", "pyproject.toml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


@pytest.mark.parametrize("module", LIGHT)
def test_light_module_loads_nothing_heavy(module: str) -> None:
    assert loaded_after(f"import {module}", HEAVY) == set()


def test_model_never_loads_ray_or_a_simulator() -> None:
    modules = sorted(f"blm.model.{path.stem}" for path in (ROOT / "model").glob("*.py") if path.stem != "__init__")
    assert modules
    unwanted = ("ray", "mani_skill", "sapien", "mlflow", "vllm", "sklearn")
    assert loaded_after(f"import {', '.join(modules)}", unwanted) == set()


def test_help_needs_nothing_heavy() -> None:
    statement = "from blm.pipelines.cli import main\nassert main(['--help']) == 0"
    assert loaded_after(statement, (*HEAVY, "numpy", "pyarrow")) == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_package_has_an_empty_init(package: str) -> None:
    # A parent's __init__ runs before every module below it, unseen by the import contracts.
    folder = ROOT / package.removeprefix("blm.").replace(".", "/")
    assert (folder / "__init__.py").read_text() == ""


def test_simulator_imports_no_ray_actor() -> None:
    for path in sorted((ROOT / "actors" / "sim").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                outside = name.startswith("blm.actors") and not name.startswith("blm.actors.sim")
                assert not outside, f"{path.name} imports {name}"
