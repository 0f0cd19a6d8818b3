"""Ctrl-C and SIGTERM end a run the same way wherever it is.

Ray's core replaces the SIGTERM handler of the process that connects (by one that aborts), and Ray Train the SIGINT
handler of the main thread (by one that exits without a word). So a stage runs in a thread of its own, where Ray Train
leaves handlers alone, the main thread waits for it, and the handlers are set again after Ray has started.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

STAGE_THREAD = "stage"


def install() -> None:
    """Make SIGINT and SIGTERM raise KeyboardInterrupt in the main thread; does nothing elsewhere."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _interrupt)
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def interruptible(body: Callable[[], Any]) -> Any:
    """`body()` in a thread; its result or exception. A KeyboardInterrupt leaves the thread behind, see `leave`."""
    outcome: dict[str, Any] = {}

    def call() -> None:
        try:
            outcome["value"] = body()
        except BaseException as error:  # handed to the waiting thread, all of them
            outcome["error"] = error

    thread = threading.Thread(target=call, name=STAGE_THREAD, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.5)
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]


def leave(code: int) -> int:
    """The exit code; ends the process here if a stage's thread is left behind, on which Python's ending would crash."""
    if any(thread.name == STAGE_THREAD and thread.is_alive() for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
