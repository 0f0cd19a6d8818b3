"""`blm policy-server`: one policy over WebSockets, for other people's evaluations and for `blm evaluate`.

blm policy-server runs/tiny/stage2-1a2b3c4d/model [--port 8000] [--dialect openpi] [--execute-steps 8]

It needs no Ray and no vLLM; `blm serve` is the whole model, with conversation.
"""

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from blm.model.errors import UserError

if TYPE_CHECKING:
    from blm.serve.batches.service import BatchingService
    from blm.serve.policy_server import PolicyServerConfig

RANDOM = "random"
EXECUTE_STEPS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm policy-server`."""
    parser.add_argument("policy", metavar="CHECKPOINT", help="the `model` folder of a finished stage2, or `random`")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help="keys of who may ask (see `blm keys`); needed with another --host"
    )
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0: any free (default: %(default)s)")
    parser.add_argument(
        "--dialect",
        choices=("auto", "blm", "openpi", "starvla", "vla-eval"),
        default="auto",
        help="spoken at / (default: who speaks first decides); /blm, /openpi, /starvla and /vla-eval are always there",
    )
    parser.add_argument(
        "--execute-steps",
        type=int,
        default=EXECUTE_STEPS,
        metavar="N",
        help="actions of a chunk handed out to vla-eval before the next look (default: %(default)s)",
    )
    parser.add_argument("--robot", default="", help="whose observations they are when a client does not say")
    parser.add_argument(
        "--camera",
        action="append",
        default=[],
        metavar="THEIRS=OURS",
        help="what a client calls one of the policy's cameras; may be given again",
    )
    parser.add_argument("--resize", action="store_true", help="resize square pictures of another size")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: a GPU if any)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="(default: %(default)s)")
    parser.add_argument("--max-batch", type=int, default=16, metavar="N", help="most observations of one pass")
    parser.add_argument("--wait-ms", type=float, default=5.0, metavar="MS", help="how long a pass waits for company")


def main(name: str, arguments: argparse.Namespace) -> int:
    """Load, say where it is, and serve until Ctrl-C or SIGTERM. UserError for what cannot be served."""
    from blm.serve.policy_server import make_server, open_socket

    config = configured(arguments)
    with open_socket(config.host, config.port) as listening:
        service = load_service(arguments, config)
        host, port = listening.getsockname()[:2]
        description = service.description
        print(
            f"[policy-server] {description.name} for {', '.join(description.robots)} is ready at ws://{host}:{port};"
            f" cameras {list(description.cameras)} of {description.image_px} px, chunks of {description.chunk};"
            " Ctrl-C stops it",
            flush=True,
        )
        try:
            asyncio.run(make_server(service, config.session, config.guard).serve(sockets=[listening]))
        except KeyboardInterrupt:
            print("[policy-server] stopped", flush=True)
    return 0


def configured(arguments: argparse.Namespace) -> "PolicyServerConfig":
    """The server's configuration. UserError for what contradicts itself."""
    from blm.serve.batches.service import BatchConfig
    from blm.serve.guard.config import GuardConfig
    from blm.serve.guard.keys import resolve
    from blm.serve.policy_server import PolicyServerConfig
    from blm.serve.sessions.session import SessionConfig

    cameras = dict(pair.partition("=")[::2] for pair in arguments.camera)
    if not all(cameras.values()):
        raise UserError(f"--camera {arguments.camera[0]}: write it as theirs=ours, for example agentview=front")
    if not 0 <= arguments.port <= 65535:
        raise UserError(f"--port is {arguments.port}; give one from 0 to 65535")
    return PolicyServerConfig(
        host=arguments.host,
        port=arguments.port,
        session=SessionConfig(
            dialect=arguments.dialect, robot=arguments.robot, cameras=cameras, resize=arguments.resize
        ),
        batches=BatchConfig(max_batch=arguments.max_batch, wait_ms=arguments.wait_ms),
        guard=resolve(GuardConfig(key_file=arguments.key_file), host=arguments.host),
    )


def load_service(arguments: argparse.Namespace, config: "PolicyServerConfig") -> "BatchingService":
    """The policy, loaded. UserError for a folder that is none, and for robots or cameras that it does not know."""
    from blm.actors.sim.policies import CHUNK, RandomPolicy
    from blm.model.description import PolicyDescription, describe_checkpoint
    from blm.model.embodiments import EMBODIMENTS
    from blm.model.layout import layout_of
    from blm.serve.batches.answers import Answering, InThread
    from blm.serve.batches.service import BatchingService

    policy: Answering
    if arguments.policy == RANDOM:
        description = PolicyDescription(
            name=RANDOM,
            cameras=(),
            image_px=0,
            layouts=tuple(layout_of(robot) for robot in EMBODIMENTS),
            chunk=CHUNK,
            execute_steps=arguments.execute_steps,
        )
        policy = RandomPolicy()
    else:
        folder = Path(arguments.policy).expanduser()
        if not folder.is_dir():  # said before PyTorch is imported
            raise UserError(f"model folder {folder} does not exist; give the `model` folder of a finished stage2")
        import torch

        from blm.model.checkpoint_files import read_folder
        from blm.model.predictor import load_policy_for

        description = describe_checkpoint(read_folder(folder), arguments.execute_steps)
        cuda = torch.cuda.is_available() if arguments.device == "auto" else arguments.device == "cuda"
        device, dtype = "cuda" if cuda else "cpu", getattr(torch, arguments.dtype)
        policy = load_policy_for(folder, device=device, dtype=dtype)
    if config.session.robot:
        description.layout(config.session.robot)
    for ours in config.session.cameras.values():
        if ours not in description.cameras:
            raise UserError(f"--camera: this policy has no camera {ours!r}; it has {list(description.cameras)}")
    return BatchingService(InThread(policy), description, config.batches)
