"""How far a move can go, as `track2view how-far` predicts it, against what rendering it shows; prints Markdown (docs/benchmarks.md).

    python benchmarks/outlook.py          the clips of benchmarks/run.py, an orbit

Predicted is from five moments at 320 lines; measured is the worst of every eighth frame at the clip's own size.
"""

from run import CLIPS, load

from track2view.cameras import parse_move
from track2view.outlook import Outlook
from track2view.pipeline import prepare, target_camera
from track2view.warp import WarpRenderer

MOVE = "orbit-right"
EVERY = 8


def main() -> None:
    print("| clip | " + " | ".join(f"{share} %: degrees, measured" for share in (90, 75, 50)) + " |\n|---|---|---|---|", flush=True)
    worst = 0.0
    for kind, seed, dynamic in CLIPS:
        clip = load(kind, seed, dynamic=dynamic)[2]
        shot = prepare(clip)
        outlook, renderer = Outlook(shot), WarpRenderer(shot.scene, shot.depth, shot.tracking.camera)
        cells = []
        for share, amount in outlook.how_far(parse_move(MOVE)).items():
            if amount is None:
                cells.append("beyond all")
                continue
            target = target_camera(shot, f"{MOVE}:{amount}")
            frames = sorted({*range(0, len(clip), EVERY), len(clip) - 1})
            measured = min(float(renderer.seen(target, frame).float().mean()) for frame in frames)
            worst = max(worst, abs(measured - share))
            cells.append(f"{amount:.1f}°, {100 * measured:.1f} %")
        print(f"| {kind} {seed} {'dynamic' if dynamic else 'static'} | {' | '.join(cells)} |", flush=True)
    print(f"\nlargest difference: {100 * worst:.1f} points")


if __name__ == "__main__":
    main()
