"""What the person reads of an error that reached the top of `cli.py`, and the exit code of each."""

from __future__ import annotations

import errno
import sys

from launcher import output
from launcher.errors import BUG, UserError, VidjobsError

# What a machine answers that is full, over quota, read-only or another's: the person's to mend, not
# a fault of the program.
_OF_THE_MACHINE = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.ENOTDIR,
        errno.ENAMETOOLONG,
        errno.EMFILE,
        errno.ENFILE,
    }
)


def told(error: Exception) -> int:
    """Write the message, and for a bug its report; the exit code."""
    if isinstance(error, VidjobsError):
        output.error(error.message, error.hint)
        return error.exit_code
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        return _of_the_machine(error)
    # click's usage errors, which typer vendors and does not export
    if hasattr(error, "format_message"):
        context = getattr(error, "ctx", None)
        output.error(
            error.format_message(),
            f"{context.command_path} --help" if context else "vidjobs --help",
        )
        return UserError.exit_code
    return _bug(error)


def _of_the_machine(error: OSError) -> int:
    from launcher.records import state_dir  # of all commands only those that fail so need it

    what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    output.error(
        f"this machine refuses it: {what}",
        f"free space there or correct its rights; XDG_STATE_HOME moves {state_dir()}",
    )
    return UserError.exit_code


def _bug(error: Exception) -> int:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile(
        "w", prefix="vidjobs-bug-", suffix=".log", delete=False
    ) as log:
        log.write(f"vidjobs {' '.join(sys.argv[1:])}\npython {sys.version}\n\n")
        traceback.print_exception(error, file=log)
    output.error(
        f"a bug in vidjobs: {type(error).__name__}: {error}", f"please report it with {log.name}"
    )
    return BUG
