"""The figures of docs/scaling.md are what the commands there print."""

import shlex
from pathlib import Path

import pytest

from blm.pipelines import cli

PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"
PROMPT = "    $ "


def blocks() -> dict[str, list[str]]:
    """Command -> the lines that the page says it prints."""
    found: dict[str, list[str]] = {}
    command = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith(PROMPT):
            command = line.removeprefix(PROMPT)
            found[command] = []
        elif command and line.startswith("    "):
            found[command].append(line.removeprefix("    "))
        else:
            command = ""
    return found


def test_the_page_has_the_paper_and_ten_hundred_and_thousand_times_it() -> None:
    scales = {words[words.index("--scale") + 1] if "--scale" in words else "1" for words in map(str.split, blocks())}
    assert scales == {"1", "10", "100", "1000"}


@pytest.mark.parametrize("command", blocks())
def test_a_command_prints_what_the_page_says(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command)
    assert words[0] == "blm"
    assert cli.main(words[1:]) == 0
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == blocks()[command]
