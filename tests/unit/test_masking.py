"""No value of an environment variable, no secret field and nothing named like a secret is shown."""

from __future__ import annotations

import json

import nemo_prefect as run
from nemo_prefect.executors.local import LocalExecutor
from nemo_prefect.executors.slurm import SlurmExecutor
from nemo_prefect.masking import MASK, Mask
from nemo_prefect.progress import read_progress
from nemo_prefect.spec import ExperimentSpec
from nemo_prefect.transport.ssh import SSHTunnel


def spec_of(executor: run.Executor, **env: str) -> ExperimentSpec:
    with run.Experiment("masking", executor=executor) as exp:
        exp.add(run.Script(inline="echo", env=env), name="job")
        return exp.spec()


def test_environments_are_masked_in_text_and_data() -> None:
    spec = spec_of(LocalExecutor(env_vars={"HF_TOKEN": "hf-abc 'def'", "PIN": "12"}), OTHER="from-the-script")
    mask = Mask(spec)
    rendered = "export HF_TOKEN='hf-abc '\"'\"'def'\"'\"''\nexport PIN=12\ncurl from-the-script \"hf-abc 'def'\" 12 months\n"
    shown = mask.text(rendered)
    assert "abc" not in shown
    assert "from-the-script" not in shown
    assert f"PIN={MASK}" in shown
    assert "12 months" in shown
    data = json.dumps(mask.data(spec.jobs[0].executors[0].config))
    assert "HF_TOKEN" in data
    assert "abc" not in data
    assert "12" not in data


def test_secret_fields_are_masked_at_any_depth() -> None:
    tunnel = SSHTunnel(host="login", user="me", job_dir="/scratch", password="correct-horse")
    spec = spec_of(SlurmExecutor(account="lab", tunnel=tunnel))
    assert "correct-horse" in spec.model_dump_json()  # the file is the user's own
    mask = Mask(spec)
    assert "correct-horse" not in json.dumps(mask.data(spec.jobs[0].executors[0].config))
    assert "correct-horse" not in mask.text("sshpass -p correct-horse")


def test_command_lines_are_masked_by_name() -> None:
    mask = Mask(spec_of(LocalExecutor()))
    shown = mask.arguments(["train.py", "--api-key=abc", "token=abc", "--password", "abc", "lr=1e-4", "--auth", "x", "y"])
    assert shown == ["train.py", f"--api-key={MASK}", f"token={MASK}", "--password", MASK, "lr=1e-4", "--auth", MASK, "y"]


def test_what_is_no_report_is_ignored(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "progress.json"
    assert read_progress(file) is None
    for bad in ("", "[]", "{}", '{"step": "x"}', '{"step": null}', '{"step": NaN}', '{"step": 1, "metrics": 3}', "\0"):
        file.write_text(bad)
        assert read_progress(file) is None, bad
    file.write_text('{"step": 3, "total": 4, "metrics": {"loss": 0.25, "phase": "warm"}}')
    found = read_progress(file)
    assert found is not None
    assert (found.percent, found.describe()) == (75.0, "step 3 of 4, loss=0.25, phase=warm")
    file.write_text('{"step": 9, "total": 4}')
    assert (found := read_progress(file)) is not None
    assert found.percent == 100.0
