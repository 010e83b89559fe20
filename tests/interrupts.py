"""What the tests of Ctrl-C share: programs that are interrupted, in processes of their own."""

import json
import os
import subprocess
import sys
from typing import Any

# The one promise that is a time: KeyboardInterrupt within 200 ms of the signal, on any machine.
# It is counted in CPU time here, which is the same on a busy machine as on an idle one.
PROMISED_SECONDS = 0.2

PREAMBLE = """
import json, os, signal, sys, threading, time

# Shells start background jobs with SIGINT ignored, and Python then leaves it so.
signal.signal(signal.SIGINT, signal.default_int_handler)

def cpu_seconds_of_the_others():
    return time.process_time() - time.thread_time()

class Interrupt(threading.Thread):
    "Sends SIGINT once the other threads have used so many seconds of CPU time since its start."

    def __init__(self, moment):
        super().__init__(daemon=True)
        self.moment = moment

    def run(self):
        start = cpu_seconds_of_the_others()
        while cpu_seconds_of_the_others() < start + self.moment:
            pass
        self.sent_at = time.process_time()
        os.kill(os.getpid(), signal.SIGINT)

    def delay(self):
        "Seconds of CPU time since the signal."
        return time.process_time() - self.sent_at

arguments = json.loads(sys.argv[1])
"""


def run(program: str, *arguments: object) -> Any:
    """Run what follows the preamble, with these `arguments`; the JSON that it prints."""
    # One BLAS thread: the longest pieces of work there are.
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + program, json.dumps(arguments)],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
