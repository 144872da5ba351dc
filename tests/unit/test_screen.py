"""The output where there is no terminal."""

import subprocess
import sys

from leyden.cli import screen, visible
from leyden.evals.overlap import Overlap, SourceOverlap
from leyden.monitor.show import ShownRow, ShownToken
from leyden.monitor.status import RunStatus


def test_a_log_file_gets_a_line_a_tenth_and_not_more_than_one_in_ten_seconds(monkeypatch, capsys):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(screen.time, "monotonic", lambda: next(clock))
    advance = screen.tenths("teach", 100, "rows")
    for _ in range(100):
        advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10 and lines[-1].startswith("teach") and "100/100 rows" in lines[-1]


def test_a_run_without_benchmarks_says_so_and_shows_no_empty_table(capsys):
    status = RunStatus("mine", [], [], {"teacher": {}, "base": {}}, {}, {}, {}, {}, "verified")
    screen.print_status(status)
    shown = capsys.readouterr().out
    assert "no accuracies: the recipe names no benchmarks" in shown and "95%" not in shown


EVIL = "\x1b]0;owned\x07\x1b[2J\u202e"


def test_nothing_that_a_terminal_obeys_reaches_it(capsys):
    """Prompts, file names and completions come from anywhere."""
    token = ShownToken(EVIL, 3, -1.0)
    screen.print_row(ShownRow(f"p{EVIL}", 0, "stop", EVIL, EVIL, [token]))
    screen.print_line(f"a{EVIL}b")
    overlap = Overlap("id" + EVIL, "problem", "exact", EVIL)
    screen.print_overlaps([SourceOverlap("b", f"file{EVIL}", 3, 1, 0, [overlap])])
    screen.print_error(EVIL, EVIL)
    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert not visible.OBEYED.search(text)
    assert "a\\x1b]0;owned\\x07\\x1b[2J\\u202eb" in text


def test_warnings_are_shown_as_visibly(tmp_path, capfd):
    source = (
        "import logging, sys\n"
        "from leyden.cli import main\n"
        "warn = logging.getLogger('x').warning\n"
        "main.COMMANDS['config'].run = lambda self, fields: warn('a\\x1b[2Jb')\n"
        "sys.exit(main.run(['config']))\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "a\\x1b[2Jb" in done.stderr and "\x1b" not in done.stderr
