"""Write files wholly or not at all, and turn errors of the disk into sentences."""

import contextlib
import errno
import json
import math
import os
import re
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from leyden.errors import REDO, StoreError, first_line

TEMPORARY = ".tmp-"
TEMPORARY_FILE = re.compile(r"\.tmp-[0-9a-f]{12}-.+")  # the names that temporary_name makes


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a failed read or write under this block into a ``StoreError`` that names the file."""
    try:
        yield
    except SafetensorError as error:  # safetensors wraps the operating system's errors in its own
        raise StoreError(
            f"{path}: {error}", hint="check the space on the disk, then run the same command again"
        ) from error
    except OSError as error:
        hints = {
            errno.ENOSPC: "free some space and run the same command again; finished units are kept",
            errno.EDQUOT: "free some quota and run the same command again; finished units are kept",
            errno.EACCES: "choose a writable folder with --out, or change its permissions",
            errno.EPERM: "choose a writable folder with --out, or change its permissions",
            errno.EROFS: "the file system is read-only; choose another folder with --out",
        }
        reason = error.strerror or str(error)
        raise StoreError(
            f"{error.filename or path}: {reason}",
            hint=hints.get(error.errno or 0, "check the path and the disk, then run it again"),
        ) from error


def cache_home() -> Path:
    """The folder for results that could be computed again, such as hashes and verdicts."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "leyden"


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Write aside, fsync, rename, fsync the folder: readers see all of the old or the new."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path)
        try:
            write_synced(temporary, data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def create_once(path: Path, data: bytes) -> bool:
    """Like ``write_atomic``, but never over an existing file; False when it was already there."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path)
        try:
            write_synced(temporary, data)
            os.link(temporary, path)  # fails where the name exists; a rename would replace it
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
        return True


def temporary_name(path: Path) -> Path:
    """A new name beside ``path``, which readers skip and ``remove_temporaries`` removes."""
    return path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}-{path.name}")


def write_synced(path: Path, data: bytes | memoryview) -> None:
    """Write a file and wait until it is on the disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the folder's names durable, so that a rename survives a power cut."""
    if sys.platform == "win32":
        return  # a folder cannot be opened there; renames are journalled
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Delete files that a killed process left half-written."""
    with disk_errors(folder):
        for path in folder.glob(f"{TEMPORARY}*"):
            if TEMPORARY_FILE.fullmatch(path.name) and not path.is_dir():
                path.unlink(missing_ok=True)


def require_regular(path: Path) -> None:
    """Raise StoreError for a pipe or a device: reading it would wait for ever, or never end."""
    if path.exists() and not path.is_file():
        raise StoreError(f"{path}: is not a regular file", hint="restore the file from a copy")


def refuse_links(*places: Path) -> None:
    """Raise StoreError where one of ``places`` is a link: what it points to is not ours."""
    for place in places:
        if place.is_symlink():
            raise StoreError(
                f"{place}: is a link, and a store is made of files and folders of its own",
                hint="put the whole store there, or link the run's folder instead",
            )


def read_json(path: Path) -> Any:
    """Parse a JSON file; a missing or damaged one is a ``StoreError``."""
    require_regular(path)
    try:
        # Some configs hold Infinity, and 1e999 would become one; neither can be hashed as JSON
        return json.loads(path.read_bytes(), parse_constant=str, parse_float=_finite_or_text)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: missing", hint="run the stage that makes it") from error
    except (ValueError, RecursionError) as error:  # no JSON, or too deep or too many digits
        raise StoreError(
            f"{path}: damaged: {first_line(error)}", hint=f"restore the file, or {REDO}"
        ) from error
    except OSError as error:
        raise StoreError(
            f"{path}: {error.strerror}", hint="check the path and its permissions"
        ) from error


def _finite_or_text(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text


def read_object(path: Path, *keys: str) -> dict[str, Any]:
    """Read a JSON file that must be an object with ``keys``. Raises StoreError."""
    content = read_json(path)
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing or not isinstance(content, dict):
        what = f"it has no {missing[0]!r}" if missing else "it is not a JSON object"
        raise StoreError(f"{path}: damaged: {what}", hint=f"restore the file, or {REDO}")
    return content


def whole_files(folder: Path, pattern: str) -> list[Path]:
    """Files that match, without the temporary files of writers."""
    return sorted(p for p in folder.glob(pattern) if not p.name.startswith(TEMPORARY))


def sync_tree(folder: Path) -> None:
    """fsync every file of ``folder`` and the folder itself."""
    for path in folder.iterdir():
        with open(path, "rb+") as file:  # Windows syncs only what may be written
            os.fsync(file.fileno())
    sync_folder(folder)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_atomic(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """The bytes of every JSON file of a run: sorted and indented, the same every time."""
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"
