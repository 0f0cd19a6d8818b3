"""The served model as one Ray Serve application: conversation and actions of one checkpoint, on one port.

application = build_app(Path("runs/tiny/stage2-1a2b3c4d/model"), ServeConfig(), device="cpu")
ray.serve.run(application, name="blm")
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import serve

from blm.cluster import nodes
from blm.serve.autoscaling import autoscaling
from blm.serve.config import CONTROL, MODEL, ReplicasConfig, ServeConfig
from blm.serve.deployments import Control, Extra, Model
from blm.serve.drain import PATIENCE_S

HEALTH_EVERY_S = 2.0
HEALTH_TIMEOUT_S = 20.0
"""A replica that has not answered for so long is replaced; a core may be busy for seconds with a long prompt."""
SURGE_PERCENT = 100
"""While a new model is rolled out every replica has its successor beside it before it goes: no request finds none."""


def build_app(folder: Path | str, config: ServeConfig, device: str, extras: Sequence[Extra] = ()) -> Any:
    """The bound application of a checkpoint folder on `cpu` or `cuda`. Nothing is started here.

    folder: must be there on every machine that may get a replica, or be an address in a store. extras: more places of
    the web application.
    """
    control = None
    if config.has_control:
        deployment = serve.deployment(
            Control,
            name=CONTROL,
            max_ongoing_requests=config.batches.max_waiting,
            graceful_shutdown_timeout_s=config.actions.timeout_s + PATIENCE_S,
            **_common(config.control, device, gpus=1),
        )
        control = deployment.bind(str(folder), config, device)
    ingress = serve.deployment(
        serve.ingress()(Model),
        name=MODEL,
        # The guard is the one who refuses, with words and in time; Serve's own limit is never reached.
        max_ongoing_requests=2 * (config.guard.max_requests + config.guard.max_connections),
        graceful_shutdown_timeout_s=config.drain_s + PATIENCE_S,
        graceful_shutdown_wait_loop_s=0.5,
        **_common(config.model, device, gpus=config.chat.tensor_parallel if config.chat.enabled else 1),
    )
    return ingress.bind(str(folder), config, device, list(extras), control)


def _common(replicas: ReplicasConfig, device: str, *, gpus: int) -> dict[str, Any]:
    """Options of both deployments."""
    asked = replicas.num_gpus or (gpus if device == "cuda" else 0)
    return {
        "health_check_period_s": HEALTH_EVERY_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "max_constructor_retry_count": 1,  # what fails to load once fails again, after another minute
        "max_surge_percent": SURGE_PERCENT,
        "ray_actor_options": {"num_cpus": replicas.num_cpus, "num_gpus": asked, **nodes.of_kind("gpu-serve")},
        **autoscaling(replicas),
    }
