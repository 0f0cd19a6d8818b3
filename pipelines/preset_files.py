"""The presets that ship with blm, `blm presets` lists them, and how one preset is made from another.

A preset may begin with `base: NAME` (a shipped preset, or a file beside it). It then has that preset's options, except
for those it gives itself; groups are merged, anything else is replaced. A base may have a base.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from blm.model.errors import UserError
from blm.pipelines.schema import nearest, parse_yaml

PRESETS = Path(__file__).parent / "presets"


def presets() -> dict[str, Path]:
    """Shipped presets, name -> file, from the smallest to the largest."""
    order = ["tiny", "laptop", "grid24", "small", "paper", "paper_robot", "paper_cell"]
    found = {path.stem: path for path in PRESETS.glob("*.yaml")}
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0]) if item[0] in order else 99, item[0])))


def summary(path: Path) -> str:
    """The first comment line of a preset: what it is for."""
    first = path.read_text().partition("\n")[0]
    return first.lstrip("# ").strip()


def preset_path(preset: str) -> Path:
    """The file of a preset given by name or path. UserError suggesting the nearest name if there is none."""
    if preset.endswith((".yaml", ".yml")) or "/" in preset:
        path = Path(preset)
        if not path.is_file():
            raise UserError(f"preset file {path} does not exist; shipped presets: {', '.join(presets())}")
        return path
    known = presets()
    if preset not in known:
        names = ", ".join(known)
        raise UserError(f"unknown preset {preset!r}; {nearest(preset, known)} (presets: {names})")
    return known[preset]


def read_preset(path: Path, check: Callable[[Mapping[str, Any], str], None]) -> dict[str, Any]:
    """A preset file's options together with those of its bases.

    check: called with each file's own options and its path, so that a mistake is told of the file it stands in.
    UserError for a file that cannot be read or is no mapping, for a base that does not exist, and for one that leads
    back to itself.
    """
    return _read(path, check, ())


def _read(path: Path, check: Callable[[Mapping[str, Any], str], None], above: tuple[Path, ...]) -> dict[str, Any]:
    real = path.resolve()
    if real in above:
        raise UserError(f"{above[-1]}: base leads back to {path}; a preset cannot be made from itself")
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"preset {path} cannot be read ({error})") from error
    values = parse_yaml(text, where=str(path)) or {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: a preset is a YAML mapping, one group of options a stage")
    base = values.pop("base", None)
    check(values, str(path))
    if base is None:
        return values
    if not isinstance(base, str):
        raise UserError(f"{path}: base is {base!r}; give the name of a preset, or a file beside this one")
    below = _read(_base_path(path, base), check, (*above, real))
    below.pop("name", None)  # a run is named after its own preset
    return merge(below, values)


def _base_path(path: Path, base: str) -> Path:
    """Where the base of the preset in `path` is: a shipped one by name, a file relative to that preset's folder."""
    if not base.endswith((".yaml", ".yml")) and "/" not in base:
        try:
            return preset_path(base)
        except UserError as error:
            raise UserError(f"{path}: base: {error}") from error
    found = path.parent / base
    if not found.is_file():
        raise UserError(f"{path}: its base {found} does not exist; presets that ship: {', '.join(presets())}")
    return found


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, group by group."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged
