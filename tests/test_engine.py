"""What a replica computes with, without vLLM: its control role, the messages to vLLM's worker, and the worker's end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_policy import write_small_policy
from small_policy_server import description_of_random

from blm.model.errors import UserError
from blm.model.predictor import BlmPolicy
from blm.model.types import ActionPrefix, ComputeTiming, Observation
from blm.serve.config import ActionsConfig, ChatConfig, ServeConfig
from blm.serve.engine.engine import Engine, start_engine
from blm.serve.engine.options import actions_dtype, chat_dtype, engine_environment, engine_options
from blm.serve.engine.vllm_chat import knows_tools
from blm.serve.engine.vllm_engine import VllmEngine
from blm.serve.engine.vllm_messages import pack_answer, pack_question, unpack_answer, unpack_question
from blm.serve.engine.vllm_worker import REPLICA, PolicyWorker

SEEDS = [7, 2**62, 0]


@pytest.fixture(scope="module")
def checkpoint(tiny_mllm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint."""
    return write_small_policy(tmp_path_factory.mktemp("engine") / "model", tiny_mllm, cameras=("front", "side"))


@pytest.fixture(scope="module")
def policy(checkpoint: Path) -> BlmPolicy:
    """Its policy."""
    return BlmPolicy.load(checkpoint)


def look(seed: int = 0, **changes: Any) -> Observation:
    """A good observation of noise, with changes."""
    rng = np.random.default_rng(seed)
    plain: dict[str, Any] = {
        "images": {camera: rng.integers(0, 256, (112, 112, 3), dtype=np.uint8) for camera in ("front", "side")},
        "state": rng.uniform(0, 1, 8).astype(np.float32),
        "instruction": "push the cube",
        "embodiment": "panda",
    }
    return Observation(**plain | changes)


def prefix(frozen: int) -> ActionPrefix:
    """What is left of a chunk."""
    return ActionPrefix(actions=np.full((4, 8), 0.25, dtype=np.float32), frozen=frozen)


# ------------------------------------------------------------------------------------------------------------- control


def test_the_control_role_answers_like_the_policy_and_says_what_took_how_long(checkpoint, policy):
    seen = [look(row) for row in range(3)]
    prefixes = [None, prefix(2), None]

    async def ask() -> Any:
        engine = await start_engine(checkpoint, ServeConfig(), device="cpu", role="control")
        began = time.perf_counter()
        chunks, timing = await engine.compute(seen, SEEDS, prefixes)
        wall_ms = 1e3 * (time.perf_counter() - began)
        await engine.check()
        await engine.close()
        return engine, chunks, timing, wall_ms

    engine, chunks, timing, wall_ms = asyncio.run(ask())
    for chunk, expected in zip(chunks, policy.infer_batch(seen, SEEDS, prefixes), strict=True):
        assert np.array_equal(chunk.actions, expected.actions)
        assert chunk.control_hz == expected.control_hz
    assert min(timing.preprocess_ms, timing.mllm_ms, timing.denoise_ms) > 0
    assert timing.preprocess_ms + timing.mllm_ms + timing.denoise_ms <= wall_ms
    assert engine.chat is None
    assert engine.facts == {"role": "control"}
    assert engine.description.robots == ("panda",)
    assert engine.description.identity
    assert engine.description.execute_steps == 8


def test_the_control_role_refuses_what_the_policy_refuses(checkpoint):
    async def ask() -> None:
        engine = await start_engine(checkpoint, ServeConfig(), device="cpu", role="control")
        await engine.compute([look(), look(embodiment="xarm6")], [0, 0])

    with pytest.raises(UserError, match="xarm6"):
        asyncio.run(ask())


def test_a_folder_without_a_policy_is_refused(tiny_mllm):
    for role in ("control", "unified"):
        with pytest.raises(UserError, match=r"blm\.json"):
            asyncio.run(start_engine(tiny_mllm, ServeConfig(), device="cpu", role=role))


def test_nothing_at_all_is_answered_at_once(policy):
    assert policy.infer_timed([], []) == ([], ComputeTiming(preprocess_ms=0.0, mllm_ms=0.0, denoise_ms=0.0))


# -------------------------------------------------------------------------------------------------------------- worker


class Worker(PolicyWorker):
    """vLLM's worker, without vLLM."""

    def __init__(self, policy: BlmPolicy) -> None:
        self.blm_policy = policy


class Engines:
    """vLLM's AsyncLLM, as far as actions need it: it calls a worker, and may die."""

    def __init__(self, worker: PolicyWorker | None) -> None:
        self.worker = worker

    async def collective_rpc(self, method: str, timeout: float | None = None, args: tuple[Any, ...] = ()) -> list[Any]:
        """The worker's answer; none ever of a dead one."""
        if self.worker is None:
            await asyncio.Event().wait()
        return [await asyncio.to_thread(getattr(self.worker, method), *args)]

    async def check_health(self) -> None:
        """Raises when it is dead."""
        if self.worker is None:
            raise RuntimeError("EngineCore died")


def vllm_engine(worker: PolicyWorker | None) -> Engine:
    """An engine over that."""
    return VllmEngine(Engines(worker), silent, description_of_random(), {"role": "unified", "sharing": "one"})


async def silent(scope: Any, receive: Any, send: Any) -> None:
    """A web application that nobody asks."""


