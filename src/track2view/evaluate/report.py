"""One HTML file that says what an evaluation found: tables, plots and clips inside it, no script, nothing fetched."""

import base64
import io
import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure

from track2view.evaluate.benchmark import AnyCase, Benchmark, Known
from track2view.evaluate.procedural import Interval, interval
from track2view.evaluate.row import Row
from track2view.evaluate.sets import SetDistance
from track2view.files import atomic_path
from track2view.records import Clip
from track2view.video import clip_images, read_clip, write_video

SHOWN = 2
ENLARGED_LINES = 192
PLOT_INCHES = (6.4, 3.2)


@dataclass(frozen=True, slots=True)
class Ranking:
    """How clips are told good from bad: by the first of these of which there are numbers."""

    value: str
    words: str
    more_is_better: bool = True


RANKINGS = (
    Ranking("psnr_seen", "{:.1f} dB on what is seen"),
    Ranking("psnr", "{:.1f} dB"),
    Ranking("reconstructed_rotation", "{:.2f}° off", more_is_better=False),
    Ranking("steadiness_gained", "{:.2f} steadier than the source"),
)


@dataclass(frozen=True)
class Column:
    """A measure as the tables show it."""

    title: str
    value: str
    times: float = 1.0
    digits: int = 2


COLUMNS = (
    Column("found %", "converged", 100, 0),
    Column("RotErr °", "rotation"),
    Column("TransErr cm", "translation", 100, 1),
    Column("of the path %", "translation_percent", 1, 1),
    Column("AUC at 5°", "auc"),
    Column("roughly found %", "rough_converged", 100, 0),
    Column("rough RotErr °", "rough_rotation"),
    Column("rough TransErr cm", "rough_translation", 100, 1),
    Column("rough AUC at 5°", "rough_auc"),
    Column("matched %", "matched", 100, 0),
    Column("matched RotErr °", "matched_rotation"),
    Column("matched TransErr cm", "matched_translation", 100, 1),
    Column("registered %", "registered", 100, 0),
    Column("reconstructed RotErr °", "reconstructed_rotation"),
    Column("TransErr, scaled", "reconstructed_translation", 1, 3),
    Column("TransErr, by two frames", "reconstructed_first_two", 1, 3),
    Column("CamMC", "reconstructed_camera_motion"),
    Column("reconstructed AUC at 5°", "reconstructed_auc"),
    Column("PSNR seen", "psnr_seen"),
    Column("PSNR unseen", "psnr_disoccluded"),
    Column("SSIM seen", "ssim_seen", 1, 3),
    Column("PSNR", "psnr"),
    Column("SSIM", "ssim", 1, 3),
    Column("tracks kept %", "tracks_kept", 1, 1),
    Column("of what moves %", "moving_tracks_kept", 1, 1),
    Column("track error px", "track_error"),
    Column("flicker", "flicker"),
    Column("steadier than the source", "steadiness_gained"),
)
"""Of cameras and pictures; a table has those of which there are numbers."""
PERCEIVED = (
    Column("CLIP-T", "clip_t"),
    Column("CLIP-F", "clip_f"),
    Column("CLIP-V", "clip_v"),
    Column("subject consistency", "subject_consistency"),
    Column("background consistency", "background_consistency"),
    Column("aesthetic quality", "aesthetic_quality"),
    Column("imaging quality", "imaging_quality"),
    Column("motion smoothness", "motion_smoothness"),
    Column("temporal flickering", "steadiness"),
    Column("Mat.Pix K", "matched_points_0.1", 1, 3),
    Column("at 0.2", "matched_points_0.2", 1, 3),
    Column("at 0.5", "matched_points_0.5", 1, 3),
    Column("Mat.Pix, of the exact view's", "matched_points_of_exact", 1, 3),
    Column("LPIPS seen", "lpips_seen", 1, 3),
    Column("LPIPS unseen", "lpips_disoccluded", 1, 3),
    Column("LPIPS", "lpips", 1, 3),
)
"""By networks, but for temporal flickering."""
PAPER = (
    ("Trajectory Attention", 25, 3.54, 0.309, 38.25, 28.57, 98.49, 94.87, 0.826),
    ("Track2View", 25, 1.24, 0.085, 33.95, 29.06, 99.28, 95.81, 1.070),
    ("TrajectoryCrafter", 49, 2.12, 0.721, 29.34, 28.87, 98.70, 94.70, 0.737),
    ("Track2View", 49, 1.31, 0.280, 29.30, 29.07, 99.35, 94.71, 0.876),
    ("Gen3C", 81, 4.21, 3.715, 30.32, 28.55, 99.04, 92.47, 0.644),
    ("ReCamMaster", 81, 2.20, 2.096, 33.85, 28.48, 99.33, 92.93, 0.579),
    ("Track2View", 81, 1.55, 0.818, 26.82, 28.89, 99.38, 93.22, 0.695),
)
"""The paper's Table 1: method, frames, RotErr, TransErr, FID, CLIP-T, CLIP-F, CLIP-V, Mat.Pix in thousands."""
PAPER_COLUMNS = ("method", "frames", "RotErr °", "TransErr", "FID", "CLIP-T", "CLIP-F", "CLIP-V", "Mat.Pix K")
STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 90rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: Canvas; }
td small { display: block; opacity: 0.7; }
figure { margin: 1rem 0; } figure svg { width: 100%; height: auto; max-width: 42rem; background: white; border-radius: 4px; }
video { width: 100%; max-width: 60rem; image-rendering: pixelated; }
code { overflow-wrap: anywhere; }
"""


def write_report(
    path: Path,
    benchmark: Benchmark[AnyCase, Known],
    rows: Sequence[Row],
    out: Path,
    command: str,
    missing: Sequence[str] = (),
    sets: Mapping[str, SetDistance] | None = None,
) -> None:
    """What ``rows`` say.

    Args:
        rows: of several methods; the last one's clips are shown, and its differences from the others.
        out: the folder that :func:`track2view.evaluate.run.evaluate` wrote, for the clips.
        command: that made the rows.
        missing: measures that could not be taken, and what they need, in lines.
        sets: distances of whole sets of frames, by method.
    """
    methods = list(dict.fromkeys(row.method for row in rows))
    parts = [
        f"<h1>{escape(benchmark.title)}</h1>",
        f"<p>{escape(benchmark.explained)} Small print: 95 % of bootstrap means over cases.</p>",
        f"<p><code>{escape(command)}</code></p>",
    ]
    for title, chosen in groups(rows):
        parts.append(f"<h2>{escape(title)}</h2>{_table(methods, chosen)}")
    known = _known(PERCEIVED, rows)
    lines = "".join(f"<li>Not measured: {escape(each)}</li>" for each in missing)
    body = [[escape(method), *(_number(means(rows, method, column.value), column) for column in known)] for method in methods]
    parts.append(f"<h2>As networks see the clips</h2>{_html(['method', *(column.title for column in known)], body)}<ul>{lines}</ul>")
    if sets:
        body = [[escape(name), str(each.frames), f"{each.frechet:.2f}", f"{each.kernel:.5f}"] for name, each in sets.items()]
        parts.append(
            "<h2>Sets of frames</h2><p>From the exact views' frames, or the sources' where nobody knows those: FID, far too large for so "
            "few frames, and KID, which is not biased by their number; both by the 2015-12-05 Inception in TorchScript.</p>"
            + _html(["method", "frames", "FID", "KID"], body)
        )
    if len(methods) > 1:
        parts.append(f"<h2>{escape(methods[-1])} minus the others, case by case</h2>{_differences(methods, rows)}")
    parts.append(
        f"<h2>By camera, by parallax and by frame</h2>{_by_camera(methods, rows)}{_by_parallax(methods, rows)}{_by_frame(methods, rows)}"
    )
    parts.append(
        f"<h2>Worst and best of {escape(methods[-1])}</h2>{_clips(benchmark, [row for row in rows if row.method == methods[-1]], out)}"
    )
    parts.append(f"<h2>What could not be made, or not as it was</h2>{_remarks(rows)}")
    parts.append(
        "<h2>The paper's own numbers</h2><p>Track2View, Table 1: theirs, of 400 clips at 480p by other estimators, not run again; "
        f"they cannot be compared with the numbers above.</p>{_html(PAPER_COLUMNS, [[str(each) for each in row] for row in PAPER])}"
    )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>track2view evaluate</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )
    with atomic_path(path) as partial:
        partial.write_text(page)


def groups(rows: Sequence[Row]) -> Iterable[tuple[str, list[Row]]]:
    """All rows, and those of each group where there are several."""
    yield "All cases", list(rows)
    names = list(dict.fromkeys(row.group for row in rows))
    if len(names) > 1:
        yield from ((f"{name[:1].upper()}{name[1:]}", [row for row in rows if row.group == name]) for name in names)


def means(rows: Sequence[Row], method: str, value: str) -> Interval:
    """A method's mean over cases in which it has the number."""
    found = (row.values.get(value) for row in rows if row.method == method)
    return interval([each for each in found if each is not None])


