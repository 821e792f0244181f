"""Files: where the repository and the cache are, texts and JSON written in one step, and hashes."""

import dataclasses
import hashlib
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbhelpers


def cache_folder() -> Path:
    """`NBHELPERS_CACHE`, else `nbhelpers` in the user's cache folder. Set it to a volume that outlives the machine."""
    base = os.environ.get("NBHELPERS_CACHE")
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "nbhelpers")
    return Path(base).expanduser() if base else default


def repository_root() -> Path:
    """The folder that holds `notebooks/` and `nbhelpers/`; the working folder where the package stands alone."""
    root = Path(nbhelpers.__file__).resolve().parent.parent
    return root if (root / "notebooks").is_dir() else Path.cwd()


@contextmanager
def replaced(path: str | Path):
    """A text file (UTF-8) that takes its place under `path` when the block ends well; else nothing is left of it.

    A reader sees the old file or the whole new one, never a part. Missing folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Any:
    """The content of a JSON file; None while it is missing, cannot be read or is only partly written."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write JSON in one step (`replaced`). NaN and infinity raise."""
    text = json.dumps(content, indent=indent, allow_nan=False, default=_plain) + "\n"
    with replaced(path) as file:
        file.write(text)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "item"):  # a numpy or torch scalar
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be written as JSON.")


def sha256_of(path: Path) -> str:
    """The sha256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
