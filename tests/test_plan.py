"""`blm plan`: costs from files and runs, clusters from words, and predictions that behave as work on nodes does."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import finished_run

from blm.model.errors import UserError
from blm.pipelines import cli
from blm.pipelines.config import load_config
from blm.pipelines.planning.check import GOAL, check, check_table, together
from blm.pipelines.planning.clusters import parse_nodes, this_machine
from blm.pipelines.planning.costs import DEFAULT, Costs, read_costs
from blm.pipelines.planning.measure import measure, measure_requests
from blm.pipelines.planning.predict import predict
from blm.pipelines.planning.workload import count

PAPER = "cpu-sim=8,gpu-train=2"


@pytest.fixture
def costs() -> Costs:
    return read_costs()


def plan_of(costs: Costs, nodes: str = PAPER, *, scale: float = 1.0, store: bool = False) -> dict[str, float]:
    """Seconds by stage of the paper's run."""
    plan = predict(load_config("paper"), costs, parse_nodes(nodes, costs, store=store), scale=scale)
    return {stage.name: stage.seconds for stage in plan.stages}


def test_more_simulators_draw_faster_until_something_else_is_busy(costs: Costs) -> None:
    few, more = plan_of(costs, "cpu-sim=2,gpu-train=2"), plan_of(costs, "cpu-sim=4,gpu-train=2")
    assert more["render"] < few["render"]
    assert more["stage1"] < few["stage1"]  # tokens are made on cpu-sim nodes too
    many = plan_of(costs, "cpu-sim=400,gpu-train=2")
    assert many["render"] > 0.9 * plan_of(costs, "cpu-sim=200,gpu-train=2")["render"]  # the driver assembles alone


def test_ten_times_the_data_takes_nearly_ten_times_as_long_on_the_same_nodes(costs: Costs) -> None:
    once, tenfold = plan_of(costs), plan_of(costs, scale=10)
    assert 8.5 < tenfold["stage1"] / once["stage1"] <= 10.01
    assert 8.0 < tenfold["render"] / once["render"] <= 10.01
    assert sum(tenfold.values()) < 10 * sum(once.values())  # start-up is paid once


def test_a_batch_that_cannot_be_shared_out_is_named_as_the_bottleneck(costs: Costs) -> None:
    config = load_config("paper", ["stage1.batch=64", "stage1.steps=24000"])
    nodes = parse_nodes("cpu-sim=8,gpu-train=16", costs)
    assert predict(config, costs, nodes).by_name()["stage1"].bottleneck == "network (conversations)"
    wired = replace(costs, gpu=replace(costs.gpu, collective_gb_s=2000.0))
    assert predict(config, wired, nodes).by_name()["stage1"].bottleneck == "batch (conversations)"


def test_a_store_costs_the_driver_what_it_brings_to_list_it(costs: Costs) -> None:
    shared, stored = plan_of(costs), plan_of(costs, store=True)
    assert all(stored[name] >= shared[name] for name in shared)
    slow = replace(costs, nodes={**costs.nodes, "head": replace(costs.nodes["head"], network_gb_s=0.1)})
    assert plan_of(slow, store=True)["intents"] > stored["intents"]


def test_work_goes_where_there_is_room_and_gpu_work_only_to_gpus(costs: Costs) -> None:
    config = load_config("paper")
    alone = predict(config, costs, parse_nodes("gpu-train=1", costs)).by_name()
    assert alone["collect"].kinds == {"gpu-train"}
    with pytest.raises(UserError, match="stage1 wants GPUs"):
        predict(config, costs, parse_nodes("cpu-sim=4", costs))
    with pytest.raises(UserError, match="nothing is known of what Qwen"):
        predict(config, costs, this_machine(costs, cores=2))


def test_money_is_time_times_the_nodes_used(costs: Costs) -> None:
    plan = predict(load_config("paper"), costs, parse_nodes(PAPER, costs))
    collect = plan.by_name()["collect"]
    hourly = costs.nodes["head"].usd_h + 8 * costs.nodes["cpu-sim"].usd_h
    assert plan.usd(collect) == pytest.approx(collect.seconds / 3600 * hourly)
    assert plan.usd_used < plan.usd_held


@pytest.mark.parametrize(
    ("nodes", "message"),
    [("gpu-trian=2", "gpu-train"), ("cpu-sim=0", "1 or more"), ("cpu-sim", "COUNT"), ("", "names no nodes")],
)
def test_nodes_that_are_misspelt_are_refused(costs: Costs, nodes: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_nodes(nodes, costs)


def test_a_cost_that_is_missing_or_unknown_is_named(tmp_path: Path) -> None:
    text = DEFAULT.read_text()
    short = tmp_path / "short.yaml"
    short.write_text("\n".join(line for line in text.splitlines() if "picture_s:" not in line))
    with pytest.raises(UserError, match="picture_s"):
        read_costs(short)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace("picture_s:", "pictures_s:"))
    with pytest.raises(UserError, match=r"cpu.pictures_s.*picture_s"):
        read_costs(wrong)


