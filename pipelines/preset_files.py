"""The presets that ship with blm: `blm presets` lists them."""

from pathlib import Path

from blm.model.errors import UserError
from blm.pipelines.schema import nearest

PRESETS = Path(__file__).parent / "presets"


def presets() -> dict[str, Path]:
    """Shipped presets, name -> file, from the smallest to the largest."""
    order = ["tiny", "grid24", "small", "paper"]
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
