"""Mutations inside containers: what is packed changes while lengths and checksums are made right again, and the reverse."""

import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from random import Random

import pyarrow
import pyarrow.parquet

from fuzzing.blind import Mutation, integer, mutate_blindly
from fuzzing.documents import mutate_json, mutate_value

ESCAPE = f"/tmp/track2view-fuzz-escape-{os.environ.get('PYTEST_XDIST_WORKER', 'one')}"
"""An absolute name that archives ask for; nothing may ever be there. Each of several test processes has its own."""
CANARY = "../../../canary.txt"
"""A file that must outlive them, as seen from where they are unpacked."""
NAMES = (
    ESCAPE,
    "../escape",
    "../../escape",
    "a/../../../escape",
    "..\\..\\escape",
    "C:\\escape",
    "/",
    ".",
    "..",
    "",
    "a\nb",
    "a\0b",
    "n" * 300,
    "n/" * 2000,
    "\udcff",
    "set/scene1/videos/cam01.mp4/inside",
    CANARY,
)


def mutate_zip(data: bytes, rng: Random, inner: Mutation = mutate_blindly) -> bytes:
    """Change one member's content, name, length or packing, and write the archive again with right checksums."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(member.filename, archive.read(member)) for member in archive.infolist()]
    at = rng.randrange(len(members))
    name, content = members[at]
    kind = rng.randrange(10)
    if kind <= 5:
        members[at] = (name, inner(content, rng))
    elif kind == 6:
        members[at] = (rng.choice((*NAMES, *(other for other, _ in members), name + "x")), content)
    elif kind == 7:
        del members[at]
    elif kind == 8:
        members.append((name, rng.choice(members)[1]))
    else:
        members[at] = (name, content * 100)
    return _zipped(members, rng)


def _zipped(members: list[tuple[str, bytes]], rng: Random) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as out:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in members:
            member = zipfile.ZipInfo(name.encode(errors="replace").decode())
            if rng.random() < 0.1:
                member.external_attr = rng.choice((0o120777, 0o010644, 0o020666, 0o040755, 0o100000)) << 16
            out.writestr(member, content, compress_type=rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    return buffer.getvalue()


def mutate_tar(data: bytes, rng: Random) -> bytes:
    """Change one member's name, kind, target, length or rights, or the bytes of an archive that is packed again."""
    unpack, pack = next(((unpack, pack) for magic, unpack, pack in PACKINGS if data.startswith(magic)), (bytes, bytes))
    plain = unpack(data)
    return pack(mutate_blindly(plain, rng) if rng.random() < 0.3 else _mutate_members(plain, rng))


PACKINGS: tuple[tuple[bytes, Callable[[bytes], bytes], Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", gzip.decompress, lambda plain: gzip.compress(plain, 1, mtime=0)),
    (b"\xfd7zXZ", lzma.decompress, lambda plain: lzma.compress(plain, preset=0)),
    (b"BZh", bz2.decompress, lambda plain: bz2.compress(plain, 1)),
)
KINDS = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.CONTTYPE, b"?")


def _mutate_members(plain: bytes, rng: Random) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        members = [(member, b"" if (file := archive.extractfile(member)) is None else file.read()) for member in archive]
    at = rng.randrange(len(members))
    member, content = members[at]
    kind = rng.randrange(7)
    if kind == 0:
        member.name = rng.choice(NAMES)
    elif kind == 1:
        member.type, member.linkname = rng.choice(KINDS), rng.choice((CANARY, ESCAPE, member.name, "..", "/", "set"))
    elif kind == 2:
        member.mode, member.uid, member.mtime = rng.choice((0, 0o7777, 0o200)), rng.choice((0, 2**31)), rng.choice((-1, 2**40, 1e300))
    elif kind == 3:  # a link, and then what goes through it
        link = tarfile.TarInfo(member.name)
        link.type, link.linkname = tarfile.SYMTYPE, rng.choice((CANARY, "../../..", ESCAPE, ".."))
        members[at:at] = [(link, b"")]
    elif kind == 4:
        members.append((member, rng.choice(members)[1]))
    elif kind == 5:
        member.pax_headers = {
            rng.choice(("size", "path", "mtime", "GNU.sparse.size", "GNU.sparse.map")): rng.choice(("-1", "x", "9" * 30, "1e999"))
        }
    else:
        content = mutate_blindly(content, rng)
        members[at] = (member, content)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))) as out:
        for each, held in members:
            each.size = len(held)
            out.addfile(each, io.BytesIO(held))
    return buffer.getvalue()


def mutate_npz(data: bytes, rng: Random) -> bytes:
    """As :func:`mutate_zip`, members as arrays."""
    return mutate_zip(data, rng, inner=mutate_npy)


