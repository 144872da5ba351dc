"""Leases on units, so that workers who fill one store do not do the same unit twice.

A lease is a file beside the commits. Correctness never rests on it: the first commit of a unit
wins, and a worker that made it a second time has only wasted its time. A lease whose owner has
ended, or has not touched it for a while by the clock of the file server, is taken over.
"""

import contextlib
import json
import os
import platform
import threading
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from leyden.errors import StoreError
from leyden.files import disk_errors, read_object, whole_files
from leyden.store.plan import Unit, is_unit_name
from leyden.store.unit import COMMITS, commit_path

LEASES = "leases"
TOUCH_SECONDS = 10.0
STALE_SECONDS = 90.0  # nobody touches a lease for so long who still works on it


@dataclass
class Hand:
    """One worker on one store, and the units that it holds. Use it as a context."""

    folder: Path
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    held: set[str] = field(default_factory=set)

    def __enter__(self) -> "Hand":
        self._over = threading.Event()
        self._toucher = threading.Thread(target=self._touch_all, daemon=True)
        self._toucher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._toucher.join()
        for unit in list(self.held):
            self.release(unit)

    def take(self, unit: Unit) -> bool:
        """Whether the unit is ours to do: it has no commit, and nobody else works on it."""
        path = self._lease(unit.name)
        if commit_path(self.folder, unit.name).exists():
            return False
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not self._create(path) and not (self._is_stale(path) and self._take_over(path)):
                return False
        self.held.add(unit.name)
        # Its holder may have committed it and gone between our two looks.
        if commit_path(self.folder, unit.name).exists():
            self.release(unit.name)
            return False
        return True

    def release(self, unit: str) -> None:
        """Give a unit back, or forget it once it is committed."""
        self.held.discard(unit)
        with contextlib.suppress(OSError):
            if self._owner(self._lease(unit)).get("hand") == self.name:
                self._lease(unit).unlink()

    def _lease(self, unit: str) -> Path:
        return self.folder / LEASES / f"{unit}.json"

    def _create(self, path: Path) -> bool:
        content = json.dumps({"hand": self.name, **here(), "pid": os.getpid()}).encode()
        try:
            number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return False
        with os.fdopen(number, "wb") as file:
            file.write(content)
        return True

    def _take_over(self, path: Path) -> bool:
        """Of several workers that see a stale lease, one can move it away."""
        aside = path.with_name(f".{self.name}-{path.name}")
        try:
            path.rename(aside)
            aside.unlink(missing_ok=True)
        except OSError:  # another was faster, or it is no file of ours
            return False
        return self._create(path)

    def _is_stale(self, path: Path) -> bool:
        owner = self._owner(path)
        if owner.get("place") == here()["place"] and not _is_alive(owner["pid"]):
            return True
        try:
            # A clock that was set back must not make a lease eternal.
            return abs(self._now() - path.stat().st_mtime) > STALE_SECONDS
        except FileNotFoundError:
            return True

    def _now(self) -> float:
        """The time by the clock of the file server, which is that of the leases."""
        probe = self.folder / LEASES / f".{self.name}"
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    @staticmethod
    def _owner(path: Path) -> dict[str, Any]:
        """The owner that the lease names; nothing while it is being written, or when it is gone."""
        try:
            return read_object(path, "hand", "place", "pid")
        except StoreError:
            return {}

    def _touch_all(self) -> None:
        while not self._over.wait(TOUCH_SECONDS):
            for unit in list(self.held):
                with contextlib.suppress(OSError):
                    if self._owner(self._lease(unit)).get("hand") == self.name:
                        os.utime(self._lease(unit))


def forget_leases(folder: Path) -> None:
    """Remove all leases of a store whose units are all committed. Other files stay."""
    home = folder / LEASES
    for path in list(home.glob("*")):
        if is_unit_name(path.stem) or path.name.startswith("."):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        home.rmdir()


def committed_names(folder: Path) -> set[str]:
    """Names of the units that have a commit."""
    return {path.stem for path in whole_files(folder / COMMITS, "*.json")}


@cache
def here() -> dict[str, str]:
    """This machine, as long as it runs, and what process ids mean in it."""
    boot, space = "/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"
    try:
        place = f"{Path(boot).read_text().strip()} {os.readlink(space)}"
    except OSError:  # not Linux
        place = f"{platform.node()} {uuid.getnode()}"
    return {"host": platform.node(), "place": place}


def are_held(folder: Path) -> bool:
    """Whether somebody works on units of the stores in ``folder`` and below at this moment."""
    leases = [p for p in folder.glob(f"**/{LEASES}/*.json") if is_unit_name(p.stem)]
    return any(not Hand(path.parent.parent)._is_stale(path) for path in leases)


def _is_alive(pid: Any) -> bool:
    """Whether a process has this id. What is no process id may be one of another system."""
    if type(pid) is not int or not 0 < pid < 2**31:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _state(pid) != "Z"


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def taken_by(hand: Hand, units: Iterable[Unit]) -> Iterator[Unit]:
    """The units, in order, that ``hand`` gets a lease on, each when it is asked for."""
    for unit in units:
        if hand.take(unit):
            yield unit
