"""The output where there is no terminal."""

from leyden.cli import screen
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
