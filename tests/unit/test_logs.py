from __future__ import annotations

from pathlib import Path

from nemo_prefect.logs import MAX_LINE, LogFiles, clean, tail


def texts(files: LogFiles, final: bool = False) -> list[str]:
    return [line.text for line in files.read(final=final)]


def test_nothing_is_read_twice_and_half_a_line_waits(tmp_path: Path) -> None:
    log, files = tmp_path / "stdout.log", LogFiles(tmp_path)
    assert texts(files) == []
    log.write_bytes(b"one\ntw")
    assert texts(files) == ["one"]
    with log.open("ab") as out:
        out.write("o ü\nthree".encode())
    assert texts(files) == ["two ü"]
    assert texts(files, final=True) == ["three"]
    assert texts(files, final=True) == []


def test_it_goes_on_from_an_offset(tmp_path: Path) -> None:
    (tmp_path / "stderr.log").write_bytes(b"a\nb\nc\n")
    offset = [line.offset for line in LogFiles(tmp_path).read()][1]
    assert texts(LogFiles(tmp_path, {"stderr": offset})) == ["c"]


def test_progress_bars_and_bytes_that_are_no_text() -> None:
    assert clean(b"10%\r50%\r100%\n") == "100%"
    assert clean(b"\xff\xfe ok\0\r\n") == "\ufffd\ufffd ok"


def test_an_endless_line_comes_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "stdout.log").write_bytes(b"x" * (MAX_LINE * 2 + 5))
    assert [len(t) for t in texts(LogFiles(tmp_path), final=True)] == [MAX_LINE, MAX_LINE, 5]


def test_tail_prefers_what_went_wrong(tmp_path: Path) -> None:
    (tmp_path / "stdout.log").write_text("out 1\nout 2\n")
    assert tail(tmp_path, 1) == ["out 2"]
    (tmp_path / "stderr.log").write_text("\n")
    assert tail(tmp_path, 5) == ["out 1", "out 2"]
    (tmp_path / "stderr.log").write_text("err\n")
    assert tail(tmp_path, 5) == ["err"]
    assert tail(tmp_path / "nothing", 5) == []
