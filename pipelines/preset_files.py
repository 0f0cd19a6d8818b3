"""The presets that ship with blm: `blm presets` lists them."""

from pathlib import Path

PRESETS = Path(__file__).parent / "presets"


def presets() -> dict[str, Path]:
    """Shipped presets, name -> file, from the smallest to the largest."""
    order = ["tiny", "small", "paper"]
    found = {path.stem: path for path in PRESETS.glob("*.yaml")}
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0]) if item[0] in order else 99, item[0])))


def summary(path: Path) -> str:
    """The first comment line of a preset: what it is for."""
    first = path.read_text().partition("\n")[0]
    return first.lstrip("# ").strip()
