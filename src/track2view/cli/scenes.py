"""``track2view scenes`` and ``track2view curate``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from track2view.errors import UserError


@dataclass(frozen=True, kw_only=True)
class MakeScenes:
    """Render procedural scenes through ten cameras each, in MultiCamVideo's layout; finished ones are kept."""

    out: tyro.conf.Positional[Path]
    """Folder to write."""
    count: int = 4
    """How many scenes."""
    first: int = 0
    """Number of the first."""
    split: Literal["train", "validation", "test"] = "train"
    """Splits share neither scenes nor trajectories."""
    frames: int = 81
    """Of every video."""
    size: tuple[int, int] = (480, 832)
    """Height and width."""
    content: Literal["solids", "lifelike"] = "solids"
    """What worlds hold: boxes, balls and columns; or what people film: people, a dog, cloth, leaves, water, mirrors, bare walls."""
    static: bool = False
    """Nothing moves but the cameras."""
    depth: bool = False
    """Write exact depth and object ids of every pixel too."""
    workers: int = 1
    """Processes."""

    def run(self) -> None:
        """Render them."""
        from track2view.curate import export_scenes

        indices = range(self.first, self.first + self.count)
        made = export_scenes(
            self.out,
            self.split,
            indices,
            frames=self.frames,
            size=self.size,
            dynamic=not self.static,
            content=self.content,
            depth=self.depth,
            workers=self.workers,
        )
        print(*made, sep="\n")


@dataclass(frozen=True, kw_only=True)
class ShowScenes:
    """Draw every scene below a folder to sceneN.png: a column for each camera."""

    folder: tyro.conf.Positional[Path]
    """Folder that holds scenes in MultiCamVideo's layout."""
    out: Path = Path("out/scenes")
    """Folder to write pictures to."""

    def run(self) -> None:
        """Draw them."""
        from track2view.curate import contact_sheets

        for picture in contact_sheets(self.folder, self.out):
            print(picture)


@dataclass(frozen=True, kw_only=True)
class MakeClips:
    """Render procedural worlds as training reads them: clips of ten cameras each and exact tracks, in shards; finished ones are kept."""

    out: tyro.conf.Positional[Path]
    """Folder to write."""
    count: int = 64
    """How many worlds; more may be added later."""
    first: int = 0
    """Number of the first."""
    split: Literal["train", "validation", "test"] = "train"
    """Splits share neither worlds nor trajectories."""
    frames: int = 17
    """Of every clip."""
    size: tuple[int, int] = (64, 112)
    """Height and width."""
    content: Literal["solids", "lifelike"] = "solids"
    """What worlds hold: boxes, balls and columns; or what people film: people, a dog, cloth, leaves, water, mirrors, bare walls."""
    grid: tuple[int, int] = (16, 28)
    """Rows and columns of tracks' starts, at each camera's first frame and its last."""
    workers: int = 1
    """Processes."""

    def run(self) -> None:
        """Render them."""
        from track2view.train.worlds import write_worlds

        indices = range(self.first, self.first + self.count)
        write_worlds(
            self.out,
            self.split,
            indices,
            frames=self.frames,
            size=self.size,
            grid=self.grid,
            content=self.content,
            workers=self.workers,
        )
        print(self.out)


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Procedural scenes with exact truth."""

    do: tyro.conf.OmitSubcommandPrefixes[
        Annotated[MakeScenes, tyro.conf.subcommand("make")]
        | Annotated[ShowScenes, tyro.conf.subcommand("show")]
        | Annotated[MakeClips, tyro.conf.subcommand("clips")]
    ]

    def run(self) -> None:
        """Run the subcommand."""
        self.do.run()


@dataclass(frozen=True, kw_only=True)
class RunCuration:
    """Make samples of paired tracks from videos in MultiCamVideo's layout; a second run goes on where the first was stopped."""

    data: tyro.conf.Positional[Path]
    """Folder that holds scenes, or archives of scenes (tar, zip)."""
    out: tyro.conf.Positional[Path]
    """Folder for samples/, rejected/ and manifest.parquet."""
    per_scene: int = 1
    """Pairs of cameras drawn from each scene."""
    seed: int = 0
    """Of the drawing."""
    workers: int = 1
    """Processes."""
    size: int | None = None
    """Track at this short side; videos are kept as they are."""
    tracker: str = "sfm"
    """Which; `track2view tracker list` names them."""
    ray: str | None = None
    """Address of a running Ray cluster to work on instead ("auto": this machine's)."""

    def run(self) -> None:
        """Curate, and count."""
        from track2view.curate import curate

        counts = curate(
            self.data,
            self.out,
            per_scene=self.per_scene,
            seed=self.seed,
            workers=self.workers,
            short_side=self.size,
            tracker=self.tracker,
            ray_address=self.ray,
        )
        for name, count in sorted(counts.items(), key=lambda each: (each[0] != "samples", each[0])):
            print(f"{count:6} {name}")


@dataclass(frozen=True, kw_only=True)
class InspectSample:
    """Draw a sample: both views side by side, each track a dot of one colour in both. Or all samples below a folder."""

    folder: tyro.conf.Positional[Path]
    """Sample folder, or a folder of samples."""
    out: Path = Path("sample.png")
    """Picture of three moments (.png), or all frames (.mp4); for many samples, a folder of pictures."""

    def run(self) -> None:
        """Draw it, or them."""
        from track2view.curate import draw_samples

        print(*draw_samples(self.folder, self.out), sep="\n")


@dataclass(frozen=True, kw_only=True)
class EncodeSamples:
    """Compute latents and text of all samples with a base's VAE and text encoder, to shards; what is there is kept."""

    folder: tyro.conf.Positional[Path]
    """Folder that `track2view curate run` or `track2view scenes clips` wrote."""
    base: Path
    """Base in diffusers' Wan layout."""
    size: tuple[int, int] | None = None
    """Height and width to encode at, instead of each video's own: resized to cover them, then cut at the centre."""
    rendered: int | None = None
    """Of worlds: also render so many pairs of each world's cameras without weights, for recipes that end in -render."""
    workers: int = 1
    """Processes that render pairs."""
    device: str = "cpu"
    """Where to compute: cpu, cuda."""

    def run(self) -> None:
        """Encode them."""
        from track2view.curate.encode import encode_samples
        from track2view.train.rendered import render_pairs
        from track2view.train.worlds import encode_worlds, is_worlds

        if is_worlds(self.folder):
            if self.size is not None:
                raise UserError("--size: clips of worlds are encoded at their own size; make others with `track2view scenes clips --size`")
            encoded = encode_worlds(self.folder, self.base, device=self.device)
            if self.rendered is not None:
                render_pairs(self.folder, encoded, self.base, self.rendered, workers=self.workers)
            print(encoded)
            return
        if self.rendered is not None:
            raise UserError("--rendered: pairs are rendered of procedural worlds, which `track2view scenes clips` writes")
        print(encode_samples(self.folder, self.base, size=self.size, device=self.device))


@dataclass(frozen=True, kw_only=True)
class Curate:
    """Samples of paired tracks."""

    do: tyro.conf.OmitSubcommandPrefixes[
        Annotated[RunCuration, tyro.conf.subcommand("run")]
        | Annotated[InspectSample, tyro.conf.subcommand("inspect")]
        | Annotated[EncodeSamples, tyro.conf.subcommand("encode")]
    ]

    def run(self) -> None:
        """Run the subcommand."""
        self.do.run()
