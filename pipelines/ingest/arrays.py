"""Arrays by name in one file, whole or not there."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from blm.pipelines.datasets.parquet import temporary_path


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz file under a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    temporary.rename(path)