def test_questions_and_answers_cross_to_the_worker_unchanged(policy):
    seen, prefixes = [look(), look(1)], [prefix(1), None]
    observations, seeds, left = unpack_question(pack_question(seen, SEEDS[:2], prefixes))
    assert seeds == SEEDS[:2]
    for one, other in zip(observations, seen, strict=True):
        assert np.array_equal(one.state, other.state)
        assert all(np.array_equal(one.images[name], other.images[name]) for name in other.images)
        assert (one.instruction, one.embodiment) == (other.instruction, other.embodiment)
    assert left[1] is None
    assert np.array_equal(left[0].actions, prefixes[0].actions)
    assert left[0].frozen == 1
    chunks, timing = policy.infer_timed(seen, SEEDS[:2], prefixes)
    again, told = unpack_answer(pack_answer(chunks, timing))
    assert told == timing
    assert all(np.array_equal(a.actions, b.actions) for a, b in zip(again, chunks, strict=True))


def test_an_engine_asks_the_policy_in_its_worker(policy):
    policy.warm_up()
    chunks, timing = asyncio.run(vllm_engine(Worker(policy)).compute([look()], [3], [prefix(2)]))
    assert np.array_equal(chunks[0].actions, policy.infer_batch([look()], [3], [prefix(2)])[0].actions)
    assert timing.mllm_ms > 0


def test_what_the_worker_refuses_is_a_mistake_that_a_person_can_mend(policy):
    small = look(images={camera: np.zeros((56, 56, 3), dtype=np.uint8) for camera in ("front", "side")})
    with pytest.raises(UserError, match="112x112"):
        asyncio.run(vllm_engine(Worker(policy)).compute([small], [0]))


def test_a_question_to_an_engine_that_died_does_not_wait_forever():
    with pytest.raises(RuntimeError, match="EngineCore died"):
        asyncio.run(asyncio.wait_for(vllm_engine(None).compute([look()], [0]), 10))


ENGINE = """
import subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", "import blm.serve.engine.vllm_worker, time; time.sleep(60)"])
print(worker.pid, flush=True)
worker.wait()
"""
REPLICA_PROCESS = """
import os, subprocess, sys
environment = {**os.environ, sys.argv[2]: str(os.getpid())}
engine = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=environment, stdout=subprocess.PIPE, text=True)
print(engine.pid, engine.stdout.readline(), flush=True)
engine.wait()
"""


def test_engine_and_worker_die_with_a_replica_that_is_killed():
    command = [sys.executable, "-c", REPLICA_PROCESS, ENGINE, REPLICA]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as replica:
        engine, worker = (int(word) for word in replica.stdout.readline().split())
        time.sleep(0.5)  # so that the worker's watch runs, as a rule; it also sees what is gone already
        os.kill(replica.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in (engine, worker)) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [pid for pid in (engine, worker) if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent to hear of it does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ------------------------------------------------------------------------------------------------------------- options


def test_vllm_is_told_what_the_configuration_says(tiny_mllm, tmp_path):
    chat = ChatConfig(dtype="auto", kv_cache_gb=0.5, max_images=3, max_videos=0, max_sequences=5)
    options = engine_options(tiny_mllm, chat, "cpu")
    assert options["dtype"] == "float32"  # what it was saved in
    assert options["kv_cache_memory_bytes"] == 2**29
    assert options["limit_mm_per_prompt"] == {"image": 3, "video": 0}
    assert options["max_num_seqs"] == 5
    assert options["max_model_len"] <= 8192
    assert options["enforce_eager"]
    assert options["distributed_executor_backend"] == "uni"
    assert engine_environment("cpu")["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"  # or vLLM would not listen to that
    assert chat_dtype(tiny_mllm, chat, "cuda") == "bfloat16"
    assert chat_dtype(tiny_mllm, ChatConfig(dtype="float16"), "cpu") == "float16"
    assert [actions_dtype(ActionsConfig(), device) for device in ("cpu", "cuda")] == ["float32", "bfloat16"]
    assert actions_dtype(ActionsConfig(dtype="float32"), "cuda") == "float32"
    assert engine_options(tiny_mllm, chat, "cuda")["gpu_memory_utilization"] == chat.gpu_memory_share
    assert "VLLM_CPU_OMP_THREADS_BIND" not in engine_environment("cuda")
    with pytest.raises(UserError, match=r"config\.json"):
        engine_options(tmp_path, chat, "cpu")


def test_tools_are_offered_where_the_chat_template_knows_them(tiny_mllm, tmp_path):
    assert not knows_tools(tiny_mllm)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "... <tool_call> ..."}))
    assert knows_tools(tmp_path)


def test_the_options_of_vllm_are_known_without_vllm_and_ray():
    code = (
        "import sys, blm.serve.engine.engine, blm.serve.engine.options, blm.serve.engine.vllm_worker;"
        "print([name for name in ('ray', 'vllm', 'torch', 'transformers') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_format_of_the_policys_own_model_is_the_configurations(checkpoint):
    config = ServeConfig(actions=ActionsConfig(dtype="bfloat16"))
    engine = asyncio.run(start_engine(checkpoint, config, device="cpu", role="control"))
    half, _ = asyncio.run(engine.compute([look()], [0]))
    full = BlmPolicy.load(checkpoint).infer_batch([look()], [0])
    assert np.abs(half[0].actions - full[0].actions).max() < 0.05
    assert not np.array_equal(half[0].actions, full[0].actions)
