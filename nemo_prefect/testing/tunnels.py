"""What every tunnel must do, whichever way it leads. Tests of one subclass `TunnelSuite` with a fixture ``tunnel``."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from nemo_prefect.errors import ConfigError, ExecutorError
from nemo_prefect.testing.conformance import check
from nemo_prefect.transport import Tunnel

T = TypeVar("T")

#: Words that some layer between here and a program might take apart.
ODD = (
    "",
    " ",
    "a b",
    "it's",
    '"',
    "$HOME",
    "`id`",
    "$(id)",
    "\\",
    "a\\'b",
    "*",
    "~",
    "!x",
    "#",
    "line one\nline two\n",
    "é ü 漢 \U0001f600",
    "-n",
    ";&|<>(){}",
    "\t",
    "%s",
)


class TunnelSuite:
    """Tests of one tunnel. Subclasses bring a fixture ``tunnel``; all run real commands and write real files.

    The directory ``tmp_path`` must be one that the tunnel's machine sees as well (it is this one).
    """

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end."""
        return asyncio.run(coroutine)

    def test_survives_json(self, tunnel: Tunnel) -> None:
        written = tunnel.model_dump_json(context={"include_secrets": True})
        again = Tunnel.model_validate_json(written)
        check(again == tunnel and type(again) is type(tunnel), again)

    def test_a_command(self, tunnel: Tunnel) -> None:
        result = self.run(tunnel.run_command(["sh", "-c", "cat; echo err >&2; exit 7"], input=b"in\n\xff"))
        check((result.exit_code, result.stdout) == (7, "in\n\ufffd") and result.stderr.endswith("err\n"), result)
        check(result.failed and not result.ok and result.return_code == result.exited == 7, result)

    def test_nothing_to_read_without_input(self, tunnel: Tunnel) -> None:
        check(self.run(tunnel.run_command(["cat"], timeout=60)).stdout == "", "stdin was not empty")

    def test_arguments_arrive_unchanged(self, tunnel: Tunnel) -> None:
        result = self.run(tunnel.run_command(["printf", "%s\\0", *ODD]))
        check(result.stdout.split("\0")[:-1] == list(ODD), result)

    def test_environment_arrives_unchanged(self, tunnel: Tunnel) -> None:
        env = {f"ODD_{i}": word for i, word in enumerate(ODD)}
        show = "; ".join(f'printf "%s\\0" "${name}"' for name in env)
        result = self.run(tunnel.run_command(["sh", "-c", f"{show}; cat"], env=env, input=b"and stdin"))
        check(result.stdout.split("\0") == [*ODD, "and stdin"], result)

    def test_what_cannot_be_passed_is_refused(self, tunnel: Tunnel) -> None:
        for argv, env in ((["echo", "a\0b"], {}), ([], {}), (["true"], {"A B": "x"}), (["true"], {"A": "\0"})):
            try:
                self.run(tunnel.run_command(argv, env=env))
            except ConfigError:
                continue
            check(False, f"{argv} {env} was run")

    def test_a_program_that_does_not_exist(self, tunnel: Tunnel) -> None:
        result = self.run(tunnel.run_command(["/no/such/program"]))
        check(result.exit_code == 127 and "/no/such/program" in result.stderr, result)

    def test_a_signal(self, tunnel: Tunnel) -> None:
        check(self.run(tunnel.run_command(["sh", "-c", "kill -9 $$"])).exit_code in (-9, 137), "how it ended was lost")

    def test_a_command_that_takes_too_long(self, tunnel: Tunnel) -> None:
        try:
            self.run(tunnel.run_command(["sleep", "600"], timeout=0.5))
        except ExecutorError as error:
            check(error.transient and "0.5 s" in str(error), error)
        else:
            check(False, "it went on")
        check(self.run(tunnel.run_command(["echo", "next"])).stdout == "next\n", "the next command did not run")

    def test_much_output(self, tunnel: Tunnel) -> None:
        size = 20_000_000
        result = self.run(tunnel.run_command(["sh", "-c", f"head -c {size} /dev/zero | tr '\\0' x; echo end >&2"]))
        check(len(result.stdout) == size and result.stderr.endswith("end\n"), len(result.stdout))

    def test_much_input(self, tunnel: Tunnel) -> None:
        data = os.urandom(3_000_000)
        result = self.run(tunnel.run_command(["wc", "-c"], input=data, env={"A": "b"}))
        check(result.stdout.strip() == str(len(data)), result)

    def test_files(self, tunnel: Tunnel, tmp_path: Path) -> None:
        path = str(tmp_path / "a b" / "é'\"$x" / "file")

        async def story() -> None:
            check(await tunnel.read_file(path) is None, "read what does not exist")
            check(not await tunnel.exists(path), "exists before it was written")
            await tunnel.write_file(path, b"one\ntwo\n", 0o640)
            check(await tunnel.read_file(path) == b"one\ntwo\n", "other content")
            check(stat.S_IMODE(os.stat(path).st_mode) == 0o640, oct(os.stat(path).st_mode))
            check(await tunnel.read_file(path, 4) == b"two\n", "other content from 4")
            check(await tunnel.read_file(path, 4, 2) == b"tw", "other content from 4 to 6")
            check(await tunnel.read_file(path, 100) == b"", "content past the end")
            await tunnel.write_file(path, b"secret", 0o600)
            check(await tunnel.exists(path) and await tunnel.read_file(path) == b"secret", "it was not replaced")
            check(stat.S_IMODE(os.stat(path).st_mode) == 0o600, oct(os.stat(path).st_mode))
            check(os.listdir(os.path.dirname(path)) == ["file"], "something was left behind")

        self.run(story())

    def test_big_files(self, tunnel: Tunnel, tmp_path: Path) -> None:
        data = os.urandom(5_000_000)

        async def story() -> None:
            await tunnel.write_file(str(tmp_path / "big"), data)
            check(await tunnel.read_file(str(tmp_path / "big")) == data, "other content")
            check(await tunnel.read_file(str(tmp_path / "big"), 1_234_567) == data[1_234_567:], "other content")
            found = await tunnel.read_many({str(tmp_path / "big"): 10}, 3_000_000)
            check(found == {str(tmp_path / "big"): data[10:3_000_010]}, "other content")

        self.run(story())

    def test_many_growing_files_at_once(self, tunnel: Tunnel, tmp_path: Path) -> None:
        files = [tmp_path / f"log {i}" for i in range(60)]

        async def story() -> None:
            for i, file in enumerate(files):
                file.write_bytes(b"x" * i)
            (tmp_path / "gone").mkdir()
            asked = {str(file): 5 for file in files} | {str(tmp_path / "none"): 0, str(files[0] / "below"): 0}
            found = await tunnel.read_many(asked)
            check(found == {str(file): b"x" * max(0, i - 5) for i, file in enumerate(files)}, found)
            check(await tunnel.read_many({}) == {}, "something from nothing")

        self.run(story())

    def test_directories(self, tunnel: Tunnel, tmp_path: Path) -> None:
        async def story() -> None:
            top = str(tmp_path / "x" / "y z")
            check(await tunnel.list_dir(top) == [], "entries of a directory that does not exist")
            await tunnel.mkdir(top)
            await tunnel.mkdir(top)
            try:
                await tunnel.mkdir(top, exist_ok=False)
            except ExecutorError as error:
                check(not error.transient, error)
            else:
                check(False, "made a directory twice")
            await tunnel.write_file(f"{top}/b", b"12345")
            os.symlink("/no/such", f"{top}/a")
            os.mkdir(f"{top}/c")
            entries = await tunnel.list_dir(top)
            check([(e.name, e.kind) for e in entries] == [("a", "link"), ("b", "file"), ("c", "dir")], entries)
            check(entries[1].size == 5 and abs(entries[1].mtime - os.stat(f"{top}/b").st_mtime) < 2, entries)
            keep = tmp_path / "keep"
            keep.mkdir()
            (keep / "file").write_text("kept")
            os.symlink(keep, f"{top}/link")
            await tunnel.remove_tree(str(tmp_path / "x"))
            check(not os.path.lexists(tmp_path / "x") and (keep / "file").exists(), "a link was followed")
            await tunnel.remove_tree(str(tmp_path / "x"))

        self.run(story())

    def test_upload_and_download(self, tunnel: Tunnel, tmp_path: Path) -> None:
        here, there, back = tmp_path / "he re", tmp_path / "the're $x" / "deep", tmp_path / "back"
        make_tree(here)
        before = snapshot(here)
        expected = {path: what for path, what in before.items() if "skip" not in path and path != "sub/only"}

        async def story() -> None:
            await tunnel.upload(here, str(there), exclude=["skip*", "sub/only"])
            check(snapshot(there) == expected, (snapshot(there), expected))
            (here / "new").write_text("new")
            (here / "plain").write_text("changed")
            os.unlink(here / "link")
            os.symlink("elsewhere", here / "link")
            (there / "own").write_text("stays")
            await tunnel.upload(here, str(there), exclude=["skip*", "sub/only"])
            now = snapshot(there)
            check(now["plain"][1] == b"changed" and now["new"][1] == b"new", now)
            check(now["link"][1] == b"elsewhere" and now["own"][1] == b"stays", now)
            os.unlink(there / "own")
            await tunnel.download(str(there), back)
            check(snapshot(back) == snapshot(there), (snapshot(back), snapshot(there)))
            await tunnel.download(str(tmp_path / "nowhere"), tmp_path / "nothing")
            check(not (tmp_path / "nothing").exists(), "something from nothing")

        self.run(story())

    def test_nemo_run_s_names(self, tunnel: Tunnel, tmp_path: Path) -> None:
        tunnel.connect()
        check(tunnel.run("echo $((1 + 1))", hide=True).stdout == "2\n", "other output")
        check(tunnel.run("exit 3", warn=True).exited == 3, "other exit code")
        try:
            tunnel.run("echo why >&2; exit 3")
        except ExecutorError as error:
            check("why" in str(error) and "exit code 3" in str(error), error)
        else:
            check(False, "a failure went unnoticed")
        (tmp_path / "one").write_text("1")
        make_tree(tmp_path / "tree")
        tunnel.put(str(tmp_path / "one"), str(tmp_path / "two"))
        tunnel.put(str(tmp_path / "tree"), str(tmp_path / "copy"))
        tunnel.get(str(tmp_path / "two"), str(tmp_path / "three"))
        tunnel.get(str(tmp_path / "copy"), str(tmp_path / "again"))
        check((tmp_path / "three").read_text() == "1", "other content")
        check(snapshot(tmp_path / "again") == snapshot(tmp_path / "tree"), "another tree")
        tunnel.job_dir = str(tmp_path / "jobs")
        tunnel.setup()
        check((tmp_path / "jobs").is_dir(), "no job_dir")
        tunnel.cleanup()
        check(tunnel.run("echo again").stdout == "again\n", "nothing after cleanup")


