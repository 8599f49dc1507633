"""Imported by nobody but the process that data workers are forked from, when it starts: it leaves the trainer's process group.

So does every worker forked from it later. A SIGTERM or Ctrl-C for the trainer's whole group then reaches none of them, while the
trainer can still end each one. What a worker needs is imported here, once for all of them.
"""

from __future__ import annotations

import os
import signal

import trainer.data.loader  # noqa: F401  so that a worker starts in a moment

STOPPING = (signal.SIGINT, signal.SIGTERM)

os.setpgid(0, 0)
# forgets one that came while they were blocked
_before = {number: signal.signal(number, signal.SIG_IGN) for number in STOPPING}
signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
for _number, _handler in _before.items():
    signal.signal(_number, _handler)
