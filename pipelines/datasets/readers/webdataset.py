"""WebDataset tars: neighbouring members of one key are a sample, its JSON in any layout, its media beside it.

    000017.json  000017.jpg  000018.json  000018.cam0.jpg  000018.cam1.jpg  000019.json  000019.mp4

A plain tar is cut between samples by its headers alone; a compressed one is read from the beginning in one piece.
Members that are no files, or whose names lead elsewhere, are refused; nothing is ever unpacked to disk.
"""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from blm.pipelines.datasets.readers.json_files import MOST_RECORD_BYTES, Cut, parse
from blm.pipelines.datasets.readers.media_refs import PICTURE_SUFFIXES, VIDEO_SUFFIXES, basename
from blm.pipelines.datasets.readers.record import Fault, MediaRef, Record

MOST_MEMBER_BYTES = 512 * 2**20
"""A larger member is refused."""
MOST_SAMPLE_BYTES = 2 * MOST_MEMBER_BYTES
"""A sample of more is refused."""
MOST_SKIPPED_BYTES = 16 * 2**30
"""Bytes of refused members that are passed over in a compressed tar, where that means unpacking them."""
MOST_MEMBERS = 1000
"""Members of one sample."""

Member = tuple[str, bytes]
"""Name and content."""
_ERRORS = (tarfile.TarError, OSError, EOFError, ValueError)


def key_of(name: str) -> tuple[str, str]:
    """A member's key, and what follows it: `a/000.cam0.jpg` -> (`a/000`, `cam0.jpg`)."""
    folder, slash, file = name.rpartition("/")
    key, _, suffix = file.partition(".")
    return f"{folder}{slash}{key}", suffix.lower()


def cut_tar(path: Path, size: int) -> list[Cut]:
    """Pieces of about `size` bytes that end between samples: first byte, byte after the last, number of the first
    sample. One piece if the tar is compressed or damaged.
    """
    whole = [(0, path.stat().st_size, 1)]
    if path.stat().st_size <= size:
        return whole
    cuts: list[Cut] = []
    start, first, number, last_key = 0, 1, 0, None
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                _forget(tar)
                key = key_of(member.name)[0]
                if key == last_key or not member.isfile():
                    continue
                last_key = key
                number += 1
                if member.offset - start >= size:
                    cuts.append((start, member.offset, first))
                    start, first = member.offset, number
    except _ERRORS:
        return whole
    return [*cuts, (start, path.stat().st_size, first)]


def read_tar(path: Path, cut: Cut) -> Iterator[tuple[int, str, list[Member] | Fault]]:
    """The samples of a piece: number, key and members."""
    number, key, held = cut[2], "", 0
    members: list[Member] = []
    for name, data in _members(path, cut):
        this = key_of(name)[0]
        bad = isinstance(data, Fault)
        if members and (bad or this != key):
            yield number, key, members if held <= MOST_SAMPLE_BYTES else Fault("record_too_large", f"{held} bytes")
            number, members, held = number + 1, [], 0
        key = this
        if isinstance(data, Fault):
            yield number, name, data
            number += 1
            continue
        held += len(data)
        members.append((name, data if held <= MOST_SAMPLE_BYTES and len(members) < MOST_MEMBERS else b""))
    if members:
        yield number, key, members if held <= MOST_SAMPLE_BYTES else Fault("record_too_large", f"{held} bytes")


def _members(path: Path, cut: Cut) -> Iterator[tuple[str, bytes | Fault]]:
    """The files of a piece, one after the other; where the tar is damaged, a last fault."""
    start, stop, _ = cut
    compressed = _is_compressed(path)
    name, skipped = "", 0
    try:
        with path.open("rb") as file:
            file.seek(start)
            with tarfile.open(fileobj=file, mode="r|*" if compressed else "r:") as tar:
                for member in tar:
                    _forget(tar)
                    if not compressed and member.offset >= stop:
                        return
                    if member.isdir() or (member.isfile() and is_hidden(member.name)):
                        continue
                    name, fault = member.name, refuse(member)
                    yield name, fault or _content(tar, member)
                    skipped += member.size if fault else 0
                    if compressed and skipped > MOST_SKIPPED_BYTES:
                        raise tarfile.ReadError(f"{skipped} bytes to be passed over")
                if not compressed and tar.offset < stop:
                    file.seek(tar.offset)
                    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):  # which tarfile takes for the end
                        raise tarfile.ReadError("a broken header")
    except _ERRORS as error:
        yield name, Fault("archive_damaged", f"{error}; what follows {name or 'the beginning'} is lost")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = tar.extractfile(member)
    data = content.read() if content else b""
    if len(data) != member.size:
        raise tarfile.ReadError("it ends early")
    return data


