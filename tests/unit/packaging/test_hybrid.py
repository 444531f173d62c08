from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

import nemo_prefect as run
from nemo_prefect.errors import PackagingError


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    (root / "train.py").write_text("of data")
    (root / "a.txt").write_text("a")
    os.symlink("a.txt", root / "link")
    return root


@pytest.fixture
def parts(data):
    return {
        "code": run.GitArchivePackager(),
        "in/data": run.PatternPackager(include_pattern=str(data), relative_path=str(data)),
    }


def test_each_gets_a_directory(repo, jobs, unpack, parts):
    found = unpack(run.HybridPackager(sub_packagers=parts).package(repo.root, jobs, "job"))
    assert found == {
        "code/pkg/model.py": (b"layers = 2\n", False),
        "code/train.py": (b"print('train')\n", False),
        "in/data/a.txt": (b"a", False),
        "in/data/link": "a.txt",
        "in/data/train.py": (b"of data", False),
    }
    assert sorted(os.listdir(jobs)) == ["job.provenance.json", "job.tar.gz"]
    record = json.loads(Path(jobs, "job.provenance.json").read_text())["sub_packagers"]
    assert list(record) == ["code"]
    assert record["code"]["commit"] == repo.git("rev-parse", "HEAD")


def test_at_the_root_the_last_one_wins(repo, jobs, texts, parts):
    found = texts(run.HybridPackager(sub_packagers=parts, extract_at_root=True).package(repo.root, jobs, "job"))
    assert found == {"a.txt": "a", "pkg/model.py": "layers = 2\n", "train.py": "of data"}


def test_the_same_content_gives_the_same_bytes(repo, jobs, parts):
    hybrid = run.HybridPackager(sub_packagers=parts)
    first = Path(hybrid.package(repo.root, jobs, "job")).read_bytes()
    assert Path(hybrid.package(repo.root, jobs, "job")).read_bytes() == first
    repo.file("train.py", "changed")
    assert Path(hybrid.package(repo.root, jobs, "job")).read_bytes() != first


def test_hybrids_nest_and_travel_as_json(repo, jobs, texts, parts):
    hybrid = run.HybridPackager(sub_packagers={"all": run.HybridPackager(sub_packagers=parts), "none": run.Packager()})
    again = run.HybridPackager.model_validate(json.loads(hybrid.model_dump_json()))
    assert again == hybrid
    assert "all/in/data/a.txt" in texts(again.package(repo.root, jobs, "job"))
    record = json.loads(Path(jobs, "job.provenance.json").read_text())["sub_packagers"]
    assert record["all"]["sub_packagers"]["code"]["dirty"] is False


@pytest.mark.parametrize("folder", ["..", "/abs", "a/../../b", "", "."])
def test_directories_outside_the_archive(repo, jobs, parts, folder):
    with pytest.raises(PackagingError, match=r"outside|no directory"):
        run.HybridPackager(sub_packagers={folder: parts["code"]}).package(repo.root, jobs, "job")
    assert os.listdir(jobs) == []


@pytest.mark.parametrize("parts", [{}, {"code": run.Packager()}])
def test_nothing_to_pack(repo, jobs, parts):
    with pytest.raises(PackagingError, match="nothing to pack"):
        run.HybridPackager(sub_packagers=parts).package(repo.root, jobs, "job")


class Foreign(run.Packager):
    """A packager of somebody else's, with hard links and names as GNU tar writes them, or no archive at all."""

    member: str = "./b"

    def package(self, path: Path, job_dir: str, name: str) -> str:
        target = os.path.join(job_dir, f"{name}.tar.gz")
        os.makedirs(job_dir, exist_ok=True)
        if not self.member:
            Path(target).write_text("no archive")
            return target
        with tarfile.open(target, "w:gz") as tar:
            tar.add(path / "train.py", "./a")
            hard = tarfile.TarInfo(self.member)
            hard.type, hard.linkname = tarfile.LNKTYPE, "./a"
            tar.addfile(hard)
        return target


def test_archives_of_other_packagers(repo, jobs, texts):
    found = texts(run.HybridPackager(sub_packagers={"x": Foreign()}).package(repo.root, jobs, "job"))
    assert found == {"x/a": "print('train')\n", "x/b": "print('train')\n"}
    for member, words in (("../b", "outside"), ("", "cannot be packed")):
        with pytest.raises(PackagingError, match=words):
            run.HybridPackager(sub_packagers={"x": Foreign(member=member)}).package(repo.root, jobs, "job")
