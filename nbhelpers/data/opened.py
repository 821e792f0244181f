"""Files opened as text, compressed or not, whatever their names say."""

import gzip
from pathlib import Path


def magic(path: Path) -> bytes:
    """The first four bytes of a file, which tell an archive."""
    with open(path, "rb") as file:
        return file.read(4)


def opener(path: Path):
    """What opens the file: gzip's `open` where it is compressed, whatever its name, else the built-in one."""
    return gzip.open if magic(path)[:2] == b"\x1f\x8b" else open


def text(path: Path, newline: str | None = None):
    """The file opened as text: UTF-16 where it begins with its mark, as Excel's Unicode text does, else UTF-8."""
    with opener(path)(path, "rb") as file:
        marked = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
    return opener(path)(path, "rt", encoding="utf-16" if marked else "utf-8-sig", newline=newline)
