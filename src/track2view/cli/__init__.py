"""The command line: typed commands, no logic. ``track2view render | track | cameras | model | scenes | curate | tracker``."""

import sys
import warnings
from collections.abc import Callable
from typing import Annotated

import tyro

from track2view.cli.cameras import Cameras
from track2view.cli.model import Model
from track2view.cli.render import Render, Track
from track2view.cli.scenes import Curate, Scenes
from track2view.cli.tracker import TrackerTools
from track2view.errors import DISK_FULL, Notice, UserError

Command = (
    Annotated[Render, tyro.conf.subcommand("render")]
    | Annotated[Track, tyro.conf.subcommand("track")]
    | Annotated[Cameras, tyro.conf.subcommand("cameras")]
    | Annotated[Model, tyro.conf.subcommand("model")]
    | Annotated[Scenes, tyro.conf.subcommand("scenes")]
    | Annotated[Curate, tyro.conf.subcommand("curate")]
    | Annotated[TrackerTools, tyro.conf.subcommand("tracker")]
)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; user errors are one line on stderr and exit code 2, an interruption exits with 130."""
    command = tyro.cli(Command, args=arguments, prog="track2view", description=__doc__)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", Notice)
            warnings.showwarning = _show(warnings.showwarning)
            command.run()
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno in DISK_FULL:
            _fail(f"{error.filename or 'output'}: disk full; free some space or choose another --out")
        _fail(f"{error.filename or 'file'}: {error.strerror or error}")
    except MemoryError:
        _fail("out of memory: use a smaller --size or fewer --frames")
    except KeyboardInterrupt:
        print("track2view: interrupted; finished tracks are kept, run the same command to go on", file=sys.stderr)
        sys.exit(130)


def _show(others: Callable[..., None]) -> Callable[..., None]:
    """Notices as one line each; other warnings as ever."""

    def show(message: Warning | str, category: type[Warning], *place: object) -> None:
        if issubclass(category, Notice):
            print(f"track2view: {' '.join(str(message).split())}", file=sys.stderr)
        else:
            others(message, category, *place)

    return show


def _fail(message: str) -> None:
    print(f"track2view: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
