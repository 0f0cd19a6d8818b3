"""A wheel built from a clean copy holds every module, every data file and the command.

An editable install finds files that a wheel would leave out, so only a wheel tells.
"""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("model", "actors", "serve", "pipelines", "cluster")
FILES = ("pyproject.toml", "README.md", "LICENSE")
CACHES = shutil.ignore_patterns("__pycache__", "*.pyc", ".tmp-*")
DATA = (
    "actors/sim/assets/*/*",
    "pipelines/presets/*.yaml",
    "pipelines/datasets/*.json",
    "pipelines/planning/*.yaml",
    "cluster/*.yaml",
    "cluster/setup/*",
    "cluster/grafana/*",
    "cluster/docker/*",
    "cluster/slurm/*",
    "cluster/aws/*",
    "cluster/kubernetes/*/*",
    "cluster/kubernetes/*/*/*",
    "cluster/kubernetes/*/*/*/*",
    "serve/static/*",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """Root of a wheel, built without the network and without what earlier builds left behind."""
    folder = tmp_path_factory.mktemp("packaging")
    source = folder / "source"
    source.mkdir()
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=CACHES)
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "-w", str(folder), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("blm-*.whl")
    return zipfile.Path(path)


def wheel_names(wheel: zipfile.Path) -> set[str]:
    return set(wheel.root.namelist())


def test_wheel_holds_every_module(wheel: zipfile.Path) -> None:
    modules = {f"blm/{path.relative_to(ROOT)}" for name in FOLDERS for path in (ROOT / name).rglob("*.py")}
    assert modules - wheel_names(wheel) == set()


def test_wheel_holds_every_data_file(wheel: zipfile.Path) -> None:
    data = {f"blm/{path.relative_to(ROOT)}" for pattern in DATA for path in ROOT.glob(pattern) if path.is_file()}
    assert {"blm/actors/sim/assets/panda/panda.urdf", "blm/cluster/setup/setup.sh"} <= data
    assert data - wheel_names(wheel) == set()


def test_every_file_beside_the_code_is_known_data() -> None:
    data = {path for pattern in DATA for path in ROOT.glob(pattern)}
    for name in FOLDERS:
        for path in (ROOT / name).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc") and not path.name.startswith(".tmp-"):
                assert path in data, f"{path} would be missing from a wheel"


def test_wheel_holds_no_tests_and_no_top_level_copies(wheel: zipfile.Path) -> None:
    assert {name.split("/")[0].partition("-")[0] for name in wheel_names(wheel)} == {"blm"}


def test_wheel_has_the_command_and_the_licence(wheel: zipfile.Path) -> None:
    (info,) = {name.split("/")[0] for name in wheel_names(wheel) if ".dist-info/" in name}
    assert "blm = blm.pipelines.cli:main" in (wheel / info / "entry_points.txt").read_text()
    assert "License-Expression: Apache-2.0" in (wheel / info / "METADATA").read_text()
    assert f"{info}/licenses/LICENSE" in wheel_names(wheel)


def test_wheel_works_where_the_repository_is_not(wheel: zipfile.Path, tmp_path: Path) -> None:
    wheel.root.extractall(tmp_path / "site")
    code = (
        "import sys; sys.meta_path = [one for one in sys.meta_path if 'Editable' not in repr(one)]; "
        f"sys.path.insert(0, {str(tmp_path / 'site')!r}); "
        "from blm.pipelines import cli; assert 'site' in cli.__file__, cli.__file__; sys.exit(cli.main(['presets']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_is_declared() -> None:
    declared = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        "blm." + ".".join(path.parent.relative_to(ROOT).parts)
        for name in FOLDERS
        for path in (ROOT / name).rglob("__init__.py")
    }
    assert declared == found


def test_every_package_is_linked_for_type_checkers() -> None:
    for name in FOLDERS:
        link = ROOT / "typings" / "blm" / name
        assert link.is_symlink(), f"mypy would not see blm.{name}: {link} is no link"
        assert link.resolve() == ROOT / name
