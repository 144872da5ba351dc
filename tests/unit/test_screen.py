"""The output where there is no terminal."""

from leyden.cli import screen


def test_a_log_file_gets_a_line_a_tenth_and_not_more_than_one_in_ten_seconds(monkeypatch, capsys):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(screen.time, "monotonic", lambda: next(clock))
    advance = screen.tenths("teach", 100, "rows")
    for _ in range(100):
        advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10 and lines[-1].startswith("teach") and "100/100 rows" in lines[-1]
