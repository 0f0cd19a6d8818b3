"""The thread that ends a process whose native code hangs."""

import ctypes
import subprocess
import sys
import time

from blm.actors.sim.watchdog import EXIT_STATUS, Watchdog

HANG = """
import ctypes
from blm.actors.sim.watchdog import Watchdog
with Watchdog(check_every_s=0.05).guard("a native call", 0.3):
    {call}
"""


def test_a_hanging_native_call_ends_the_process_and_says_why() -> None:
    code = HANG.format(call="ctypes.CDLL(None).pause()")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == EXIT_STATUS == 124
    assert "a native call hangs" in done.stderr


def test_work_in_time_is_left_alone_and_so_is_waiting_between_guards() -> None:
    watchdog = Watchdog(check_every_s=0.02)
    for _ in range(3):
        with watchdog.guard("work", 0.2):
            ctypes.CDLL(None).usleep(20_000)
        time.sleep(0.3)