def differences(rows: Sequence[Row], method: str, other: str, value: str) -> Interval:
    """Mean of ``method`` minus ``other`` over cases in which both have the number."""
    own, theirs = ({row.case: row.values.get(value) for row in rows if row.method == name} for name in (method, other))
    pairs = [(own[case], theirs.get(case)) for case in own]
    return interval([one - two for one, two in pairs if one is not None and two is not None])


def _known(columns: Iterable[Column], rows: Sequence[Row]) -> list[Column]:
    return [column for column in columns if any(row.values.get(column.value) is not None for row in rows)]


def _table(methods: list[str], rows: Sequence[Row]) -> str:
    columns = _known(COLUMNS, rows)
    body = []
    for method in methods:
        own = [row for row in rows if row.method == method]
        cells = [_number(means(rows, method, column.value), column) for column in columns]
        body.append([escape(method), str(len(own)), str(sum(bool(row.reason) for row in own)), *cells])
    return _html(["method", "clips", "failed", *(column.title for column in columns)], body)


def _differences(methods: list[str], rows: Sequence[Row]) -> str:
    columns = _known(COLUMNS, rows)
    body = [
        [f"minus {escape(other)}", *(_number(differences(rows, methods[-1], other, column.value), column) for column in columns)]
        for other in methods[:-1]
    ]
    return _html(["", *(column.title for column in columns)], body)


