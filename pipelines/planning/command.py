"""`blm plan`: how long a run takes on some nodes, what it costs, and what it waits for, before it is started.

blm plan --preset paper --nodes cpu-sim=8,gpu-train=2
blm plan --preset paper --nodes cpu-sim=80,gpu-train=20 --scale 10 --episodes 1000
blm plan --preset laptop                          this machine, with the costs that ship
blm plan --preset laptop --costs-from runs/tiny   with costs measured by a finished run
blm plan --check runs/tiny                        predicted against measured, stage by stage
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from blm.model.errors import UserError
from blm.pipelines.planning.costs import DEFAULT, Costs, read_costs
from blm.pipelines.preset_files import preset_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm plan`."""
    parser.epilog = __doc__
    parser.add_argument("--preset", default="tiny", metavar="NAME", help="a shipped preset or a YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="as blm run")
    parser.add_argument("--episodes", type=int, metavar="N", help="demonstrations a cell")
    parser.add_argument(
        "--nodes", metavar="KIND=COUNT,...", help="cpu-sim, gpu-train, gpu-serve (default: this machine)"
    )
    parser.add_argument("--cores", type=int, metavar="N", help="of this machine, without --nodes (default: all)")
    parser.add_argument("--store", action="store_true", help="files are in an object store, not on a shared disk")
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="X", help="so many times the data, training and rollouts"
    )
    parser.add_argument(
        "--price", action="append", default=[], metavar="KIND=USD", help="of a node an hour; may be given again"
    )
    parser.add_argument("--robots-hz", type=float, metavar="HZ", help="requests a second that a server is to answer")
    parser.add_argument(
        "--costs", type=Path, default=DEFAULT, metavar="FILE", help="unit costs (default: those shipped)"
    )
    parser.add_argument("--costs-from", type=Path, metavar="RUN", help="measure unit costs from a finished run")
    parser.add_argument("--bench", type=Path, metavar="FILE", help="output of `blm bench serve`, for a served request")
    parser.add_argument("--check", type=Path, metavar="RUN", help="predict a finished run and compare")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(name: str, arguments: argparse.Namespace) -> int:
    """Print the plan or the comparison."""
    preset_path(arguments.preset)  # misspelt names are answered before anything heavy is imported
    if arguments.scale <= 0:
        raise UserError(f"--scale is {arguments.scale:g}; give a number above 0")
    costs = _costs(arguments)
    if arguments.check is not None:
        return _check(arguments, costs)
    from blm.pipelines.config import load_config
    from blm.pipelines.planning.clusters import parse_nodes, this_machine
    from blm.pipelines.planning.predict import predict
    from blm.pipelines.planning.tables import as_json, plan_table, request_lines, unit_line

    overrides = list(arguments.overrides)
    if arguments.episodes is not None:
        overrides.append(f"collect.episodes_per_cell={arguments.episodes}")
    config = load_config(arguments.preset, overrides)
    if arguments.nodes:
        cluster = parse_nodes(arguments.nodes, costs, store=arguments.store)
    else:
        cluster = this_machine(costs, cores=arguments.cores or len(os.sched_getaffinity(0)))
    plan = predict(config, costs, cluster, scale=arguments.scale)
    if arguments.json:
        print(json.dumps(as_json(plan)))
        return 0
    print(plan_table(plan, costs))
    print(unit_line(plan))
    for line in request_lines(arguments.robots_hz, cluster, config, costs):
        print(line)
    return 0


def _costs(arguments: argparse.Namespace) -> Costs:
    """The costs asked for: a file's, then a run's and a benchmark's measurements, then prices."""
    costs = read_costs(arguments.costs)
    if arguments.costs_from is not None:
        from blm.pipelines.planning.measure import measure

        costs = measure(arguments.costs_from, costs)
    if arguments.bench is not None:
        from blm.pipelines.planning.measure import measure_requests

        costs = measure_requests(arguments.bench, costs)
    for text in arguments.price:
        costs = _with_price(costs, text)
    return costs


def _with_price(costs: Costs, text: str) -> Costs:
    """`costs` with `kind=usd` an hour. UserError if it is not written so."""
    from dataclasses import replace

    kind, _, price = text.partition("=")
    try:
        usd_h = float(price)
    except ValueError:
        usd_h = -1.0
    if kind not in costs.nodes or usd_h < 0:
        raise UserError(f"--price {text}: write KIND=USD an hour, KIND one of {', '.join(costs.nodes)}")
    return replace(costs, nodes={**costs.nodes, kind: replace(costs.nodes[kind], usd_h=usd_h)})


def _check(arguments: argparse.Namespace, costs: Costs) -> int:
    from blm.pipelines.planning.check import check, check_table, together

    rows = check(arguments.check, costs)
    if arguments.json:
        print(json.dumps({row.stage: _row(row) for row in [*rows, together(rows)]}))
    else:
        print(check_table(rows, costs))
    return 0


def _row(row: Any) -> dict[str, Any]:
    return {"predicted_s": round(row.predicted_s, 1), "measured_s": row.measured_s, "error": round(row.error, 3)}
