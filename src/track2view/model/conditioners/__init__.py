"""Ways to condition a dual-view model, by the name that an adapter's record gives."""

from track2view.model.conditioners.camera import CameraConditioner
from track2view.model.conditioners.protocol import Conditioner
from track2view.model.conditioners.tracks import TrackConditioner

CONDITIONERS: dict[str, type[Conditioner]] = {"TrackConditioner": TrackConditioner, "CameraConditioner": CameraConditioner}

__all__ = ["CONDITIONERS", "Conditioner"]
