from __future__ import annotations

from pathlib import Path

from nemo_prefect.ledger import Ledger
from nemo_prefect.refs import JobRef, submission_key
from nemo_prefect.states import ended

REF = JobRef("local", "host", "1", "k1", "/d", {"pid": 1, "started": 1.5})


def test_the_last_word_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.latest() == {}
    ledger.write("a", 1, "k1", "SUBMITTING")
    assert (ledger.latest()["a"].event, ledger.latest()["a"].ref) == ("SUBMITTING", None)
    ledger.write("a", 1, "k1", "SUBMITTED", REF)
    ledger.write("b", 1, "k2", "SUBMITTING")
    ledger.write("a", 1, "k1", "ENDED", ended(3))
    entry = Ledger(tmp_path).latest()["a"]
    assert (entry.event, entry.ref, entry.state) == ("ENDED", REF, ended(3))
    assert entry.ref is not None
    assert entry.ref.details == REF.details
    ledger.write("a", 2, "k3", "SUBMITTING")
    assert (ledger.latest()["a"].attempt, ledger.latest()["a"].ref) == (2, None)


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("a", 1, "k1", "SUBMITTING")
    with ledger.path.open("ab") as out:
        out.write(b'{"time": 1, "job": "a", "att')
    assert ledger.latest()["a"].event == "SUBMITTING"


def test_only_the_user_reads_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("a", 1, "k", "SUBMITTING")
    assert ledger.path.stat().st_mode & 0o077 == 0


def test_keys_tell_attempts_apart() -> None:
    keys = {submission_key(e, j, a) for e in ("x", "xy") for j in ("j", "yj") for a in (1, 2)}
    assert len(keys) == 8
    assert submission_key("x", "j", 1) == submission_key("x", "j", 1)
