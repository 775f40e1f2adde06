"""What a window late in a long film costs to read: ``python benchmarks/reading.py`` (needs FFmpeg's own program to compare with).

One second at 700 s of a twelve-minute film of 1280×720, five times each in turn, medians of wall clock.
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from track2view.video import read_clip

RATE, SECONDS, REPEATS, RUNS = 25, 60, 12, 5


def make_film(path: Path) -> None:
    """A minute of moving texture, its packets repeated twelve times."""
    texture = np.random.default_rng(0).integers(0, 255, (90, 160 + RATE * SECONDS // 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = 720, 1280, "yuv420p"
        packets = []
        for index in range(RATE * SECONDS):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(texture[:, 2 * index : 2 * index + 1280]), format="rgb24")
            packets += stream.encode(frame)
        packets += stream.encode(None)
        kept = [(bytes(packet), packet.pts, packet.dts, packet.is_keyframe, packet.time_base) for packet in packets]
        for repeat in range(REPEATS):
            for data, pts, dts, key, base in kept:
                packet = av.Packet(data)
                packet.stream, packet.time_base, packet.is_keyframe = stream, base, key
                packet.pts, packet.dts = (each + round(repeat * SECONDS / base) for each in (pts, dts))
                out.mux(packet)


def main() -> None:
    """Print the two medians and their ratio."""
    if (ffmpeg := shutil.which("ffmpeg")) is None:
        sys.exit("FFmpeg's own program is not on the path")
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        make_film(film)
        command = [
            ffmpeg,
            "-v",
            "error",
            "-ss",
            "700",
            "-t",
            "1",
            "-i",
            str(film),
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-y",
            "/dev/null",
        ]
        theirs, ours = [], []
        for _ in range(RUNS):
            started = time.perf_counter()
            subprocess.run(command, check=True)
            between = time.perf_counter()
            clip = read_clip(film, start=700, end=701)
            theirs.append(between - started)
            ours.append(time.perf_counter() - between)
        assert len(clip) == RATE
        print(f"{film.stat().st_size / 1e6:.0f} MB; ffmpeg {statistics.median(theirs):.2f} s, read_clip {statistics.median(ours):.2f} s")
        print(f"ratio {statistics.median(ours) / statistics.median(theirs):.2f}")


if __name__ == "__main__":
    main()
