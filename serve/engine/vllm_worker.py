"""What vLLM's worker process does besides vLLM: the policy acts there, on the layers that vLLM holds.

vLLM adds the methods of `PolicyWorker` to its own worker class (`worker_extension_cls`) and calls them between two of
its steps, one at a time: a conversation waits for the pass, never longer, and the pass for the step that runs.

A replica that is killed cannot tell its engine so, and vLLM's engine would live on with the model in its memory. So
this module, which vLLM imports into the worker before it loads the model, watches the replica.
"""

import logging
import os
import select
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blm.model.predictor import BlmPolicy

REPLICA = "BLM_REPLICA_PID"
"""Environment variable: the process that this one must not outlive."""
GRACE_S = 10.0
"""How long vLLM's engine may take to leave before it is made to. It takes four seconds, and leaves no shared memory."""
log = logging.getLogger(__name__)


class PolicyWorker:
    """Methods for vLLM's worker."""

    if TYPE_CHECKING:
        device: Any
        blm_policy: BlmPolicy

        def get_model(self) -> Any:
            """vLLM's model."""

    def prepare_policy(self, folder: str, sharing: str, dtype: str, graphs: bool) -> list[str]:
        """Load the policy, and answer a few times so that the next answers are quick.

        sharing, graphs: as in the configuration. dtype: of the multimodal model's copy, if there is to be one.
        -> ["one" or "copies", why if not asked for], or ["refused", why].
        """
        from blm.model.errors import UserError

        try:
            self.blm_policy, found, why = load(self.get_model(), Path(folder), sharing, self.device, dtype, graphs)
            self.blm_policy.warm_up()
        except UserError as error:
            return ["refused", str(error)]
        return [found, why]

    def act(self, question: bytes) -> bytes:
        """A batch of observations to chunks (`vllm_messages.py`)."""
        from blm.model.errors import UserError
        from blm.serve.engine.vllm_messages import pack_answer, pack_refusal, unpack_question

        try:
            return pack_answer(*self.blm_policy.infer_timed(*unpack_question(question)))
        except UserError as error:
            return pack_refusal(str(error))


def load(
    model: Any, folder: Path, sharing: str, device: Any, dtype: str, graphs: bool = True
) -> tuple["BlmPolicy", str, str]:
    """(the policy, "one" or "copies", why copies if they were not asked for) over vLLM's model. UserError as
    `BlmPolicy.load`."""
    import torch

    from blm.model.checkpoint import read_contract
    from blm.model.errors import UserError
    from blm.model.predictor import BlmPolicy
    from blm.serve.engine.vllm_backbone import BorrowedBlocks

    why = ""
    if sharing != "copies":
        try:
            blocks = BorrowedBlocks(model, folder, layer=read_contract(folder).layer, device=device)
            return BlmPolicy.load(folder, device=str(device), blocks=blocks, graphs=graphs), "one", ""
        except UserError as error:
            if sharing == "one":
                raise
            why = str(error)
    return BlmPolicy.load(folder, device=str(device), dtype=getattr(torch, dtype), graphs=graphs), "copies", why


def leave_with(pid: int) -> None:
    """End this process, and vLLM's engine above it, when the process `pid` is gone; at once if it is already."""
    parent = os.getppid()
    threading.Thread(target=_watch, args=(pid, parent), name="replica-watch", daemon=True).start()


def _watch(pid: int, parent: int) -> None:
    _wait_for_end(pid, None)
    engine = os.getpid() if parent in (pid, 1) else parent  # with a single worker vLLM's engine may be this process
    log.warning("the replica %d is gone; its engine %d ends", pid, engine)
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(engine, number)
        except ProcessLookupError:
            break
        if _wait_for_end(engine, GRACE_S):
            break
    os._exit(1)


def _wait_for_end(pid: int, within_s: float | None) -> bool:
    """Whether the process has ended within this time (None: however long it takes)."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        watched = select.poll()
        watched.register(descriptor, select.POLLIN)
        return bool(watched.poll(None if within_s is None else 1e3 * within_s))
    finally:
        os.close(descriptor)


if os.environ.get(REPLICA, str(os.getpid())) != str(os.getpid()):  # only in processes that a replica has started
    leave_with(int(os.environ[REPLICA]))
