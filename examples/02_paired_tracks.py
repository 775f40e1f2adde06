"""The method's conditioning signal: the same scene points in the source and the target view.

python examples/02_paired_tracks.py [CLIP]     a small procedural clip by default
"""

import sys
from pathlib import Path

from track2view.cameras import apply_move, parse_move
from track2view.pairing import pair_by_projection
from track2view.records import Queries
from track2view.scenes import make_camera, make_world, render_clip
from track2view.trackers import SfmTracker
from track2view.video import read_clip

if len(sys.argv) > 1:
    clip = read_clip(Path(sys.argv[1]), short_side=480)
else:
    clip, _, _ = render_clip(make_world(1, frames=24, dynamic=True), make_camera("arc", 1, frames=24, size=(128, 224)))

# The paper's queries: a 24 x 24 grid at two frames, here the first and the last.
queries = Queries.grid([0, len(clip) - 1], rows=24, columns=24)
tracking = SfmTracker().track(clip, queries)
target = apply_move(parse_move("orbit-right:15"), tracking.camera)
pairs = pair_by_projection(tracking.tracks, tracking.camera, target)

print(f"{pairs.confidence.shape[1]} points over {pairs.confidence.shape[0]} frames, unit: {tracking.camera.unit}")
print(f"valid in the source: {pairs.source.valid.float().mean():.0%}, in the target: {pairs.target.valid.float().mean():.0%}")
both = pairs.source.valid[-1] & pairs.target.valid[-1]
moved = (pairs.target.uv - pairs.source.uv)[-1, both].norm(dim=-1)
print(f"at the last frame they move by {moved.median():.3f} of the image, at most {moved.max():.3f}")
