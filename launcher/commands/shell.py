"""`vidjobs shell RUN`: a shell where the run runs, or in a pod of limited time with its volumes."""

from __future__ import annotations

from decimal import Decimal

from launcher import output
from launcher.all_backends import for_profile, for_record
from launcher.backend_base import ShellOptions
from launcher.conf.units import Bytes, Cores, Seconds, amount, of_option
from launcher.errors import UserError
from launcher.profiles import choose
from launcher.records import find

_MOST_S = 6 * 3600
_MOST_GPUS = 2
_MOST_CPU, _MOST_MEMORY = "16", "32Gi"


def _options(time: str, cpu: str, memory: str, gpus: int) -> ShellOptions:
    """UserError for what is no amount, or more than shared clusters let a bare pod have."""
    seconds = int(of_option("--time", Seconds.parse, time))
    of_option("--cpu", Cores.parse, cpu)
    of_option("--memory", Bytes.parse, memory)
    asked = {
        "--time": (Decimal(seconds), Decimal(_MOST_S), "6h"),
        "--gpus": (Decimal(gpus), Decimal(_MOST_GPUS), str(_MOST_GPUS)),
        "--cpu": (amount(cpu), amount(_MOST_CPU), _MOST_CPU),
        "--memory": (amount(memory), amount(_MOST_MEMORY), _MOST_MEMORY),
    }
    for option, (value, most, shown) in asked.items():
        if value > most:
            raise UserError(
                f"{option} is more than {shown}, the most for a pod to look around in",
                hint="submit a Job for real work",
            )
    if not seconds:
        raise UserError("--time is 0")
    return ShellOptions(seconds=seconds, cpu=cpu, memory=memory, gpus=gpus)


def run(
    run: str | None,
    *,
    claim: str | None = None,
    command: str | None = None,
    time: str = "1h",
    cpu: str = "1",
    memory: str = "4Gi",
    gpus: int = 0,
    cluster: str | None = None,
) -> int:
    """The exit code of the command, or of the shell."""
    if claim and run:
        raise UserError("a run and --claim are two places", hint="leave one of them out")
    wanted = _options(time, cpu, memory, gpus)
    record = None if claim else find(run)
    place = for_record(record) if record else for_profile(choose(cluster))
    with place.shell(record, claim or "", wanted) as shell:
        output.note(shell.where)
        return shell.run(command)
