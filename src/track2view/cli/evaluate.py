"""``track2view evaluate`` and ``track2view benchmark``."""

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from track2view.errors import UserError

MINI_NAMES = ("mini", "mini-misled")


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Re-film a benchmark by several methods, score each clip, write one report. What is there is kept."""

    out: tyro.conf.Positional[Path]
    """Folder for report.html, rows.csv, rows.parquet and clips/."""
    footage: Path | None = None
    """A list of clips and cameras, as `track2view benchmark` writes one; procedural worlds with exact truth by default."""
    static: int = 200
    """Worlds in which nothing moves, of 200."""
    dynamic: int = 200
    """Worlds in which things move, of 200."""
    frames: int = 17
    """Of each clip."""
    size: tuple[int, int] = (64, 112)
    """Height and width of worlds."""
    short_side: int | None = None
    """Pixels that footage is resized to; as it is by default."""
    content: Literal["solids", "lifelike"] = "solids"
    """What is in the worlds: boxes, balls and columns, or what people film."""
    method: tuple[Literal["truth", "copy", "shuffled-camera", "warp", "warp-tracked", "warp-exact", "mini", "mini-misled"], ...] = ()
    """Which; all but mini-misled by default. Of worlds: the exact view (the floor of each measure), the source as it is, the weight-free
    renderer along a wrong camera, with tracked depth and with exact depth, the mini with exact tracks, and asked for a wrong camera. Of
    footage: the source as it is, the weight-free renderer along a wrong camera and along the right one (warp), the mini."""
    adapter: tuple[Path, ...] = ()
    """Adapters to evaluate beside, named after their folders' parents."""
    base: Path | None = None
    """Base of these, in diffusers' Wan layout; the mini's by default."""
    videos: tuple[Path, ...] = ()
    """Folders of anybody's videos, one for each case and named as rows.csv names them; methods named after the folders."""
    cameras: tuple[Literal["matching", "reconstruction"], ...] = ()
    """Further ways to find cameras in worlds, beside rendering: matching (from 128 lines) and a reconstruction (from 240)."""
    weights: Path | None = None
    """Folder of published weights for further measures (the report says which, from where); they are not fetched."""
    seed: int = 0
    """Of models' noise."""
    device: str = "cpu"
    """Where models compute: cpu, cuda."""

    def run(self) -> None:
        """Evaluate."""
        import transformers

        from track2view.evaluate.perception import measures_in
        from track2view.evaluate.published import INCEPTION
        from track2view.evaluate.report import write_report
        from track2view.evaluate.run import evaluate
        from track2view.evaluate.sets import Inception, set_distances

        transformers.utils.logging.disable_progress_bar()
        benchmark, own, model, further = self._of_worlds() if self.footage is None else self._of_footage(self.footage)
        methods = self._methods(own, model)
        measures, missing = measures_in(self.weights, self.device)
        folder = None if self.weights is None else INCEPTION.found_in(self.weights)
        inception = None if folder is None else Inception(folder / f"{INCEPTION.name}.pt", self.device)
        if inception is None:
            missing = [*missing, f"{', '.join(INCEPTION.measures)}: {INCEPTION.remedy}"]
        rows = evaluate(benchmark, methods, self.out, {**further, **measures}, inception)
        sets = {} if inception is None else set_distances(rows, self.out)
        report = self.out / "report.html"
        write_report(report, benchmark, rows, self.out, shlex.join(["track2view", *sys.argv[1:]]), missing, sets)
        print(report)

    def _of_worlds(self) -> tuple[Any, Mapping[str, Any], Callable[..., Any], Mapping[str, Any]]:
        """The benchmark, its own methods, what makes one of a model, and its further measures."""
        from track2view.evaluate.worlds import CAMERA_MEASURES, METHODS, ByModel, Worlds

        benchmark = Worlds(static=self.static, dynamic=self.dynamic, frames=self.frames, size=self.size, content=self.content)
        return benchmark, METHODS, ByModel, {name: CAMERA_MEASURES[name] for name in self.cameras}

    def _of_footage(self, file: Path) -> tuple[Any, Mapping[str, Any], Callable[..., Any], Mapping[str, Any]]:
        from track2view.evaluate.footage import METHODS, ByModel, Footage

        if self.cameras:
            raise UserError("--cameras: of procedural worlds alone; cameras of footage are reconstructed in any case")
        return Footage(file=file, frames=self.frames, short_side=self.short_side), METHODS, ByModel, {}

    def _methods(self, own: Mapping[str, Any], model: Callable[..., Any]) -> dict[str, Any]:
        from track2view.evaluate.videos import Videos
        from track2view.model.checkpoint import MINI
        from track2view.model.diffusion import Track2ViewPipeline

        def loaded(adapter: Path, **options: bool) -> Any:
            base = MINI / "base" if self.base is None else self.base
            pipe = Track2ViewPipeline.from_pretrained(base, adapter, device=self.device, prompt_folder=self.out / "prompts")
            return model(pipe=pipe, seed=self.seed, **options)

        minis = MINI_NAMES[:1] if self.footage is not None else MINI_NAMES
        methods: dict[str, Any] = {}
        for name in self.method or (*own, "mini"):
            if name not in (*own, *minis):
                what = "worlds" if self.footage is None else "footage"
                raise UserError(f"--method: of {what} there are {', '.join((*own, *minis))}, got {name}")
            options = {"misled": True} if name.endswith("misled") else {}
            methods[name] = own[name] if name in own else loaded(MINI / "adapter", **options)
        given = [(adapter.resolve().parent.name, adapter, loaded) for adapter in self.adapter]
        given += [(folder.resolve().name, folder, lambda folder: Videos(folder=folder)) for folder in self.videos]
        for name, folder, made in given:
            if not folder.is_dir():
                raise UserError(f"{folder}: no such folder")
            if name in methods:
                raise UserError(f"{folder}: there is a method named {name} already; rename the folder")
            methods[name] = made(folder)
        return methods


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Train a recipe, its ablations and its baselines with several seeds, and compare all on worlds that no training sees. What is done
    is kept: more recipes and seeds may be added, and a run goes on where it was stopped. Under torchrun processes share the work."""

    recipe: tyro.conf.Positional[str]
    """Whose: micro, mini, proof, one-gpu, paper."""
    data: tyro.conf.Positional[Path]
    """Procedural worlds that `track2view scenes clips` wrote, encoded with the base (and --rendered, for the variant render)."""
    out: tyro.conf.Positional[Path]
    """A folder for each run, RECIPE-SEED, and evaluation/ for what is found."""
    base: Path
    """Base in diffusers' Wan layout."""
    variants: tuple[str, ...] = ("", "camera")
    """Of the recipe: "" for itself, a baseline (camera, render, trajectory, unconditional) or an ablation (layers-2, queries-first, …)."""
    seeds: tuple[int, ...] = (0,)
    """Each variant is trained with each."""
    held_out: Path | None = None
    """Data of the same kind to validate on while training."""
    worlds: int = 64
    """That the runs are compared on; a quarter of them static."""
    steps: int | None = None
    """Compare the checkpoints after so many steps; the last ones by default."""
    device: str = "cpu"
    """Where to compute: cpu, cuda."""

    def run(self) -> None:
        """Train and compare."""
        from track2view.ablation import SeededRun, ablate
        from track2view.evaluate.worlds import Worlds

        names = [f"{self.recipe}-{variant}" if variant else self.recipe for variant in self.variants]
        runs = [SeededRun.of(name, seed, self.out) for seed in self.seeds for name in names]
        shape = runs[0].recipe
        benchmark = Worlds(static=self.worlds // 4, dynamic=self.worlds - self.worlds // 4, frames=shape.frames, size=shape.size)
        command = shlex.join(["track2view", *sys.argv[1:]])
        given = {"base": self.base, "held_out": self.held_out, "device": self.device, "steps": self.steps, "command": command}
        print(ablate(runs, benchmark, self.data, self.out, **given))


@dataclass(frozen=True, kw_only=True)
class ListClips:
    """Every video of a folder along every camera."""

    folder: tyro.conf.Positional[Path]
    """Of videos."""
    camera: tuple[str, ...]
    """Moves and camera files, as `track2view render` takes them."""
    out: Path
    """The list, .json."""

    def run(self) -> None:
        """Write it."""
        from track2view.evaluate.lists import list_folder

        print(f"{self.out}  ({list_folder(self.folder, self.camera, self.out)} cases)")


@dataclass(frozen=True, kw_only=True)
class ListMulticam:
    """Of every scene in MultiCamVideo's layout one camera re-filmed from another, both drawn by seed; the true view is known."""

    folder: tyro.conf.Positional[Path]
    """Below which scenes are (…/sceneN/cameras/camera_extrinsics.json)."""
    out: Path
    """The list, .json."""
    seed: int = 0
    """Of what is drawn."""

    def run(self) -> None:
        """Write it."""
        from track2view.evaluate.lists import list_multicam

        print(f"{self.out}  ({list_multicam(self.folder, self.out, seed=self.seed)} cases)")


@dataclass(frozen=True, kw_only=True)
class ListRealcam:
    """RealCam-Vid's test clips, 200 of RealEstate10K and 200 of MiraData, each along two moves that were drawn once. Its archive is a
    pickle and runs whatever code it holds: only for files you trust."""

    file: tyro.conf.Positional[Path]
    """RealCam-Vid npz."""
    videos: tyro.conf.Positional[Path]
    """The folder that its video paths are relative to."""
    out: Path
    """The list, .json; camera files are written beside it."""

    def run(self) -> None:
        """Write it."""
        from track2view.evaluate.lists import list_realcam

        print(f"{self.out}  ({list_realcam(self.file, self.videos, self.out)} cases)")


@dataclass(frozen=True, kw_only=True)
class ConvertGim:
    """Bring GIM's LightGlue, with which the paper counts matches, into the layout that `track2view evaluate --weights` loads."""

    file: tyro.conf.Positional[Path]
    """gim_lightglue_100h.ckpt."""
    out: tyro.conf.Positional[Path]
    """Folder to write: WEIGHTS/lightglue."""

    def run(self) -> None:
        """Convert it."""
        from track2view.evaluate.matches import convert_gim

        convert_gim(self.file, self.out)
        print(self.out)


@dataclass(frozen=True, kw_only=True)
class ListBenchmark:
    """Lists of clips and cameras for `track2view evaluate --footage`, and what it takes to score them."""

    do: tyro.conf.OmitSubcommandPrefixes[
        Annotated[ListClips, tyro.conf.subcommand("clips")]
        | Annotated[ListMulticam, tyro.conf.subcommand("multicam")]
        | Annotated[ListRealcam, tyro.conf.subcommand("realcam")]
        | Annotated[ConvertGim, tyro.conf.subcommand("gim")]
    ]

    def run(self) -> None:
        """Do it."""
        self.do.run()
