"""What a disk can hold after a loss of power: a model of files, folders and syncs, fed from a recorded trace.

The model: what a file's last sync covered is there. Every later write may be there, be missing, or be there in
some of its sectors of 512 bytes; a missing sector holds what it held before, or, where the file had to grow,
zeros or rubbish. A name is in the folder for certain only after a sync of the folder, and gone for certain only
likewise. The memory that processes share through ``-shm`` is gone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR_BYTES = 512

RANDOM = ("subset", "torn", "rubbish")
VARIANTS = ("kept", "dropped", "unnamed", "named", *RANDOM)
"""What becomes of that which no sync has covered.

kept: all of it is there. dropped: none of it, names included. unnamed: contents are there, names not. named:
names are there, contents not. subset: a random part of the writes and names. torn: a random part of the sectors
and names. rubbish: the same, and the sectors lost where a file grew hold random bytes.
"""

_LINE = re.compile(r"^(?P<tid>\d+) +(?P<call>\w+)\((?P<rest>.*)$")
_RESUMED = re.compile(r"^(?P<tid>\d+) +<\.\.\. (?P<call>\w+) resumed>(?P<rest>.*)$")
_UNFINISHED = " <unfinished ...>"
_FD = re.compile(r"^(?P<fd>\d+)<(?P<path>[^>]*)>")
_TEXT = re.compile(r"\"(?P<text>(?:\\x[0-9a-f]{2})*)\"(?P<cut>\.\.\.)?")
_RESULT = re.compile(r"\) += (?P<value>-?\d+|\?)")
_SHARED_WRITABLE = re.compile(r"PROT_WRITE.*MAP_SHARED")


class Unmodelled(Exception):
    """The trace holds a call on the store's files that this model does not know."""


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes for a file."""

    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """A new length for a file."""

    file: int
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """Everything written to the file before entry ``covers`` of the recording is on the disk.

    Unless it failed: then the system holds those writes for done, and no later sync covers them.
    """

    file: int
    covers: int
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Name:
    """A name in the folder stands for a file from now on; None: it is gone."""

    name: str
    file: int | None


@dataclass(frozen=True, slots=True)
class SyncFolder:
    """All names of before entry ``covers`` are on the disk."""

    covers: int


@dataclass(frozen=True, slots=True)
class Line:
    """What the workload said."""

    text: str


Entry = Write | Truncate | Sync | Name | SyncFolder | Line


@dataclass
class Recording:
    """The entries of one trace, in order of completion, and what the folder held before.

    Args:
        folder: where the store's file is.
        before: contents of its files at the start, all on the disk.

    Attributes:
        entries: the trace, understood.
        folder_syncs_failed: how many syncs of the folder did not succeed.
    """

    folder: Path
    before: dict[str, bytes]
    entries: list[Entry] = field(default_factory=list)
    folder_syncs_failed: int = 0
    _names: dict[str, int] = field(default_factory=dict)
    _files: int = 0

    def __post_init__(self) -> None:
        for name in sorted(self.before):
            self._names[name] = self._new()

    def read(self, log: str) -> None:
        """Take in what strace wrote (with ``-f -y -xx`` and strings uncut)."""
        waiting: dict[str, tuple[str, int]] = {}
        for line in log.splitlines():
            if match := _RESUMED.match(line):
                begun, covers = waiting.pop(match["tid"])
                self._call(match["call"], begun + match["rest"], covers)
            elif match := _LINE.match(line):
                if match["rest"].endswith(_UNFINISHED):
                    waiting[match["tid"]] = (match["rest"].removesuffix(_UNFINISHED), len(self.entries))
                else:
                    self._call(match["call"], match["rest"], len(self.entries))

    def _new(self) -> int:
        self._files += 1
        return self._files - 1

    def _call(self, call: str, rest: str, covers: int) -> None:
        result = _RESULT.search(rest)
        if result is None or result["value"] == "?":
            return
        failed = int(result["value"]) < 0
        if failed and call not in ("fsync", "fdatasync"):
            return
        fd = _FD.match(rest)
        path = _decode(fd["path"]).removesuffix(" (deleted)") if fd else ""
        if call == "writev" and fd and fd["fd"] == "1":
            self.entries.append(Line(_text(rest).decode().rstrip("\n")))
        elif call in ("fsync", "fdatasync") and path == str(self.folder):
            self.entries += [] if failed else [SyncFolder(covers)]
            self.folder_syncs_failed += failed
        elif call in ("openat", "unlink"):
            self._named(call, rest)
        elif call == "mmap":
            self._map(rest)
        elif (name := self._inside(path)) is not None:
            self._change(call, rest, self._names[name], int(result["value"]), covers)
        elif str(self.folder) in rest or _encode(str(self.folder)) in rest:
            raise Unmodelled(f"{call}({rest[:200]}")

    def _named(self, call: str, rest: str) -> None:
        name = self._inside(_text(rest).decode())
        if name is None:
            return
        if call == "unlink":
            del self._names[name]
            self.entries.append(Name(name, None))
        elif name not in self._names and "O_CREAT" in rest:
            self._names[name] = self._new()
            self.entries.append(Name(name, self._names[name]))
        elif "O_TRUNC" in rest:
            raise Unmodelled(f"{call}({rest[:200]}")

    def _map(self, rest: str) -> None:
        """Memory shared with a file changes it unseen: fine for ``-shm``, which counts as lost, else not."""
        for match in re.finditer(r"<(?P<path>(?:\\x[0-9a-f]{2})+)>", rest):
            name = self._inside(_decode(match["path"]))
            if name is not None and not name.endswith("-shm") and _SHARED_WRITABLE.search(rest):
                raise Unmodelled(f"mmap({rest[:200]}")

    def _change(self, call: str, rest: str, file: int, result: int, covers: int) -> None:
        if call == "pwrite64":
            data = _text(rest)
            offset = int(rest[: rest.rindex(") ")].rsplit(", ", 1)[1])
            self.entries.append(Write(file, offset, data[:result]))
        elif call == "ftruncate":
            self.entries.append(Truncate(file, int(rest[: rest.rindex(") ")].rsplit(", ", 1)[1])))
        elif call in ("fsync", "fdatasync"):
            self.entries.append(Sync(file, covers, failed=result < 0))
        else:
            raise Unmodelled(f"{call}({rest[:200]}")

    def _inside(self, path: str) -> str | None:
        """The name of a file of the store's folder."""
        parent, _, name = path.rpartition("/")
        return name if parent == str(self.folder) else None


