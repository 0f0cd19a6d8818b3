"""The command `blm`: what the project can do, and the way to each part of it.

Only this file and the command that is called are imported, so that `blm --help` answers at once. A mistake that a
person can mend is one line beginning with `error:` and exit code 2; Ctrl-C and SIGTERM end with exit code 130.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import NoReturn

from blm.model.errors import UserError
from blm.pipelines import interrupt
from blm.pipelines.schema import nearest
from blm.pipelines.stages import STAGES

INTERRUPTED = 130
WRONG_INPUT = 2
FAILED = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """What stands after `blm`: a word, or a word of the table and one more."""

    name: str
    about: str
    module: str = ""
    """Module of this package with `add_arguments(parser)` and `main(arguments) -> int`; by default the name's own."""


GROUPS: dict[str, tuple[Command, ...]] = {
    "The whole pipeline": (
        Command(name="run", about="all stages in order; skips what is finished, resumes what is not", module="cli_run"),
        Command(
            name="ablate",
            about="what each part brings: the run again without it, all in one table",
            module="ablation.command",
        ),
        Command(
            name="status",
            about="how far a run is: stages, progress, rate, time left, nodes, last words",
            module="cli_status",
        ),
        Command(
            name="plan",
            about="how long a run takes on some nodes, what it costs, what it waits for",
            module="planning.command",
        ),
        Command(name="presets", about="the configurations that ship with blm", module="cli_status"),
    ),
    "Its stages, in order": tuple(Command(name=stage.name, about=stage.about, module="cli_run") for stage in STAGES),
    "The trained model at work": (
        Command(name="serve", about="chat and actions over HTTP, from a checkpoint folder"),
        Command(
            name="policy-server",
            about="one policy over a WebSocket, for other people's evaluations",
            module="policy_server",
        ),
        Command(
            name="serve upgrade",
            about="another model in place of the served one, without a failed request",
            module="serve_upgrade",
        ),
        Command(name="keys", about="make, list and take back the keys of a server"),
    ),
    "The trained model judged": (
        Command(
            name="evaluate policy",
            about="roll out any policy: a checkpoint, a server's address, random",
            module="evaluation.standalone",
        ),
        Command(
            name="evaluate compare",
            about="which of two policies is better, and how sure that is",
            module="evaluation.compare",
        ),
        Command(
            name="evaluate curve",
            about="success against the latency of inference, by way of execution",
            module="evaluation.curve",
        ),
        Command(
            name="evaluate maniskill",
            about="the same policy and seeds in ManiSkill's own environments",
            module="evaluation.maniskill",
        ),
        Command(
            name="evaluate gpu",
            about="roll out in ManiSkill's GPU simulation, hundreds of episodes in step",
            module="evaluation.gpu",
        ),
        Command(
            name="evaluate digital",
            about="the six digital benchmarks: any model, answers, scores",
            module="digital.command",
        ),
        Command(name="show", about="a run's success as text, the paper's rows beside it", module="cli_show"),
    ),
    "Its data": (
        Command(
            name="ingest",
            about="conversations of any common format to Parquet: checked, without repeats",
            module="ingest.command",
        ),
        Command(name="data", about="check datasets, and look at them: charts, videos, contact sheets", module="data"),
    ),
    "This machine": (
        Command(
            name="doctor",
            about="check every part of the installation, and say how to mend what is missing",
            module="doctor",
        ),
        Command(name="assets", about="the robots' official descriptions: which are here; fetch them", module="assets"),
        Command(
            name="chaos",
            about="the whole pipeline while its processes are killed, beside an undisturbed run",
            module="chaos.command",
        ),
        Command(name="bench", about="how fast it is here, beside others at the same work", module="bench"),
    ),
}
"""The table of contents."""

COMMANDS = {command.name: command for group in GROUPS.values() for command in group}


class Parser(argparse.ArgumentParser):
    """argparse, with its complaints in the project's one form."""

    def error(self, message: str) -> NoReturn:
        """Raise a UserError instead of printing the whole usage."""
        raise UserError(f"{message}; see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _dispatch(words))


def guarded(body: Callable[[], int]) -> int:
    """Call `body`; turn any way in which it ends into an exit code and, if it failed, words on standard error."""
    interrupt.install()
    try:
        return body()
    except KeyboardInterrupt:
        _say("\ninterrupted; what is finished is kept, and the same command goes on from there")
        return interrupt.leave(INTERRUPTED)
    except BrokenPipeError:  # the reader of our output went away, `blm status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        return _explain(error)


def _dispatch(words: list[str]) -> int:
    """Find the command and hand over to its module."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(table_of_contents())
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"blm {version('blm')}")
        return 0
    command, module, arguments = parsed(words)
    if command.module:
        return module.main(command.name, arguments)
    function = getattr(module, command.name)
    return function(arguments) or 0


def parsed(words: Sequence[str]) -> tuple[Command, ModuleType, argparse.Namespace]:
    """The command that words name, its module, and its options; nothing is run.

    Raises UserError for unknown commands and options, SystemExit after `--help`.
    """
    name = next((known for known in (" ".join(words[:2]), words[0]) if known in COMMANDS), "")
    if not name:
        raise UserError(f"unknown command {words[0]!r}; {nearest(words[0], COMMANDS)} (see `blm --help`)")
    command = COMMANDS[name]
    module = importlib.import_module(f"{__package__}.{command.module or name}")
    parser = Parser(prog=f"blm {name}", description=command.about, formatter_class=argparse.RawDescriptionHelpFormatter)
    if hasattr(module, "add_arguments"):
        module.add_arguments(parser)
    return command, module, parser.parse_args(words[len(name.split()) :])


def table_of_contents() -> str:
    """What `blm --help` prints."""
    lines = [
        "blm: one multimodal model that talks about what it sees and moves robots;",
        "trained, proved and served with Ray.",
        "",
        "usage: blm COMMAND [options]      blm COMMAND --help",
    ]
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {command.name:<19} {command.about}" for command in commands]
    lines += [
        "",
        "Begin with:  blm doctor, then  blm run --preset tiny",
    ]
    return "\n".join(lines)


def _explain(error: Exception) -> int:
    """Say what went wrong: one line for what a person can mend, a traceback for anything else."""
    cause: UserError | None = error if type(error) is UserError else None
    if cause is None:
        from blm.cluster.ray_runtime import cause_of, is_disk_full  # they look inside what Ray wraps round an error

        cause = cause_of(error)
        if cause is None and is_disk_full(error):
            cause = UserError(
                "the disk is full; free some space (`df -h` shows where) and give the same command again: what is "
                "finished is kept, and it goes on from there"
            )
    if cause is not None:
        _say("error: " + " ".join(str(cause).split()))
        return WRONG_INPUT
    import traceback

    traceback.print_exception(error)
    _say("error: this is a fault of blm or of the machine, not of your input")
    return FAILED


def _say(text: str) -> None:
    sys.stdout.flush()
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