def mutate_npy(data: bytes, rng: Random) -> bytes:
    """Change what an array's header says, or what the array holds."""
    if not data.startswith(b"\x93NUMPY") or rng.random() < 0.15:
        return mutate_blindly(data, rng)
    (length,) = struct.unpack("<H", data[8:10])
    header, content = data[10 : 10 + length].decode("latin1").rstrip(), data[10 + length :]
    kind = rng.randrange(4)
    if kind == 0:
        return _npy(_other_header(header, rng), content, rng)
    if kind == 1:
        return _npy(header, mutate_blindly(content, rng), rng)
    width = {"<f4": 4, "<f8": 8, "<i8": 8}.get(header.split("'descr': '")[-1][:3], 1)
    if kind == 2:  # one value of the array's own kind
        values = {4: struct.pack("<f", _breaking(rng)), 8: rng.choice((struct.pack("<d", _breaking(rng)), integer(rng, 8, "little")))}
        start = width * rng.randrange(max(1, len(content) // width))
        value = values.get(width, bytes([rng.choice((2, 128, 255))]))
        return _npy(header, content[:start] + value + content[start + width :], rng)
    kinds = ("f2", "f4", "f8", "i1", "i4", "i8", "u8", "c8", "b1", "U3", "S4", "M8[s]")
    descr, shape = (
        rng.choice(kinds),
        rng.choice(((), (0,), (1,), (6,), (6, 4), (6, 3, 3), (6, 4, 4), (0, 4, 4), (1, 4, 4), (6, 5), (6, 5, 3))),
    )
    count = 1
    for side in shape:
        count *= side
    size = {"U3": 12, "M8[s]": 8}.get(descr) or int(descr[1:])
    order = rng.choice("<>") if size > 1 else "|"
    fill = rng.choice((bytes(size), b"\1" * size, b"\xff" * size, b"\x3f" * size))
    return _npy(f"{{'descr': '{order}{descr}', 'fortran_order': {rng.random() < 0.3}, 'shape': {shape}, }}", fill * count, rng)


def _breaking(rng: Random) -> float:
    return rng.choice((float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e-30, 1e30))


def _other_header(header: str, rng: Random) -> str:
    shape = header.rsplit("'shape': ", maxsplit=1)[-1].rstrip(", }")
    descr = header.rsplit("'descr': ", maxsplit=1)[-1].split(", 'fortran", maxsplit=1)[0]
    shapes = (
        "()",
        "(0,)",
        "(-1,)",
        "(2305843009213693952,)",
        "(4294967296, 4294967296)",
        "(100000000,)",
        "(0, 2305843009213693952)",
        "None",
    )
    kinds = (
        "'|O'",
        "'<f4'",
        "'>f8'",
        "'<i8'",
        "'|V0'",
        "'<U0'",
        "'<U1000000000'",
        "[('a', '<f4'), ('b', 'O')]",
        "'x'",
        "('<f4', (1000000,))",
    )
    return rng.choice(
        (
            header.replace(shape, rng.choice(shapes)),
            header.replace(descr, rng.choice(kinds)),
            header.replace("False", rng.choice(("True", "None", "2"))),
            header.replace("'shape'", "'form'"),
            header + rng.choice((" ", "(" * 3000, "+ 1", "\n", "{" * 500)),
            "(" * 5000 + ")" * 5000,
            "-" * 9000 + "1",
        )
    )


def _npy(header: str, content: bytes, rng: Random) -> bytes:
    text = header.encode("latin1", errors="replace") + b" " * (-(len(header) + 11) % 64) + b"\n"
    length = len(text) if rng.random() < 0.97 else rng.choice((0, 1, 65535))
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", min(length, 65535)) + text[:65535] + content


def mutate_safetensors(data: bytes, rng: Random) -> bytes:
    """Change the table of contents, its length set right, or tensors."""
    (length,) = struct.unpack("<Q", data[:8])
    header, content = data[8 : 8 + length], data[8 + length :]
    kind = rng.randrange(10)
    if kind == 0:
        return integer(rng, 8, "little") + data[8:]
    if kind == 1:
        return data[: 8 + length] + mutate_blindly(content, rng)
    changed = mutate_json(header, rng)
    return struct.pack("<Q", len(changed)) + changed + content


def mutate_png(data: bytes, rng: Random) -> bytes:
    """Change one chunk and set its checksum right."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    chosen = rng.randrange(len(chunks))
    name, content = chunks[chosen]
    if name == b"IHDR":
        place = rng.choice((0, 4, 8))
        width = 4 if place < 8 else 1
        chunks[chosen] = (name, content[:place] + integer(rng, width, "big") + content[place + width :])
    elif rng.random() < 0.5 and name == b"IDAT":
        chunks[chosen] = (name, zlib.compress(mutate_blindly(zlib.decompress(content), rng)))
    else:
        chunks[chosen] = (rng.choice((name, b"IDAT", b"PLTE", b"tRNS", b"eXIf", b"acTL", b"iCCP")), mutate_blindly(content, rng))
    return data[:8] + b"".join(
        struct.pack(">I", len(held)) + kind + held + struct.pack(">I", zlib.crc32(kind + held)) for kind, held in chunks
    )


def mutate_parquet(data: bytes, rng: Random) -> bytes:
    """Change the rows, and write them again where they are a table still."""
    rows = mutate_value(pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist(), rng)
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()
