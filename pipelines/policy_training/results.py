"""What a finished Stage II tells: the checkpoints in their places, and one `metrics.json` over all its models."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from blm.cluster import depot
from blm.pipelines.policy_training.candidates import CANDIDATES, choose, export, success_by_step
from blm.pipelines.policy_training.regimes import Scope
from blm.pipelines.workspace import StageContext, read_json, write_json

METRICS = "metrics.json"


def finish_models(
    context: StageContext, models: Sequence[Scope], folders: Mapping[str, Path], records: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Put the chosen candidate of each model into its place, and write and return `metrics.json`.

    folders: where each model was trained, by name. records: all validation rollouts.
    """
    found = []
    for scope in models:
        folder = folders[scope.name]
        metrics = read_json(depot.here(folder / METRICS))
        mine = [record for record in records if record["scope"] == scope.name]
        choice = choose(mine, metrics["curve"][-1]["step"])
        export(folder / CANDIDATES, choice.step, context.out / scope.folder)
        depot.drop(folder / CANDIDATES)
        rollouts = [
            {"step": step, "successes": successes, "episodes": episodes}
            for step, (successes, episodes) in success_by_step(mine).items()
        ]
        found.append({"scope": scope.name, **metrics, "rollouts": rollouts, "chosen": asdict(choice)})
    together = found[0] if len(found) == 1 else _together(found)
    write_json(context.out / METRICS, together)
    return together


def _together(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One set of curves, the means over the models, and each model's own under `models`."""
    first = found[0]
    return {
        "curve": [_mean_point([one["curve"][i] for one in found]) for i in range(len(first["curve"]))],
        "validation": [_mean_point([one["validation"][i] for one in found]) for i in range(len(first["validation"]))],
        "parameters": sum(one["parameters"] for one in found),
        "windows": sum(one["windows"] for one in found),
        "seconds": max(one["seconds"] for one in found),
        "samples_per_s": round(fmean(one["samples_per_s"] for one in found), 1),
        "models": list(found),
    }


def _mean_point(points: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Models are trained for the same steps, so their points are of the same ones."""
    means = {name: round(fmean(point[name] for point in points), 5) for name in points[0]}
    return means | {"step": points[0]["step"]}


def summary(context: StageContext, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of the stage; printed too."""
    last = metrics["validation"][-1]
    future = f", future {last['val_future']:.3f} (copying: {last['val_copy']:.3f})" if "val_copy" in last else ""
    context.progress(f"held-out flow loss {last['val_flow']:.4f}{future}")
    models = metrics.get("models", [metrics])
    for model in models:
        if model["rollouts"]:
            chosen = model["chosen"]
            name = "" if len(models) == 1 else f"{model['scope']}: "
            context.progress(
                f"{name}step {chosen['step']} is exported: {chosen['why']}"
                f" ({chosen['low']:.0%} to {chosen['high']:.0%})"
            )
    return {
        "models": len(models),
        "parameters": metrics["parameters"],
        "windows": metrics["windows"],
        "final_flow": metrics["curve"][-1]["flow"],
        "val_flow": last["val_flow"],
        "samples_per_s": metrics["samples_per_s"],
    }
