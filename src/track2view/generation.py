"""The diffusion renderer's part of the main path: where tracks start for it, its words, its clip."""

import signal
from dataclasses import dataclass, replace
from pathlib import Path

from track2view.folders import written_whole
from track2view.model.diffusion import DiffusionSettings, Track2ViewPipeline
from track2view.model.text import caption
from track2view.pipeline import Shot, default_queries
from track2view.records import CameraPath, Clip, Queries
from track2view.signals import Stopped, noted
from track2view.video import clip_images, write_video


class Interrupted(Stopped):
    """Ctrl-C while a clip was made; ``preview`` is a video of what it was about to become."""

    def __init__(self, preview: Path) -> None:
        super().__init__(signal.SIGINT)
        self.preview = preview


@dataclass(frozen=True, kw_only=True, slots=True)
class Generator:
    """A model, and how it makes clips."""

    model: Track2ViewPipeline
    settings: DiffusionSettings

    def queries(self, clip: Clip) -> Queries:
        """Where tracks start: as the model plans it, and where the warp beside it needs more.

        Raises:
            UserError: a clip that the model cannot make.
        """
        self.model.check(clip, self.settings)
        return default_queries(clip, self.model.queries(len(clip), self.settings))

    def described(self, clip: Clip, captioner: Path) -> "Generator":
        """With the words that an image-to-text model finds for a clip, where none were given.

        Raises:
            UserError: no such model there.
        """
        if self.settings.prompt:
            return self
        return replace(self, settings=replace(self.settings, prompt=caption(clip, captioner, self.model.device)))

    def refilm(self, shot: Shot, target: CameraPath, out: Path) -> Clip:
        """The scene as seen from ``target``.

        Raises:
            Interrupted: by Ctrl-C, after the step that was running; ``out`` has a preview.
        """
        with noted(signal.SIGINT) as interrupted:
            tracking = shot.tracking
            made = self.model(shot.scene, tracking.tracks, tracking.camera, target, self.settings, lambda step, latents: bool(interrupted))
        if interrupted:
            with written_whole(out) as folder:
                write_video(folder / "preview.mp4", clip_images(made), made.fps)
            raise Interrupted(out / "preview.mp4")
        return made
