"""Keep verdicts by content: equal completions of equal problems are graded once."""

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
    """A small database in the user's cache folder. Without it, grading only takes longer."""

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
        """Key -> verdict, of those ``keys`` that were graded before."""
        asked, known = list(dict.fromkeys(keys)), {}
        with self._forgiven():
            for start in range(0, len(asked) if self.connection else 0, BATCH):
                part = asked[start : start + BATCH]
                marks = ", ".join("?" * len(part))
                question = f"SELECT key, verdict FROM verdicts WHERE key IN ({marks})"
                assert self.connection is not None
                for key, text in self.connection.execute(question, part):
                    known[key] = Verdict(**json.loads(text))
        return known

    def keep(self, key: str, verdict: Verdict) -> None:
        """Keep a verdict, unless a slow moment of this machine may have caused it."""
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
    """The key of a verdict. ``grader`` hashes code, versions and limits, ``question`` the tests."""
    return fingerprint([grader, question, completion])
