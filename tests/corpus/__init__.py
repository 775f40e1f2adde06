"""Small valid inputs for every reader, made by public libraries alone, the same bytes each time.

A seed is a file or a folder, as a person would hand it over. ``python -m corpus FOLDER`` (with ``tests`` on the path) writes
them all; ``crashes/READER/`` beside this file holds, in the same shape, each input that once broke a reader (a changed folder only
as far as it differs: see :func:`fuzzing.run.crashes`).
"""

from dataclasses import dataclass
from pathlib import Path

CRASHES = Path(__file__).with_name("crashes")


@dataclass(frozen=True, slots=True)
class Seed:
    """One input in memory.

    Attributes:
        name: of the file or folder, its suffix included.
        files: content by path below the folder; a file's own content under the empty path.
    """

    name: str
    files: dict[str, bytes]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(map(len, self.files.values()))

    def write(self, folder: Path) -> Path:
        """Put it on disk below ``folder``; returns where."""
        place = folder / self.name
        for name, content in self.files.items():
            file = place / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        if "" not in self.files:
            place.mkdir(parents=True, exist_ok=True)
        return place


def load(folder: Path) -> list[Seed]:
    """Every file and folder of ``folder`` as a seed, in the order of their names."""
    return [_seed(place) for place in sorted(folder.iterdir())]


def _seed(place: Path) -> Seed:
    if place.is_file():
        return Seed(place.name, {"": place.read_bytes()})
    return Seed(place.name, {str(file.relative_to(place)): file.read_bytes() for file in sorted(place.rglob("*")) if file.is_file()})
