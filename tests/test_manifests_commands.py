"""Every command, option and preset that a file of cluster/ or docs/cluster.md names is one that there is."""

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from string import Template

import pytest
import yaml
from small_kustomize import render
from small_manifests import KUBERNETES, ROOT

from blm.cluster import leave
from blm.model.errors import UserError
from blm.pipelines import cli, cli_run
from blm.pipelines.config import load_config
from blm.pipelines.preset_files import preset_path
from blm.pipelines.stages import STAGES

PIPELINES = ("dev", "prod")
READ = ("*.yaml", "*.sh", "*.sbatch", "Dockerfile")
COMMAND = re.compile(r"`blm ([^`]+)`|'blm ([^']+)'|\"blm ([^\"]+)\"|^ *blm (.+)$|-- blm (.+)$|blm\.sbatch (\w.*)$")
"""A command in quotation marks, on a line of its own, behind `kubectl exec ... --`, or behind the script for Slurm."""
END = re.compile(r" {2,}| [#|&;]|`|[`'\"]? >&2| \.\.\.")
"""What is no part of a command any more."""


def jobs() -> Iterator[tuple[str, str]]:
    """(which, command) of the jobs, their settings in place of variables."""
    for overlay in PIPELINES:
        rendered = render(KUBERNETES / "overlays" / overlay)
        (settings,) = [one["data"] for one in rendered if one["kind"] == "ConfigMap"]
        for one in rendered:
            if one["kind"] == "RayJob":
                command = Template(one["spec"]["entrypoint"]).substitute(settings)
                yield f"{overlay} {one['metadata']['name']}", command.removeprefix("blm ")


def told(path: Path) -> Iterator[tuple[str, str]]:
    """(place, command) of what a file tells people or machines to run."""
    text = re.sub(r"\\\n\s*", "", path.read_text())
    for line in text.splitlines():
        for match in COMMAND.finditer(line):
            (command,) = filter(None, match.groups())
            yield f"{path.relative_to(ROOT)}: {line.strip()}", END.split(command)[0].strip()


def files() -> list[Path]:
    found = [path for pattern in READ for path in (ROOT / "cluster").rglob(pattern)]
    return [*sorted(found), ROOT / "docs" / "cluster.md"]


def everything() -> list[tuple[str, str]]:
    return [*jobs(), *(one for path in files() for one in told(path))]


def refused(command: str) -> str:
    """Why the command line does not take a command; empty if it does, or if a command is only spoken of."""
    words = shlex.split(command)
    if words[:1] == ["$@"]:  # any command that runs stages
        words = ["run", *words[1:]]
    try:
        _, _, arguments = cli.parsed(words)
        preset = getattr(arguments, "preset", None)
        if preset is not None:
            preset_path(preset)
            load_config(preset, getattr(arguments, "overrides", []), name=None)
    except UserError as error:
        is_mention = " ".join(words) in cli.COMMANDS and "are required" in str(error)
        return "" if is_mention else str(error)
    return ""


def test_every_command_that_is_told_is_taken() -> None:
    found = everything()
    assert {place: why for place, command in found if (why := refused(command))} == {}
    files_with_commands = {place.partition(":")[0] for place, _ in found}
    assert {"cluster/slurm/blm.sbatch", "docs/cluster.md"} <= files_with_commands
    assert len(list(jobs())) == len(PIPELINES) * 10
    told_in_docs = {command.split()[0] for place, command in found if place.startswith("docs/")}
    assert {"run", "status", "doctor", "serve", "keys"} <= told_in_docs


def test_a_lost_option_is_found_wherever_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cli_run.add_run_arguments

    def without_address(parser: argparse.ArgumentParser) -> None:
        whole(parser)
        (address,) = [action for action in parser._actions if "--address" in action.option_strings]
        address.option_strings.remove("--address")
        del parser._option_string_actions["--address"]

    runs = {"run", *(stage.name for stage in STAGES), '"$@"'}
    named = [place for place, command in everything() if "--address" in command and command.split()[0] in runs]
    assert len(named) > len(list(jobs()))
    monkeypatch.setattr(cli_run, "add_run_arguments", without_address)
    found = {place: why for place, command in everything() if (why := refused(command))}
    assert set(named) <= set(found)
    assert all("--address" in found[place] for place in named)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("colect --preset tiny", "unknown command 'colect'"),
        ("run --preset papper", "unknown preset 'papper'"),
        ("run --preset tiny --set stage1.stps=3", "did you mean 'steps'"),
        ("serve --modell x", "--model"),
        ("evaluate digital --data x", "--model"),
    ],
)
def test_other_mistakes_are_found_too(command: str, says: str) -> None:
    assert says in refused(command)


@pytest.mark.parametrize("overlay", PIPELINES)
def test_what_runs_before_a_pod_goes_takes_its_options(overlay: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        leave.main(["--help"])
    known = capsys.readouterr().out
    (cluster,) = [one for one in render(KUBERNETES / "overlays" / overlay) if one["kind"] == "RayCluster"]
    for group in cluster["spec"]["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        for hook in [one["lifecycle"]["preStop"] for one in pod["containers"] if "lifecycle" in one]:
            python, _, module, *options = hook["exec"]["command"]
            assert (python, module) == ("python", leave.__name__)
            assert all(f"{word} " in known for word in options if word.startswith("--"))
            assert int(options[options.index("--seconds") + 1]) + 30 <= pod["terminationGracePeriodSeconds"]


# ----------------------------------------------------------------------- the same for `ray start` and `mlflow server`


def starts_of_ray() -> Iterator[list[str]]:
    """Options of every `ray start` for Slurm and for `ray up`."""
    script = re.sub(r"\\\n\s*", "", (ROOT / "cluster" / "slurm" / "blm.sbatch").read_text())
    aws = yaml.safe_load((ROOT / "cluster" / "aws" / "cluster.yaml").read_text())
    lines = [*script.splitlines(), *aws["head_start_ray_commands"], *aws["worker_start_ray_commands"]]
    for line in lines:
        if "ray start " in line and not line.startswith("#"):
            yield [word.rstrip("&") for word in shlex.split(line.partition("ray start ")[2]) if word != "&"]


def test_ray_and_mlflow_take_the_options_that_they_are_given() -> None:
    import click
    from mlflow.cli import cli as mlflow
    from ray.scripts.scripts import cli as ray

    starts = list(starts_of_ray())
    assert len(starts) == 4
    for words in starts:
        numbers = [word.replace("$cpus", "4").replace("$gpus", "4").replace("$port", "1") for word in words]
        ray.commands["start"].make_context("start", numbers, resilient_parsing=False)
    rendered = render(KUBERNETES / "overlays" / "prod")
    (server,) = [one["spec"]["template"]["spec"]["containers"][0] for one in rendered if one["kind"] == "Deployment"]
    program, command = server["command"]
    assert program == "mlflow"
    mlflow.commands[command].make_context(command, list(server["args"]))
    with pytest.raises(click.UsageError, match="--nodes"):
        ray.commands["start"].make_context("start", ["--nodes=3"])
