"""What is in a file of the spool when its process, its disk or its line ends in the middle."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.config.settings import PROJECT_ROOT
from app.services.spool.file import SpoolFile, line_of

# Appends lines until it is killed, and says of each when it is on disk.
WRITER = """
import sys
from pathlib import Path
from app.services.spool.file import SpoolFile
file = SpoolFile.create(Path(sys.argv[1]))
number = 0
while True:
    file.append("requests", 1, b"%d" % number)
    print(number, flush=True)
    number += 1
"""


def contents(file: SpoolFile) -> list[bytes]:
    return [line.payload for line in file.read(1_000_000)]


def adopted(path: Path) -> SpoolFile:
    file = SpoolFile.adopt(path)
    assert file is not None
    return file


def test_what_was_appended_is_read_by_another_process(tmp_path: Path) -> None:
    path = tmp_path / "spool" / "a.requests"
    file = SpoolFile.create(path)
    for number in range(3):
        file.append("requests", number + 1, b'["\xe7\x8c\xab", %d]' % number)
    assert file.rows == 6
    # As long as its process has it, it is no other's.
    assert SpoolFile.adopt(path) is None
    file.close()
    other = adopted(path)
    assert contents(other) == [b'["\xe7\x8c\xab", %d]' % number for number in range(3)]
    assert other.rows == 6
    other.remove()
    assert SpoolFile.adopt(path) is None
    assert list(path.parent.iterdir()) == []


def test_others_on_the_machine_cannot_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = tmp_path / "spool" / "a.paid"
        file = SpoolFile.create(path)
        file.append("bill", 1, b"{}")
        file.refuse(file.read(1)[0])
    finally:
        os.umask(before)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {each.stat().st_mode & 0o777 for each in path.parent.iterdir()} == {0o600}
    file.close()


def test_lines_come_by_kind_and_by_rows(tmp_path: Path) -> None:
    file = SpoolFile.create(tmp_path / "a.paid")
    for kind, rows in (("result", 1), ("result", 1), ("bill", 400), ("bill", 400), ("bill", 400), ("bill", 5000)):
        file.append(kind, rows, b"{}")
    read = []
    while lines := file.read(1000):
        read.append([(line.kind, line.rows) for line in lines])
        file.passed(lines)
    assert read == [[("result", 1)] * 2, [("bill", 400)] * 2, [("bill", 400)], [("bill", 5000)]]
    assert file.rows == 0
    file.close()


def test_a_process_that_is_killed_loses_no_line_that_it_has_said_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.requests"
    writer = subprocess.Popen(  # noqa: S603 - our own interpreter and code
        [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, cwd=PROJECT_ROOT
    )
    assert writer.stdout is not None
    for _ in range(50):
        writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    said = 50 + len(writer.stdout.read().splitlines())
    writer.wait()
    writer.stdout.close()
    file = adopted(path)
    kept = contents(file)
    # One may be on disk and not said yet.
    assert kept == [b"%d" % number for number in range(len(kept))]
    assert said <= len(kept) <= said + 1
    file.close()


@pytest.mark.parametrize("torn", [b"0", b"deadbeef requests 1 {}\n", line_of("requests", 1, b"{}")[:-1]])
def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "a.requests"
    path.write_bytes(line_of("requests", 1, b"[1]") + torn)
    file = adopted(path)
    assert (contents(file), file.rows) == ([b"[1]"], 1)
    file.close()


def test_a_damaged_line_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.requests"
    lines = [line_of("requests", 1, b"[%d]" % number) for number in range(3)]
    path.write_bytes(lines[0] + lines[1].replace(b"[1]", b"[7]") + lines[2])
    file = adopted(path)
    assert contents(file) == [b"[0]", b"[2]"]
    file.close()


def test_a_disk_that_takes_half_a_line_leaves_no_trace_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.requests"
    file = SpoolFile.create(path)
    file.append("requests", 1, b"[1]")
    write = os.pwrite
    written = 0

    def write_half(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal written
        if written:
            raise OSError(28, "No space left on device")
        written = write(descriptor, data[:5], offset)
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", write_half)
        with pytest.raises(OSError, match="No space"):
            file.append("requests", 1, b"[2]")
    assert (contents(file), file.rows) == ([b"[1]"], 1)
    file.append("requests", 1, b"[3]")
    assert contents(file) == [b"[1]", b"[3]"]
    file.close()