def _number(of: Interval, column: Column) -> str:
    """Mean, and in small print its interval and of how many, or a dash where there is none."""
    if math.isnan(of.mean):
        return "–"
    mean, low, high = (f"{each * column.times:.{column.digits}f}" for each in (of.mean, of.low, of.high))
    span = "" if math.isnan(of.low) else f"{low} … {high}, "
    return f"{mean}<small>{span}{of.pairs}</small>"


def _html(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{each}</th>" for each in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in body)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def _plot(draw: Callable[[Figure], None], caption: str) -> str:
    """An SVG that is the same whenever it is drawn."""
    figure, content = Figure(figsize=PLOT_INCHES, layout="constrained"), io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "track2view", "font.size": 9}):
        draw(figure)
        figure.savefig(content, format="svg", metadata={"Date": None})
    picture = content.getvalue()
    return f"<figure>{picture[picture.index('<svg') :]}<figcaption>{caption}</figcaption></figure>"


def _by_camera(methods: list[str], rows: Sequence[Row]) -> str:
    turned = _first_known(rows, "rotation", "reconstructed_rotation")
    if not turned:
        return ""
    cameras = sorted({row.target for row in rows})

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for method in methods:
            heights = [means([row for row in rows if row.target == camera], method, turned).mean for camera in cameras]
            axes.plot(cameras, heights, "o-", label=method)
        axes.set_ylabel("RotErr, °")
        axes.tick_params(axis="x", labelrotation=30 if len(cameras) > 10 else 0)
        axes.legend(fontsize=7)

    return _plot(draw, "Rotation error by the camera that is asked for; a gap where no frame's camera could be found.")


