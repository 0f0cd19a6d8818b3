"""The hook that lets a CUDA build of torchvision be imported beside a CPU torch: in every process, and nowhere else."""

import importlib.metadata
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

SOURCE = Path(__file__).parent.parent / "cluster" / "setup" / "blm_torchvision_cpu.py"
NEEDED = torch.version.cuda is None and not importlib.metadata.version("torchvision").endswith("+cpu")
needed = pytest.mark.skipif(not NEEDED, reason="torchvision's own operators load here: the hook has nothing to do")


def run(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, check=False)


@needed
def test_hook_of_this_environment_is_the_one_that_ships() -> None:
    site = Path(sysconfig.get_path("purelib"))
    assert (site / "blm_torchvision_cpu.py").read_text() == SOURCE.read_text()
    assert (site / "blm_torchvision_cpu.pth").is_file()


@needed
def test_without_the_hook_the_import_fails() -> None:
    ours = "'_DefineSchemasFirst' in type(one).__name__"
    unhook = f"import sys; sys.meta_path = [one for one in sys.meta_path if not {ours}]; "
    assert "torchvision::nms does not exist" in run(unhook + "import torchvision").stderr


@needed
def test_with_the_hook_transforms_work_in_a_child_process() -> None:
    code = (
        "import torch, torchvision\nfrom torchvision.transforms.v2 import functional\n"
        "print(tuple(functional.resize(torch.zeros(3, 8, 8, dtype=torch.uint8), [4, 4]).shape))"
    )
    done = run(code)
    assert done.stdout.strip() == "(3, 4, 4)", done.stderr


@needed
def test_hook_costs_nothing_until_torchvision_is_imported() -> None:
    done = run("import sys; print('torch' in sys.modules, 'blm_torchvision_cpu' in sys.modules)")
    assert done.stdout.strip() == "False True"


def test_hook_defines_nothing_where_torchvision_has_its_own_operators() -> None:
    code = f"""
import sys; sys.path.insert(0, {str(SOURCE.parent)!r})
import torch, blm_torchvision_cpu as hook
torch.version.cuda = "13.0"
hook.define_schemas()
print(len(hook._kept_alive))
"""
    done = run(code)
    assert done.stdout.strip() == "0", done.stderr


def test_hook_is_installed_once() -> None:
    code = f"""
import sys; sys.path.insert(0, {str(SOURCE.parent)!r})
import blm_torchvision_cpu as hook
hook.install(); hook.install()
print(sum(type(one).__name__ == "_DefineSchemasFirst" for one in sys.meta_path))
"""
    done = run(code)
    assert done.stdout.strip() == "1", done.stderr
