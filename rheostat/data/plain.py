"""Files of plain text, packed or not and of any size: their encoding, their lines, and pieces of them."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rheostat.errors import DataError

BLOCK_BYTES = 2**20
HEAD_BYTES = 2**16
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class PlainText:
    """A file of plain text, as `examine` found it: all of it can be read. Every line ends in "\\n" here, whatever
    it ends in there."""

    path: Path
    encoding: str
    characters: int
    digest: bytes  # SHA-256 of what it holds, unpacked

    @property
    def notes(self) -> tuple[str, ...]:
        return (f"{self.path.name}: it is not UTF-8, so it was read as Latin-1.",) * (self.encoding == "latin-1")

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """The characters from `start` to `stop`, in pieces of about a million. A piece ends before a space or the
        end of a line, never within a word, unless a word is longer than a piece."""
        stop = self.characters if stop is None else stop
        at = 0
        for piece in _cut(_decoded(self.path, self.encoding)):
            if at >= stop:
                return
            if part := piece[max(start - at, 0) : stop - at]:
                yield part
            at += len(piece)

    def text(self) -> str:
        """All of it at once."""
        return "".join(self.pieces())

    def lines(self) -> list[str]:
        """All of its lines at once, without their ends, and with no empty one after the last end."""
        lines = self.text().split("\n")
        return lines[:-1] if lines[-1] == "" else lines


def examine(path: Path) -> PlainText:
    """Reads a file once, a block at a time: UTF-8, or else Latin-1; packed by gzip where its name ends in .gz.

    Raises DataError for what cannot be read or is not plain text.
    """
    for encoding in ("utf-8-sig", "latin-1"):
        digest = hashlib.sha256()
        try:
            characters = sum(map(len, _decoded(path, encoding, digest.update)))
        except UnicodeDecodeError:
            continue
        return PlainText(path, encoding, characters, digest.digest())
    raise AssertionError("any bytes are Latin-1")


def blocks(path: Path, size_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """The bytes of a file, unpacked. Raises DataError where they cannot be read, or are not those of a text."""
    first = True
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
            while block := file.read(size_bytes):
                if b"\0" in block or (first and block.startswith(UTF16)):
                    raise DataError(
                        f"{path.name} is not plain text: it holds zero bytes, or is UTF-16. Save it as UTF-8 first."
                    )
                first = False
                yield block
    except (gzip.BadGzipFile, EOFError, zlib.error) as cause:
        raise DataError(f"{path.name} cannot be unpacked: {cause}. Is it a whole gzip file?") from None
    except OSError as cause:
        raise DataError(f"{path} cannot be read: {cause.strerror or cause}.") from None


def first_lines(path: Path) -> list[str]:
    """The whole lines in the first 64 KiB of a file, for a look; none where it is not plain text."""
    try:
        head = next(blocks(path, HEAD_BYTES), b"")
    except DataError:
        return []
    lines = io.StringIO(head.decode("utf-8-sig", "replace"), newline=None).read().split("\n")
    return lines[:-1] if len(head) == HEAD_BYTES and len(lines) > 1 else lines


def fingerprint(digests: Sequence[bytes]) -> str:
    """12 hexadecimal digits of several files."""
    return hashlib.sha256(b"".join(digests)).hexdigest()[:12]


def plain_stem(path: Path) -> str:
    """The name of a file without .gz, and without the suffix before it."""
    return Path(path.name.removesuffix(".gz")).stem


def plain_suffix(path: Path) -> str:
    """The last suffix of a name in lower case, without .gz: `.txt` of `corpus.TXT.gz`."""
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def _decoded(path: Path, encoding: str, watch: Callable[[bytes], object] | None = None) -> Iterator[str]:
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(), translate=True)
    for block in blocks(path):
        if watch is not None:
            watch(block)
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def _cut(blocks: Iterator[str]) -> Iterator[str]:
    """The same text, cut before the last space or end of a line in each block."""
    rest = ""
    for block in blocks:
        text = rest + block
        end = max(map(text.rfind, " \n\t"))
        if end <= 0:  # one word as long as the block
            end = len(text)
        rest = text[end:]
        if end:
            yield text[:end]
    if rest:
        yield rest
