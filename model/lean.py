"""Import this before transformers' models: it spares the process what it takes to import scikit-learn and SciPy.

Wherever they are installed (MLflow brings them along), transformers imports them, and pandas with them: for a function
of assisted generation, and for losses of object detection. Nobody here calls either, and it is two seconds of every
process that loads a model.
"""

import contextlib
import sys

from transformers.utils import import_utils


def _hide(package: str) -> None:
    """Let transformers find that a package is not there: transformers looks once, and remembers."""
    if package in sys.modules:
        return
    with contextlib.suppress(AttributeError):  # of another transformers, which then imports what it likes
        is_available = getattr(import_utils, f"is_{package}_available")
        is_available.cache_clear()
        sys.modules[package] = None  # type: ignore[assignment]  # what the import system takes for "not installed"
        try:
            is_available()
        finally:
            del sys.modules[package]


_hide("sklearn")
_hide("scipy")