def _forget(tar: Any) -> None:
    """A tar remembers every header that it has come by; a shard may have a million."""
    tar.members = []


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(6)
    return head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00"))


def is_hidden(name: str) -> bool:
    """Whether a member is what file managers leave behind."""
    return basename(name).startswith(".") or name.startswith("__MACOSX/")


def refuse(member: tarfile.TarInfo) -> Fault | None:
    """Why a member is not read, if it is not."""
    if not member.isfile() or member.issparse():
        return Fault("archive_damaged", f"{member.name} is a link or a device, not a file")
    if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts or "\0" in member.name:
        return Fault("media_outside_root", member.name)
    if member.size > MOST_MEMBER_BYTES:
        return Fault("record_too_large", f"{member.name} has {member.size} bytes")
    return None


def sample_of(members: Sequence[Member]) -> Any:
    """The JSON of a sample. Fault if there is none, or several."""
    texts = [data for name, data in members if key_of(name)[1].endswith("json")]
    if len(texts) != 1:
        names = ", ".join(basename(name) for name, _ in members[:8])
        raise Fault("no_messages", f"{len(texts)} JSON files in the sample of {names}")
    if len(texts[0]) > MOST_RECORD_BYTES:
        raise Fault("record_too_large", f"{len(texts[0])} bytes of JSON")
    return parse(texts[0])


def with_members(sample: Any, members: Sequence[Member]) -> Any:
    """A sample that names no media itself, with those that lie beside it."""
    if not isinstance(sample, dict):
        return sample
    added = dict(sample)
    if not any(sample.get(name) for name in ("image", "images", "image_path")):
        added["images"] = [data for name, data in members if name.lower().endswith(PICTURE_SUFFIXES)]
    if not any(sample.get(name) for name in ("video", "videos")):
        added["videos"] = [data for name, data in members if name.lower().endswith(VIDEO_SUFFIXES)]
    return added


def attach(record: Record, members: Sequence[Member]) -> Record:
    """A record whose paths name members of its own sample, with their bytes instead: by name, or, where names are
    those of another machine, in order.
    """
    pictures = [m for m in members if m[0].lower().endswith(PICTURE_SUFFIXES)]
    videos = [m for m in members if m[0].lower().endswith(VIDEO_SUFFIXES)]
    clips = tuple(replace(ref, frames=_matched_frames(ref.frames, pictures)) for ref in record.videos)
    return replace(record, images=_matched(record.images, pictures), videos=_matched(clips, videos))


def _matched(refs: Sequence[MediaRef], members: Sequence[Member]) -> tuple[MediaRef, ...]:
    """References with the members they name; files that go by no name here are taken in order, if they are as many."""
    found = [_member(ref, members) for ref in refs]
    strange = any(data is None and not ref.frames for data, ref in zip(found, refs, strict=True))
    if strange and len(members) == len(refs):
        found = [data for _, data in members]
    return tuple(ref if data is None else MediaRef(data=data) for ref, data in zip(refs, found, strict=True))


def _matched_frames(frames: Sequence[MediaRef], members: Sequence[Member]) -> tuple[MediaRef, ...]:
    found = [_member(frame, members) for frame in frames]
    return tuple(f if data is None else MediaRef(data=data) for f, data in zip(frames, found, strict=True))


def _member(ref: MediaRef, members: Sequence[Member]) -> bytes | None:
    """By file name, or by what follows the key in it."""
    names = {basename(path) for path in ref.paths}
    by_name = (data for name, data in members if basename(name) in names or key_of(name)[1] in names)
    return next(by_name, None) if ref.data is None else ref.data
