"""Verdicts by content: the same answer to the same tests by the same grader is graded once."""

import contextlib
import json
import logging
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from leyden.evals.verdict import Verdict
from leyden.files import cache_home
from leyden.provenance.identity import fingerprint

BATCH = 500  # keys per question to the database


class VerdictCache:
    """A small database in the user's cache folder; one that cannot be used only costs time."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_home() / "verdicts.sqlite"
        self.connection: sqlite3.Connection | None = None
        with self._forgiven():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(self.path, timeout=10, isolation_level=None)
            self.connection.execute("PRAGMA synchronous = OFF")
            self.connection.execute(
                "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT) "
                "WITHOUT ROWID"
            )

    def find(self, keys: Iterable[str]) -> dict[str, Verdict]:
        """Those of ``keys`` that were graded before."""
        wanted, found = list(dict.fromkeys(keys)), {}
        with self._forgiven():
            for start in range(0, len(wanted) if self.connection else 0, BATCH):
                part = wanted[start : start + BATCH]
                marks = ", ".join("?" * len(part))
                question = f"SELECT key, verdict FROM verdicts WHERE key IN ({marks})"
                assert self.connection is not None
                for key, text in self.connection.execute(question, part):
                    found[key] = Verdict(**json.loads(text))
        return found

    def keep(self, key: str, verdict: Verdict) -> None:
        """Remember a verdict that will not change."""
        if verdict.lasting and self.connection is not None:
            with self._forgiven():
                self.connection.execute(
                    "INSERT OR REPLACE INTO verdicts VALUES (?, ?)",
                    (key, json.dumps(asdict(verdict))),
                )

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()

    @contextlib.contextmanager
    def _forgiven(self):
        try:
            yield
        except (sqlite3.Error, OSError, TypeError, ValueError) as error:
            logging.getLogger(__name__).warning(
                "%s: no cache of verdicts: %s; everything is graded",
                self.path,
                error,
            )
            self.connection = None


def verdict_key(grader: str, question: str, completion: str) -> str:
    """``grader`` says what decides: its code, versions and limits; ``question`` the tests."""
    return fingerprint([grader, question, completion])