def test_every_cell_of_the_shipped_presets_has_its_steps(costs: Costs) -> None:
    assert set(load_config("paper").world.cells) <= costs.workload.steps_by_cell.keys()
    tiny = count(load_config("tiny"), costs)
    assert tiny.demonstrations == 900
    assert 14_000 < tiny.frames < 16_500  # 15,169 were made


def test_costs_are_found_again_in_a_run_that_was_made_from_them(tmp_path: Path, costs: Costs) -> None:
    finished_run(tmp_path, costs, slower=1.5)
    found = measure(tmp_path, costs).cpu
    for name in ("control_step_s", "vision_sample_s", "token_s", "policy_sample_s", "rollout_step_s"):
        assert getattr(found, name) == pytest.approx(1.5 * getattr(costs.cpu, name), rel=0.01), name
    assert found.rollout_look_s == pytest.approx(1.5 * costs.cpu.rollout_look_s, rel=0.05)
    for name in ("picture_s", "scene_s", "intent_frame_s"):  # from wall times, which hold the driver's part too
        assert getattr(found, name) == pytest.approx(1.5 * getattr(costs.cpu, name), rel=0.35), name


def test_a_run_is_checked_stage_by_stage(tmp_path: Path, costs: Costs) -> None:
    finished_run(tmp_path / "same", costs)
    rows = check(tmp_path / "same", costs)
    assert [row.stage for row in rows][:2] == ["collect", "render"]
    assert all(abs(row.error) < 0.001 for row in rows)
    finished_run(tmp_path / "slow", costs, slower=2.0)
    slow = check(tmp_path / "slow", costs)
    assert together(slow).error < -GOAL
    assert "of 7 stages within 25%" in check_table(slow, costs)
    own = check(tmp_path / "slow", measure(tmp_path / "slow", costs))
    assert abs(together(own).error) < 0.05


def test_a_served_request_is_read_from_a_benchmark(tmp_path: Path, costs: Costs) -> None:
    bench = tmp_path / "bench.log"
    robots = {"1": {"per_s": 30.0}, "8": {"per_s": 80.0}, "1, JSON": {"per_s": 25.0}}
    line = {"bench": "serve", "machine": {"cores": 2}, "actions": {"robots": robots}}
    bench.write_text(f"a table for people\n{json.dumps(line)}\n")
    assert measure_requests(bench, costs).cpu.request_s == pytest.approx(0.025)
    bench.write_text("nothing\n")
    with pytest.raises(UserError, match="blm bench serve"):
        measure_requests(bench, costs)


def test_the_command_prints_a_table_with_the_first_bottleneck(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["plan", "--preset", "paper", "--nodes", PAPER, "--episodes", "1000", "--robots-hz", "500"]
    assert cli.main(options) == 0
    text = capsys.readouterr().out
    for words in ("first bottleneck: stage1", "24,000 demonstrations", "not measured", "serving 500 requests/s"):
        assert words in text
    assert cli.main([*options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"].keys() >= {"collect", "stage2", "evaluate"}


def test_the_command_takes_prices_and_refuses_wrong_ones(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["plan", "--preset", "paper", "--nodes", PAPER, "--json"]
    cli.main([*options, "--price", "gpu-train=0", "--price", "cpu-sim=0", "--price", "head=0"])
    assert json.loads(capsys.readouterr().out)["usd_held"] == 0
    assert cli.main([*options, "--price", "gpu-train=dear"]) == cli.WRONG_INPUT
    assert "KIND=USD" in capsys.readouterr().err


def test_the_command_checks_a_run(tmp_path: Path, costs: Costs, capsys: pytest.CaptureFixture[str]) -> None:
    finished_run(tmp_path, costs)
    assert cli.main(["plan", "--check", str(tmp_path)]) == 0
    assert "7 of 7 stages within 25%" in capsys.readouterr().out
    assert cli.main(["plan", "--check", str(tmp_path / "none")]) == cli.WRONG_INPUT
    assert "run.json is missing" in capsys.readouterr().err


MEASURED_S = {
    "tiny": {
        "collect": 32.8,
        "render": 52.7,
        "corpora": 55.6,
        "stage1": 527.0,
        "intents": 49.8,
        "stage2": 268.6,
        "evaluate": 48.4,
    },
    "laptop": {
        "collect": 473.7,
        "render": 932.5,
        "corpora": 213.0,
        "stage1": 2304.1,
        "intents": 681.8,
        "stage2": 7375.5,
        "evaluate": 172.8,
    },
}
"""Wall times of runs on two cores; docs/scaling.md says what else went on there."""


@pytest.mark.parametrize(("preset", "misses"), [("tiny", set()), ("laptop", {"collect", "stage2"})])
def test_the_costs_that_ship_predict_the_measured_runs(costs: Costs, preset: str, misses: set[str]) -> None:
    plan = predict(load_config(preset), costs, this_machine(costs, cores=2))
    wrong = {s.name for s in plan.stages if abs(s.seconds / MEASURED_S[preset][s.name] - 1) > GOAL}
    assert wrong == misses  # slower there than the same work elsewhere: other programs ran
    assert abs(plan.seconds / sum(MEASURED_S[preset].values()) - 1) < GOAL