def _text(rest: str) -> bytes:
    match = _TEXT.search(rest)
    if match is None or match["cut"]:
        raise Unmodelled(f"strace has cut a string short: {rest[:200]}")
    return bytes.fromhex(match["text"].replace("\\x", ""))


def _decode(text: str) -> str:
    """A path as ``-xx`` prints it, hex or plain, without the suffix for removed files."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), text)


def _encode(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


@dataclass(slots=True)
class Pending:
    """A change of a file, and what is known of it: ``certain`` on the disk, ``doubtful`` for good, or neither yet."""

    index: int
    change: Write | Truncate
    certain: bool = False
    doubtful: bool = False


class Disk:
    """The disk as of some entry of a recording, and all that it may hold should the power go now."""

    def __init__(self, recording: Recording) -> None:
        self._certain: dict[int, bytearray] = {}
        self._pending: dict[int, list[Pending]] = {}
        self._names: dict[str, int] = {}
        self._pending_names: list[tuple[int, Name]] = []
        for file, name in enumerate(sorted(recording.before)):
            self._certain[file] = bytearray(recording.before[name])
            self._names[name] = file

    def step(self, index: int, entry: Entry) -> None:
        """Take in one entry."""
        match entry:
            case Write() | Truncate():
                self._pending.setdefault(entry.file, []).append(Pending(index, entry))
            case Sync():
                self._sync(entry)
            case Name():
                self._pending_names.append((index, entry))
            case SyncFolder():
                for _, name in self._take_names(entry.covers):
                    _rename(self._names, name)
            case Line():
                pass

    def _sync(self, entry: Sync) -> None:
        content = self._certain.setdefault(entry.file, bytearray())
        pending = self._pending.get(entry.file, [])
        for each in pending:
            if each.index < entry.covers and not (each.certain or each.doubtful):
                each.certain, each.doubtful = not entry.failed, entry.failed
        while pending and pending[0].certain:
            _apply(content, pending.pop(0).change)

    def _take_names(self, covers: int) -> list[tuple[int, Name]]:
        done = [each for each in self._pending_names if each[0] < covers]
        self._pending_names = [each for each in self._pending_names if each[0] >= covers]
        return done

    def image(self, variant: str, rng: random.Random) -> dict[str, bytes]:
        """Names and contents that one loss of power may leave; ``-shm`` is never among them."""
        names = dict(self._names)
        for _, name in self._pending_names:
            if variant in ("kept", "named") or (variant in RANDOM and rng.random() < 0.5):
                _rename(names, name)
        return {
            name: self._content(file, variant, rng) for name, file in sorted(names.items()) if not name.endswith("-shm")
        }

    def _content(self, file: int, variant: str, rng: random.Random) -> bytes:
        content = bytearray(self._certain.get(file, b""))
        chosen: list[Write | Truncate] = []
        for each in self._pending.get(file, []):
            chosen += [each.change] if each.certain else _chosen(each.change, variant, rng)
        if variant == "rubbish":
            size = max((each.offset + len(each.data) for each in chosen if isinstance(each, Write)), default=0)
            content += rng.randbytes(max(0, size - len(content)))
        for change in chosen:
            _apply(content, change)
        return bytes(content)


def _chosen(change: Write | Truncate, variant: str, rng: random.Random) -> Iterator[Write | Truncate]:
    """The part of a change not yet certain that reached the disk."""
    if variant in ("kept", "unnamed"):
        yield change
    elif variant == "subset" or (variant in RANDOM and isinstance(change, Truncate)):
        if rng.random() < 0.5:
            yield change
    elif variant in RANDOM:
        yield from (sector for sector in _sectors(change) if rng.random() < 0.5)


def _sectors(write: Write) -> Iterator[Write]:
    """The write, cut at the disk's sectors."""
    start = write.offset
    end = write.offset + len(write.data)
    while start < end:
        stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        yield Write(write.file, start, write.data[start - write.offset : stop - write.offset])
        start = stop


def _apply(content: bytearray, change: Write | Truncate) -> None:
    size = change.size if isinstance(change, Truncate) else change.offset + len(change.data)
    if size > len(content):
        content.extend(bytes(size - len(content)))
    if isinstance(change, Truncate):
        del content[change.size :]
    else:
        content[change.offset : size] = change.data


def _rename(names: dict[str, int], name: Name) -> None:
    if name.file is None:
        names.pop(name.name, None)
    else:
        names[name.name] = name.file