def make_tree(root: Path) -> None:
    """A directory with whatever a copy may trip over."""
    (root / "sub" / "empty").mkdir(parents=True)
    (root / "plain").write_text("plain\n")
    (root / "sub" / "é ü 漢\n'\"$x *").write_bytes(b"\x00\xff")
    (root / "sub" / "run.sh").write_text("#!/bin/sh\n")
    (root / "sub" / "run.sh").chmod(0o755)
    (root / "sub" / "secret").write_text("x")
    (root / "sub" / "secret").chmod(0o600)
    (root / "sub" / "only").write_text("left out by its path")
    (root / "only").write_text("stays")
    (root / "skip me").write_text("left out by its name")
    (root / "skipped").mkdir()
    (root / "skipped" / "deep").write_text("left out with its directory")
    (root / "-dash").write_text("dash")
    os.symlink("plain", root / "link")
    os.symlink("/no/such/file", root / "dangling")
    os.symlink("sub", root / "to a directory")
    for i in range(50):
        (root / "sub" / f"many {i}").write_text("x" * i)
    os.utime(root / "plain", (1_600_000_000, 1_600_000_000))


def snapshot(root: Path) -> dict[str, tuple[int, bytes, int]]:
    """Mode, content (a link's goal) and, of files, time in seconds of everything below `root`, by path."""
    found = {}
    for path in root.rglob("*"):
        status = path.lstat()
        if path.is_symlink():
            found[str(path.relative_to(root))] = (0, os.fsencode(os.readlink(path)), 0)
        elif path.is_dir():
            found[str(path.relative_to(root))] = (stat.S_IMODE(status.st_mode), b"", 0)
        else:
            content = (stat.S_IMODE(status.st_mode), path.read_bytes(), int(status.st_mtime))
            found[str(path.relative_to(root))] = content
    return found
