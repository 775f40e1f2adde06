"""How a video is made, whichever model makes it: steps, guidance, windows of a long clip."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from track2view.errors import UserError
from track2view.model.latents import Strides
from track2view.model.room import MemoryMode
from track2view.model.sampling import Guidance
from track2view.model.text import NEGATIVE_PROMPT

Preview = Callable[[int, Float[Tensor, "B C F Y X"]], bool | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusionSettings:
    """How a video is made.

    Attributes:
        prompt: what the clip shows; empty works, words help.
        negative_prompt: what guidance leads away from.
        steps, shift: the sigma grid (design section 5); by default the shift that the adapter was trained with.
        solver: "unipc" needs fewer steps, "euler" is plain.
        guidance: strength of guidance on text, and the sigmas within which it is used.
        batched: both guidance branches in one pass: faster on small clips, twice the activations.
        seed: of the noise.
        window: most frames at once; longer clips go window by window. It and ``overlap`` are whole latents of the base: s·k + 1 for
            s frames a latent (4 in Wan).
        overlap: frames that a window shares with the one before.
        memory: "fast" keeps all on the device; "balanced" one part at a time, the VAE in tiles; "low" also one block at a time.
    """

    prompt: str = ""
    negative_prompt: str = NEGATIVE_PROMPT
    steps: int = 50
    shift: float | None = None
    solver: Literal["unipc", "euler"] = "unipc"
    guidance: Guidance = field(default_factory=Guidance)
    batched: bool = False
    seed: int = 0
    window: int = 81
    overlap: int = 17
    memory: MemoryMode = "balanced"

    def __post_init__(self) -> None:
        if not 0 < self.overlap < self.window:
            raise UserError(f"overlap: expected less than the window of {self.window} frames, got {self.overlap}")


def check_windows(settings: DiffusionSettings, strides: Strides) -> None:
    """Raise :class:`UserError` if a window or overlap is not whole latents of a base."""
    group = strides.frames
    for name in ("window", "overlap"):
        frames = getattr(settings, name)
        if (frames - 1) % group:
            raise UserError(f"{name}: expected {group}k + 1 frames (1, {1 + group}, …, {1 + 20 * group}), got {frames}")


def plan_windows(frames: int, settings: DiffusionSettings, strides: Strides) -> list[range]:
    """Windows of at most ``settings.window`` frames that cover a clip; each shares whole latents with the one before.

    The last one is as long as the others, so it may share more.

    Raises:
        UserError: a window or overlap that is not whole latents.
    """
    check_windows(settings, strides)
    windows = [range(min(frames, settings.window))]
    while (stop := windows[-1].stop) < frames:
        start = stop - settings.overlap
        if start + settings.window >= frames:
            shared = stop - (frames - settings.window)
            start = stop - (1 + strides.frames * ((shared - 1) // strides.frames))
        windows.append(range(start, min(start + settings.window, frames)))
    return windows


class Remembering:
    """A preview that remembers whether it stopped the sampler."""

    def __init__(self, preview: Preview | None) -> None:
        self.preview, self.stopped = preview, False

    def __call__(self, step: int, latents: Float[Tensor, "B C F Y X"]) -> bool:
        self.stopped = bool(self.preview is not None and self.preview(step, latents))
        return self.stopped
