"""Archives whose makers mean harm, or whose bytes are not what they were: nothing outside the folder is touched, and each is named."""

import errno
import io
import os
import random
import re
import resource
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from track2view.curate.archives import unpack

VICTIM = b"what stood here before"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a file that no archive may touch, two levels above where archives are unpacked."""
    (tmp_path / "victim").write_bytes(VICTIM)
    (tmp_path / "out/unpacked").mkdir(parents=True)
    return tmp_path


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes | None]) -> Path:
    with tarfile.open(path, "w") as archive:
        for member, content in members:
            archive.addfile(member, None if content is None else io.BytesIO(content))
    return path


def file_of(name: str, content: bytes = b"good") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


def link_of(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, None]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, None


def of_kind(name: str, kind: bytes) -> tuple[tarfile.TarInfo, None]:
    member = tarfile.TarInfo(name)
    member.type = kind
    return member, None


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], packing: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def zip_link(name: str, target: str) -> tuple[zipfile.ZipInfo, bytes]:
    member = zipfile.ZipInfo(name)
    member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return member, target.encode()


def long_path_escape(root: Path) -> Path:
    """CVE-2025-4517: a path longer than PATH_MAX when its links are followed, which ``realpath`` gives up on."""
    component, steps, members, path = "d" * 247, "abcdefghijklmnop", [], ""
    for step in steps:
        folder = tarfile.TarInfo(os.path.join(path, component))
        folder.type = tarfile.DIRTYPE
        members += [(folder, None), link_of(os.path.join(path, step), component)]
        path = os.path.join(path, component)
    chain = os.path.join("/".join(steps), "l" * 254)
    members += [link_of(chain, "../" * len(steps)), link_of("escape", f"{chain}/../../victim"), link_of("hard", "escape", tarfile.LNKTYPE)]
    return tar(root / "a.tar", *members, file_of("hard", b"overwritten"), file_of("good"))


def with_name(path: Path, plain: bytes, name: bytes) -> Path:
    """A zip in which a name was replaced by one of the same length, which its maker would not write."""
    path.write_bytes(path.read_bytes().replace(plain, name))
    return path


def with_sum(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def negative_size(path: Path) -> Path:
    tar(path, file_of("good"), file_of("bad", b"x" * 600))
    content = bytearray(path.read_bytes())
    header = content[1024:1536]
    header[124:136] = b"\xff" * 10 + struct.pack(">h", -1024)
    content[1024:1536] = with_sum(header)
    path.write_bytes(content)
    return path


ATTACKS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "zip, upwards": (lambda to: zipped(to / "a.zip", ("../../victim", b"bad"), ("good", b"good")), "leads out"),
    "zip, upwards within": (lambda to: zipped(to / "a.zip", ("x/../../../victim", b"bad"), ("good", b"good")), "leads out"),
    "zip, absolute": (lambda to: zipped(to / "a.zip", (f"{to}/victim", b"bad"), ("good", b"good")), "absolute path"),
    "zip, link": (lambda to: zipped(to / "a.zip", zip_link("l", f"{to}"), ("l/victim", b"bad"), ("good", b"good")), "l: a link or device"),
    "zip, NUL": (
        lambda to: with_name(zipped(to / "a.zip", ("badXname", b"bad"), ("good", b"good")), b"badXname", b"bad\0name"),
        "characters",
    ),
    "zip, newline": (lambda to: zipped(to / "a.zip", ("a\nb", b"bad"), ("good", b"good")), r"a\\nb.*characters"),
    "zip, backslashes": (lambda to: zipped(to / "a.zip", ("..\\..\\victim", b"bad"), ("good", b"good")), "characters"),
    "zip, drive": (lambda to: zipped(to / "a.zip", ("C:victim", b"bad"), ("good", b"good")), "absolute path"),
    "zip, long part": (lambda to: zipped(to / "a.zip", ("n" * 300, b"bad"), ("good", b"good")), "too long"),
    "zip, deep": (lambda to: zipped(to / "a.zip", ("d/" * 500 + "x", b"bad"), ("good", b"good")), "too long"),
    "zip, file for a folder": (lambda to: zipped(to / "a.zip", ("good", b"good"), ("good/x", b"bad")), "where its folder should be"),
    "zip, folder for a file": (
        lambda to: zipped(to / "a.zip", ("a/b", b"1"), ("a", b"bad"), ("good", b"good")),
        "a folder stands in its place",
    ),
    "zip, bad checksum": (
        lambda to: with_name(zipped(to / "a.zip", ("x", b"AAAAAA"), ("good", b"good")), b"AAAAAA", b"AAABAA"),
        "at x .*CRC",
    ),
    "zip, upwards and damaged": (
        lambda to: with_name(zipped(to / "a.zip", ("../../victim", b"AAAAAA"), ("good", b"good")), b"AAAAAA", b"AAABAA"),
        "leads out",
    ),
    "zip, absolute and damaged": (
        lambda to: with_name(zipped(to / "a.zip", (f"{to}/victim", b"AAAAAA"), ("good", b"good")), b"AAAAAA", b"AAABAA"),
        "absolute path",
    ),
    "tar, upwards": (lambda to: tar(to / "a.tar", file_of("../../victim"), file_of("good")), "leads out"),
    "tar, absolute": (lambda to: tar(to / "a.tar", file_of(f"{to}/victim"), file_of("good")), "absolute path"),
    "tar, through a link": (
        lambda to: tar(to / "a.tar", link_of("l", "../.."), file_of("l/victim"), file_of("good")),
        "l: a link or device",
    ),
    "tar, through an inner link": (
        lambda to: tar(to / "a.tar", file_of("d/good2"), link_of("l", "d"), file_of("l/x"), file_of("good")),
        "l: a link or device",
    ),
    "tar, hard link": (
        lambda to: tar(to / "a.tar", link_of("v", "../../victim", tarfile.LNKTYPE), file_of("v", b"bad"), file_of("good")),
        "v: a link or device",
    ),
    "tar, long path": (long_path_escape, "link or device|too long"),
    "tar, fifo": (lambda to: tar(to / "a.tar", of_kind("f", tarfile.FIFOTYPE), file_of("good")), "f: a link or device"),
    "tar, device": (lambda to: tar(to / "a.tar", of_kind("f", tarfile.CHRTYPE), file_of("good")), "f: a link or device"),
    "tar, twice": (lambda to: tar(to / "a.tar", file_of("good"), file_of("./good", b"bad")), "stands there twice"),
    "tar, negative size": (lambda to: negative_size(to / "a.tar"), "MB|negative"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_unsafe_is_refused_by_name_and_the_rest_is_unpacked(attack: str, place: Path) -> None:
    make, message = ATTACKS[attack]
    archive = make(place)
    before = set(place.rglob("*"))
    folder = place / "out/unpacked" / archive.name
    wrong = unpack(archive, folder)
    assert wrong is not None
    assert re.search(message, wrong), wrong
    assert "\n" not in wrong
    assert (place / "victim").read_bytes() == VICTIM
    assert {path for path in place.rglob("*") if folder not in path.parents} == before | {folder, folder.with_name(f"{archive.name}.json")}
    assert (folder / "good").read_bytes() == b"good"
    assert all(path.is_dir() or (path.is_file() and not path.is_symlink()) for path in folder.rglob("*"))
    assert unpack(archive, folder) == wrong


def test_a_link_that_stood_in_the_folder_is_not_followed(place: Path) -> None:
    folder = place / "out/unpacked/a.tar"
    folder.mkdir()
    (folder / "d").symlink_to(place)
    (folder / "f").symlink_to(place / "victim")
    wrong = unpack(tar(place / "a.tar", file_of("d/victim"), file_of("f"), file_of("good")), folder)
    assert wrong is not None
    assert "d/victim: a file or link stands where its folder should be" in wrong
    assert (place / "victim").read_bytes() == VICTIM
    assert (folder / "f").read_bytes() == b"good"
    assert not (folder / "f").is_symlink()


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz", "tar.bz2"])
def test_an_archive_that_grows_without_measure_is_stopped(kind: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("track2view.curate.archives.LEAST_LIMIT", 1 << 20)
    archive, content = place / f"a.{kind}", bytes(5_000_000)
    if kind == "zip":
        zipped(archive, ("good", b"good"), ("bomb", content), packing=zipfile.ZIP_DEFLATED)
    else:
        mode = f"w:{kind.removeprefix('tar.')}"
        with tarfile.open(archive, mode, **({"preset": 0} if kind == "tar.xz" else {"compresslevel": 1})) as packed:
            packed.addfile(file_of("good")[0], io.BytesIO(b"good"))
            packed.addfile(file_of("bomb", content)[0], io.BytesIO(content))
    folder = place / "out/unpacked/a"
    wrong = unpack(archive, folder)
    assert wrong is not None
    assert re.search("would grow to more than [12] MB", wrong), wrong
    assert {path.name for path in folder.iterdir()} == {"good"}


def test_a_bomb_of_members_is_stopped(place: Path) -> None:
    archive = place / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        for number in range(15_000):
            packed.addfile(tarfile.TarInfo(f"{number}"))
    wrong = unpack(archive, place / "out/unpacked/a")
    assert wrong is not None
    assert "too many" in wrong


def test_a_full_disk_is_no_fault_of_the_archive(place: Path) -> None:
    archive = zipped(place / "a.zip", ("good", b"x" * 50_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match=r".*") as caught:
            unpack(archive, place / "out/unpacked/a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert unpack(archive, place / "out/unpacked/a") is None
    assert [path.name for path in (place / "out/unpacked").iterdir() if path.name.startswith(".")] == []


def test_what_a_killed_run_left_is_overwritten(place: Path) -> None:
    folder = place / "out/unpacked/a.zip"
    folder.mkdir()
    (folder / "x").write_bytes(b"of the run before")
    (folder.parent / ".a.zip.partial").symlink_to(place / "victim")
    assert unpack(zipped(place / "a.zip", ("x", b"1")), folder) is None
    assert (folder / "x").read_bytes() == b"1"
    assert (place / "victim").read_bytes() == VICTIM


def mutated(content: bytes, chance: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 8])):
        at = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                data[at] = chance.choice([0, 0xFF, 0x2F, 0x2E, chance.randrange(256)])
            case 1:
                data[at : at + 8] = chance.choice([b"\xff" * 8, bytes(8), b"../../vi", struct.pack("<q", 1 << 40)])
            case 2:
                del data[at : at + chance.randrange(1, 600)]
            case _:
                data = data[: max(at, 1)]
        data = data or bytearray(b"\0")
    return bytes(data)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz", "tar.bz2"])
def test_damaged_archives_are_named_or_unpacked(kind: str, place: Path) -> None:
    whole = place / f"whole.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(whole, "w") as packed:
            for number, packing in enumerate([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]):
                packed.writestr(f"d/{number}", b"content" * 40, packing)
    else:
        with tarfile.open(whole, f"w:{kind.partition('.')[2]}") as packed:
            for number in range(4):
                member, filling = file_of(f"d/{number}" * 30, b"content" * 40)
                packed.addfile(member, io.BytesIO(filling))
    content, chance = whole.read_bytes(), random.Random(0)
    outside = set(place.rglob("*"))
    for number in range(int(os.environ.get("TRACK2VIEW_MUTATIONS", "60"))):
        archive = place / "out" / f"{number}.{kind}"
        archive.write_bytes(mutated(content, chance))
        wrong = unpack(archive, place / "out/unpacked" / archive.name)
        assert wrong is None or "\n" not in wrong
    assert {path for path in place.rglob("*") if place / "out" not in path.parents} == outside - {place / "out/unpacked"}
    assert (place / "victim").read_bytes() == VICTIM