def _by_parallax(methods: list[str], rows: Sequence[Row]) -> str:
    alike = _first_known(rows, "psnr_seen", "psnr", "reconstructed_rotation")
    if not alike:
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for method in methods:
            own = [(row.parallax, row.values.get(alike)) for row in rows if row.method == method]
            places = np.array([each for each in own if each[1] is not None], dtype=float).reshape(-1, 2)
            axes.plot(places[:, 0], places[:, 1], "o", ms=3, alpha=0.7, label=method)
        axes.set_xlabel("parallax between the two cameras, °")
        axes.set_ylabel(next(f"{column.title}{', dB' if 'PSNR' in column.title else ''}" for column in COLUMNS if column.value == alike))
        axes.legend(fontsize=7)

    return _plot(draw, "Likeness, by how far the cameras are apart.")


def _by_frame(methods: list[str], rows: Sequence[Row]) -> str:
    names = {"rotation": "rotation error, °", "psnr": "PSNR, dB"}
    known = [name for name in names if any(any(each is not None for each in row.by_frame.get(name, ())) for row in rows)]
    if not known:
        return ""

    def draw(figure: Figure) -> None:
        for axes, name in zip(figure.subplots(1, len(known), squeeze=False)[0], known, strict=True):
            for method in methods:
                series = [row.by_frame[name] for row in rows if row.method == method and name in row.by_frame]
                found = [[each for each in at if each is not None] for at in itertools.zip_longest(*series)]
                points = [(frame, sum(each) / len(each)) for frame, each in enumerate(found) if each]
                axes.plot(*zip(*points, strict=True) if points else ((), ()), ".-", ms=4, label=method)
            axes.set_xlabel("frame")
            axes.set_ylabel(names[name])
        axes.legend(fontsize=7)

    return _plot(draw, "Means of each frame over the cases in which there is such a number: what grows as the cameras part.")


def _first_known(rows: Sequence[Row], *values: str) -> str:
    """Of which there are numbers; empty where there are none of any."""
    return next((value for value in values if any(row.values.get(value) is not None for row in rows)), "")


def _clips(benchmark: Benchmark[AnyCase, Known], rows: Sequence[Row], out: Path) -> str:
    """Source, exact view where there is one, and clip, beside each other."""
    chosen_by = _first_known(rows, *(ranking.value for ranking in RANKINGS))
    if not chosen_by:
        return "<p>No clip was made.</p>"
    ranking = next(each for each in RANKINGS if each.value == chosen_by)
    scored = [(value, row) for row in rows if (value := row.values.get(chosen_by)) is not None]
    scored.sort(key=lambda each: each[0] if ranking.more_is_better else -each[0])
    chosen = dict.fromkeys(row.case for _, row in (*scored[:SHOWN], *scored[-SHOWN:]))
    by_name = {case.name: case for case in benchmark.cases}
    parts = []
    with tempfile.TemporaryDirectory() as place:
        for value, row in scored:
            if row.case not in chosen or row.case not in by_name:
                continue
            given = benchmark.given(by_name[row.case])
            made = read_clip(out / "clips" / row.method / f"{row.case}.mp4").frames
            views = {"source": given.source, "exact view": given.exact, row.method: made}
            beside = torch.cat([view for view in views.values() if view is not None], dim=3)
            times = max(1, ENLARGED_LINES // beside.shape[2])
            large = beside.repeat_interleave(times, 2).repeat_interleave(times, 3)
            film = Path(place) / "clip.mp4"
            write_video(film, clip_images(Clip(frames=large, fps=given.fps)), given.fps)
            data = base64.b64encode(film.read_bytes()).decode()
            shown = ", ".join(name for name, view in views.items() if view is not None)
            parts.append(
                f'<figure><video controls loop muted playsinline preload="metadata" src="data:video/mp4;base64,{data}"></video>'
                f"<figcaption>{escape(row.case)}: {escape(shown)}; {ranking.words.format(value)}</figcaption></figure>"
            )
    return "".join(parts)


def _remarks(rows: Sequence[Row]) -> str:
    told = [[escape(row.method), escape(row.case), escape(row.reason or row.note)] for row in rows if row.reason or row.note]
    return _html(["method", "case", "what"], told) if told else "<p>Nothing.</p>"
