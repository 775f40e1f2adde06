"""Ways to condition a dual-view model, by the name that an adapter's record gives."""

from track2view.model.conditioners.protocol import Conditioner
from track2view.model.conditioners.tracks import TrackConditioner

CONDITIONERS: dict[str, type[Conditioner]] = {"TrackConditioner": TrackConditioner}

__all__ = ["CONDITIONERS", "Conditioner"]
