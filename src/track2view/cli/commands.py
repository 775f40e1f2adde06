"""The command line: typed commands, no logic.

``track2view render | track | how-far | cameras | model | scenes | curate | train | evaluate | benchmark | ablation | tracker``."""

from typing import Annotated

import tyro

from track2view.cli.cameras import Cameras
from track2view.cli.evaluate import Ablation, Evaluate, ListBenchmark
from track2view.cli.model import Model
from track2view.cli.render import HowFar, Render, Track
from track2view.cli.scenes import Curate, Scenes
from track2view.cli.tracker import TrackerTools
from track2view.cli.train import Train

Command = (
    Annotated[Render, tyro.conf.subcommand("render")]
    | Annotated[Track, tyro.conf.subcommand("track")]
    | Annotated[HowFar, tyro.conf.subcommand("how-far")]
    | Annotated[Cameras, tyro.conf.subcommand("cameras")]
    | Annotated[Model, tyro.conf.subcommand("model")]
    | Annotated[Scenes, tyro.conf.subcommand("scenes")]
    | Annotated[Curate, tyro.conf.subcommand("curate")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[ListBenchmark, tyro.conf.subcommand("benchmark")]
    | Annotated[Ablation, tyro.conf.subcommand("ablation")]
    | Annotated[TrackerTools, tyro.conf.subcommand("tracker")]
)


def parse(arguments: list[str] | None) -> Command:
    """The command that a user typed; exits with code 2 where there is no such."""
    return tyro.cli(Command, args=arguments, prog="track2view", description=__doc__)
