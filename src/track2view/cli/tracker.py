"""``track2view tracker``."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from track2view.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CheckTracker:
    """Run a tracker on a clip of which all is known, and say what of the protocol it keeps."""

    name: tyro.conf.Positional[str]
    """A name that `track2view tracker list` prints, or command:PROGRAM."""

    def run(self) -> None:
        """Check it."""
        from track2view.curate.check_tracker import check_tracker
        from track2view.trackers import open_tracker

        broken = 0
        for finding in check_tracker(open_tracker(self.name)):
            broken += not finding.holds
            print(f"{'ok    ' if finding.holds else 'BROKEN'} {finding.what} ({finding.measured})", flush=True)
        if broken:
            raise UserError(f"tracker {self.name}: {broken} of the checks above do not hold")


@dataclass(frozen=True, kw_only=True)
class ListTrackers:
    """Print the names of trackers, and whether each can run here."""

    def run(self) -> None:
        """Print them."""
        from track2view.trackers import TRACKERS, open_tracker

        for name in TRACKERS:
            try:
                open_tracker(name)
                print(name)
            except UserError as error:
                print(f"{name}: {error}")


@dataclass(frozen=True, kw_only=True)
class TrackerTools:
    """Trackers: which there are, and whether one keeps the protocol."""

    do: tyro.conf.OmitSubcommandPrefixes[
        Annotated[CheckTracker, tyro.conf.subcommand("check")] | Annotated[ListTrackers, tyro.conf.subcommand("list")]
    ]

    def run(self) -> None:
        """Run the subcommand."""
        self.do.run()
