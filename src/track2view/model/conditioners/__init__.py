"""Ways to condition a dual-view model, by the name that an adapter's record gives."""

from track2view.model.conditioners.camera import CameraConditioner
from track2view.model.conditioners.protocol import Conditioner
from track2view.model.conditioners.render import RenderConditioner
from track2view.model.conditioners.tracks import TrackConditioner
from track2view.model.conditioners.trajectory import TrajectoryConditioner
from track2view.model.conditioners.unconditional import UnconditionalConditioner

CONDITIONERS: dict[str, type[Conditioner]] = {
    each.__name__: each
    for each in (TrackConditioner, CameraConditioner, TrajectoryConditioner, RenderConditioner, UnconditionalConditioner)
}

__all__ = ["CONDITIONERS", "Conditioner"]
