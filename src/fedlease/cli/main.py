"""The command line: parses, calls, prints."""

import sys
import traceback
import warnings

from fedlease._version import __version__
from fedlease.cli import audit, compare, init, lists, look, new, reproduce, runs, server, use  # noqa: F401  registers the commands
from fedlease.cli.shared import INTERRUPTED, Command, Interrupted, app
from fedlease.core.wording import printable
from fedlease.errors import InputError, RunFailedError, limit_reached
from fedlease.reporting.quiet import quiet_libraries

__all__ = ["app", "main"]

for command in app.registered_commands:
    command.cls = Command


def main() -> None:
    """Entry point: every error becomes an exit code here, and only here."""
    quiet_libraries()
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)
    try:
        app()
    except InputError as error:
        _complain(*error.faults)
        sys.exit(2)
    except RunFailedError as error:
        _complain(f"the run failed: {error}")
        sys.exit(1)
    except Interrupted as error:
        begun = (error.folder / "config.yaml").is_file()
        _complain(f"interrupted; go on with: fedlease resume {error.folder}" if begun else "interrupted; nothing begun")
        sys.exit(INTERRUPTED)
    except SystemExit as error:
        if error.code == INTERRUPTED:
            _complain("interrupted")
        raise
    except Exception as error:
        if (reason := limit_reached(error)) is not None:
            _complain(f"the command failed: {reason}; make room and run it again")
            sys.exit(1)
        traceback.print_exc()
        _complain(f"this is a fault of fedlease {__version__}: please report it with the lines above")
        sys.exit(1)


def _complain(*text: str) -> None:
    for sentence in text:
        # One line each that steers no terminal, whatever a file name or a library's message holds.
        print(f"fedlease: {printable(' '.join(sentence.splitlines()))}", file=sys.stderr)
