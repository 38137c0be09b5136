"""How a command runs as a program: its signals, its errors in a sentence, its exit status."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import click

from crysmetrics import interrupts
from crysmetrics.console import shown
from crysmetrics.errors import UserError
from crysmetrics.folders import prepare_environment

USER_ERROR = 2
"""Exit status where the user can mend something; the same as click's for wrong options."""
_OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def run_program(group: click.Group, name: str) -> NoReturn:
    """Run the command that the command line names, and end the process.

    The status is 0, 1 for what a gate found or an error of ours, 2 for what the user can mend, and
    128 + the number of a signal that ended it.

    Args:
        group: of all commands.
        name: of the program.
    """
    if f"_{name.upper()}_COMPLETE" in os.environ:  # a shell asks for completions
        group.main(prog_name=name)
    try:
        interrupts.catch_signals()
        prepare_environment()
        status = _status(group, name)
    except BaseException as error:
        # Libraries that are interrupted at a bad moment make other errors of it.
        if interrupts.is_ending() or isinstance(error, KeyboardInterrupt):
            interrupts.end(error)
        raise
    interrupts.end_at_once()
    sys.exit(status)


def _status(group: click.Group, name: str) -> int:
    try:
        with errors_explained():
            try:
                with group.make_context(name, sys.argv[1:]) as context:
                    group.invoke(context)
            finally:
                if sys.stdout is not None:  # closed by whoever started us
                    sys.stdout.flush()  # a full disk is found here, not after the last word
            return 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        return error.exit_code
    except SystemExit as end:
        _discard_output()
        return end.code if isinstance(end.code, int) else int(end.code is not None)


@contextmanager
def errors_explained() -> Iterator[None]:
    """End the program with one sentence and status 2 where the user can mend something."""
    try:
        yield
    except UserError as error:
        _fail(str(error))
    except MemoryError:
        _fail("there is not enough memory for this.")
    except BrokenPipeError:  # whoever read our output has had enough of it
        sys.exit(USER_ERROR)
    except OSError as error:
        if error.filename is not None:
            _fail(f"{error.filename}: {error.strerror}.")
        if error.errno not in _OUTPUT_ERRORS:
            raise
        _fail(f"the output can't be written ({error.strerror}).")


def _fail(text: str) -> NoReturn:
    with suppress(OSError):  # standard error is on the full disk as well
        click.echo(f"Error: {shown(text)}", err=True)
    sys.exit(USER_ERROR)


def _discard_output() -> None:
    """Let the interpreter's last flush of what can't be written find a place."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
