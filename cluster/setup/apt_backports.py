"""Prints an apt source for `<codename>-backports`, taken from the sources that this machine already uses.

Debian 12's own Mesa is too old for the simulator's renderer; the backports suite has a newer one. Its mirror and its
signing key are those of the machine's own Debian source, whatever they are: no host is named here.

    python3 apt_backports.py CODENAME [FOLDER]      FOLDER is /etc/apt; prints nothing if the suite is there already

Exit code 3 if no Debian source was found. Standard library alone: it runs before anything is installed.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

NOT_FOUND = 3

Stanza = dict[str, str]
"""Fields of a deb822 source, lower-case names; a value keeps its continuation lines."""


def read_deb822(text: str) -> list[Stanza]:
    """The stanzas of a `.sources` file."""
    stanzas = []
    for block in re.split(r"\n\s*\n", text):
        stanza: Stanza = {}
        field = ""
        for line in block.splitlines():
            if line.startswith("#") or not line.strip():
                continue
            if line[0].isspace() and field:
                stanza[field] += "\n" + line
                continue
            name, _, value = line.partition(":")
            field = name.strip().lower()
            stanza[field] = value.strip()
        if stanza:
            stanzas.append(stanza)
    return stanzas


def read_one_line(text: str) -> list[Stanza]:
    """The same of a `.list` file: `deb [signed-by=KEY arch=...] URI SUITE COMPONENT...`."""
    stanzas = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]*)", line)
        if match is None:
            continue
        options, uri, suite, components = match.groups()
        stanza = {"types": "deb", "uris": uri, "suites": suite, "components": components.strip()}
        for option in (options or "").split():
            name, _, value = option.partition("=")
            if name == "signed-by":
                stanza["signed-by"] = value
        stanzas.append(stanza)
    return stanzas


def backports_source(stanzas: Iterable[Stanza], codename: str) -> str | None:
    """A deb822 source for the backports suite; empty if one is there, None if there is no source to take it from."""
    usable = [
        stanza
        for stanza in stanzas
        if stanza.get("enabled", "yes").lower() != "no" and "deb" in _words(stanza, "types")
    ]
    if any(f"{codename}-backports" in _words(stanza, "suites") for stanza in usable):
        return ""
    for stanza in usable:
        if codename in _words(stanza, "suites") and "main" in _words(stanza, "components"):
            lines = ["Types: deb", f"URIs: {stanza['uris']}", f"Suites: {codename}-backports", "Components: main"]
            if stanza.get("signed-by"):
                lines.append(f"Signed-By: {stanza['signed-by']}")
            return "\n".join(lines) + "\n"
    return None


def _words(stanza: Stanza, field: str) -> list[str]:
    return stanza.get(field, "").split()


def read_sources(folder: Path) -> list[Stanza]:
    """Every source that apt reads from its folder."""
    stanzas = []
    for path in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]:
        if path.is_file() and path.suffix in (".list", ".sources"):
            read = read_deb822 if path.suffix == ".sources" else read_one_line
            stanzas += read(path.read_text(errors="replace"))
    return stanzas


def main(codename: str, folder: str = "/etc/apt") -> int:
    """Print the source; returns the exit code."""
    source = backports_source(read_sources(Path(folder)), codename)
    if source is None:
        return NOT_FOUND
    print(source, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
