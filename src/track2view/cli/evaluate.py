"""``track2view evaluate``."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from track2view.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Re-film procedural worlds by several methods, score each clip against the exact truth, write one report. What is there is kept."""

    out: tyro.conf.Positional[Path]
    """Folder for report.html, rows.csv, rows.parquet and clips/."""
    static: int = 200
    """Worlds in which nothing moves, of 200."""
    dynamic: int = 200
    """Worlds in which things move, of 200."""
    frames: int = 17
    """Of each clip."""
    size: tuple[int, int] = (64, 112)
    """Height and width."""
    content: Literal["solids", "lifelike"] = "solids"
    """What is in the worlds: boxes, balls and columns, or what people film."""
    method: tuple[Literal["truth", "copy", "shuffled-camera", "warp-tracked", "warp-exact", "mini", "mini-misled"], ...] = (
        "truth",
        "copy",
        "shuffled-camera",
        "warp-tracked",
        "warp-exact",
        "mini",
    )
    """Which: the exact view (the floor of each measure), the source as it is, the weight-free renderer along a wrong camera, with tracked
    depth and with exact depth, the mini with exact tracks, and asked for a wrong camera."""
    adapter: tuple[Path, ...] = ()
    """Adapters to evaluate beside, named after their folders' parents."""
    base: Path | None = None
    """Base of these, in diffusers' Wan layout; the mini's by default."""
    videos: tuple[Path, ...] = ()
    """Folders of anybody's videos, one for each world and named as rows.csv names them; methods named after the folders."""
    weights: Path | None = None
    """Folder of published weights for further measures (the report says which, from where); they are not fetched."""
    seed: int = 0
    """Of models' noise."""
    device: str = "cpu"
    """Where models compute: cpu, cuda."""

    def run(self) -> None:
        """Evaluate."""
        from track2view.evaluate.benchmark import Benchmark
        from track2view.evaluate.methods import METHODS, ByModel, Method, Videos
        from track2view.evaluate.perception import measures_in
        from track2view.evaluate.published import INCEPTION
        from track2view.evaluate.report import write_report
        from track2view.evaluate.run import evaluate
        from track2view.evaluate.sets import Inception, set_distances
        from track2view.model.checkpoint import MINI
        from track2view.model.diffusion import Track2ViewPipeline

        benchmark = Benchmark(static=self.static, dynamic=self.dynamic, frames=self.frames, size=self.size, content=self.content)

        def model(adapter: Path, *, misled: bool = False) -> Method:
            base = MINI / "base" if self.base is None else self.base
            pipe = Track2ViewPipeline.from_pretrained(base, adapter, device=self.device, prompt_folder=self.out / "prompts")
            return ByModel(pipe=pipe, misled=misled, seed=self.seed)

        methods: dict[str, Method] = {}
        for name in self.method:
            methods[name] = model(MINI / "adapter", misled=name.endswith("misled")) if name.startswith("mini") else METHODS[name]
        given = [(adapter.resolve().parent.name, adapter, model) for adapter in self.adapter]
        given += [(folder.resolve().name, folder, lambda folder: Videos(folder=folder)) for folder in self.videos]
        for name, folder, made in given:
            if not folder.is_dir():
                raise UserError(f"{folder}: no such folder")
            if name in methods:
                raise UserError(f"{folder}: there is a method named {name} already; rename the folder")
            methods[name] = made(folder)
        measures, missing = measures_in(self.weights, self.device)
        folder = None if self.weights is None else INCEPTION.found_in(self.weights)
        inception = None if folder is None else Inception(folder / f"{INCEPTION.name}.pt", self.device)
        if inception is None:
            missing = [*missing, f"{', '.join(INCEPTION.measures)}: {INCEPTION.remedy}"]
        rows = evaluate(benchmark, methods, self.out, measures, inception)
        sets = {} if inception is None else set_distances(rows, self.out)
        report = self.out / "report.html"
        write_report(report, benchmark, rows, self.out, shlex.join(["track2view", *sys.argv[1:]]), missing, sets)
        print(report)
