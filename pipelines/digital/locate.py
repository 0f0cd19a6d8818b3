"""Where a benchmark lies: folders are laid out in many ways, and the Hugging Face hub holds most of it."""

import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from blm.model.errors import UserError
from blm.pipelines.datasets.parquet import temporary_path

FULL_OF_MEDIA = frozenset({"clips", "images", "videos", "frames", "rt_frames_success", ".git"})
"""Folders that may hold millions of files, and never an annotation."""


def walk(root: Path, depth: int, skip: frozenset[str] = FULL_OF_MEDIA) -> Iterator[tuple[Path, list[str], list[str]]]:
    """(folder, names of its folders, names of its files) from `root` down to `depth` levels below it, in a fixed order;
    folders named in `skip` are told but not entered, and none is entered twice, whatever links there are.
    """
    if not root.is_dir():
        raise UserError(f"{root} is no folder; give the folder of the benchmarks")
    waiting = [(root, 0)]
    seen: set[Path] = set()
    while waiting:
        folder, level = waiting.pop(0)
        entries = _entries(folder)
        folders = [name for name, is_folder in entries if is_folder]
        yield folder, folders, [name for name, is_folder in entries if not is_folder]
        for name in folders if level < depth else ():
            real = (folder / name).resolve()
            if name not in skip and real not in seen:
                seen.add(real)
                waiting.append((folder / name, level + 1))


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """What is in a folder and whether it is a folder, by name; nothing of one that may not be read."""
    try:
        return sorted((entry.name, _is_folder(entry)) for entry in os.scandir(folder))
    except OSError:
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def find_files(root: Path, wanted: Callable[[Path], bool], depth: int = 5) -> list[Path]:
    """Files below `root` whose path is wanted, nearest first."""
    return [folder / name for folder, _, files in walk(root, depth) for name in files if wanted(folder / name)]


def find_folders(root: Path, name: str, depth: int = 9) -> list[Path]:
    """Folders of that name below `root`, or `root` itself if it has it."""
    if root.name == name:
        return [root]
    return [folder / name for folder, folders, _ in walk(root, depth, frozenset({name, ".git"})) if name in folders]


def unpack_beside(archive: Path, folder: Path) -> None:
    """Unpack an archive of media into the folder it stands in, so that `folder` comes to be, whole or not at all.

    UserError if the archive is damaged or the place cannot be written.
    """
    temporary = temporary_path(folder)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        inner = temporary / folder.name
        os.replace(inner if inner.is_dir() else temporary, folder)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{archive} cannot be unpacked ({error}); unpack it by hand to {folder}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def from_hub(dataset: str, patterns: Sequence[str]) -> Path:
    """The folder of a dataset of the Hugging Face hub, fetched unless it is in the local cache.

    UserError if there is no way to it: offline, gated, unknown.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(dataset, repo_type="dataset", allow_patterns=list(patterns)))
    except Exception as error:  # requests, httpx and the hub's own errors have no common base
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"the dataset {dataset} cannot be fetched from the Hugging Face hub ({reason}); on a machine "
            f"with a network run `hf download --repo-type dataset {dataset}`, and give the folder with --benchmarks"
        ) from error
