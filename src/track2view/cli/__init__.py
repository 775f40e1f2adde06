"""The command line as a process: its streams, its messages, its exit codes. No library loads before these are in order."""

import logging
import signal
import sys
import warnings
from collections.abc import Callable
from typing import NoReturn

from track2view.cli.streams import give_up, open_streams, say
from track2view.errors import DISK_FULL, Notice, UserError
from track2view.signals import Stopped, stoppable


def main(arguments: list[str] | None = None) -> None:
    """Run a command; user errors are one line on stderr and exit code 2, an interruption exits with 130 (SIGTERM 143, SIGHUP 129)."""
    open_streams()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # that it keeps its fonts elsewhere is no news
    try:
        with stoppable(), warnings.catch_warnings():
            warnings.simplefilter("always", Notice)
            warnings.showwarning = _show(warnings.showwarning)
            from track2view.cli.commands import parse

            parse(arguments).run()
            sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:
        give_up(sys.stdout)
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno in DISK_FULL:
            _fail(f"{_file(error, 'output')}: disk full; free some space or choose another --out")
        _fail(f"{_file(error, 'file')}: {error.strerror or str(error) or type(error).__name__}")
    except UnicodeError as error:
        _fail(f"a name or text that is not in this system's encoding ({error}); rename the file, or set PYTHONUTF8=1")
    except MemoryError:
        _fail("out of memory: use a smaller --size or fewer --frames")
    except KeyboardInterrupt as stop:
        say("track2view: interrupted; what is done is kept, run the same command to go on", sys.stderr)
        sys.exit(128 + int(stop.args[0] if isinstance(stop, Stopped) else signal.SIGINT))


def _show(others: Callable[..., None]) -> Callable[..., None]:
    """Notices as one line each; other warnings as ever."""

    def show(message: Warning | str, category: type[Warning], *place: object) -> None:
        if issubclass(category, Notice):
            say(f"track2view: {message}", sys.stderr)
        else:
            others(message, category, *place)

    return show


def _file(error: OSError, unnamed: str) -> str:
    return unnamed if error.filename is None else str(error.filename)


def _fail(message: str) -> NoReturn:
    say(f"track2view: {message}", sys.stderr)
    sys.exit(2)
