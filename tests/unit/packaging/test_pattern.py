from __future__ import annotations

import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nemo_prefect as run
from nemo_prefect.errors import PackagingError


@pytest.fixture
def code(tmp_path):
    root = tmp_path / "code"
    for name in ("train.py", "conf/a.yaml", "conf/b.json", "conf/deep/c.yaml", "conf/.hidden", "a b/it's.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def pack(code, jobs, pattern, relative=""):
    return run.PatternPackager(include_pattern=pattern, relative_path=relative).package(code, jobs, "job")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("train.py", ["train.py"]),
        ("conf", ["conf/.hidden", "conf/a.yaml", "conf/b.json", "conf/deep/c.yaml"]),
        ("conf/", ["conf/.hidden", "conf/a.yaml", "conf/b.json", "conf/deep/c.yaml"]),
        ("conf/*", ["conf/a.yaml", "conf/b.json", "conf/deep/c.yaml"]),
        ("conf/*.yaml", ["conf/a.yaml"]),
        ("**/*.yaml", ["conf/a.yaml", "conf/deep/c.yaml"]),
        ("a b", ["a b/it's.txt"]),
        (["train.py", "", "conf/[ab].*"], ["conf/a.yaml", "conf/b.json", "train.py"]),
    ],
)
def test_patterns(code, jobs, texts, pattern, found):
    relative = [""] * len(pattern) if isinstance(pattern, list) else ""
    assert texts(pack(code, jobs, pattern, relative)) == {name: name for name in found}


def test_absolute_patterns_and_roots(code, jobs, texts, tmp_path):
    assert list(texts(pack(tmp_path, jobs, str(code / "conf/deep"), str(code / "conf")))) == ["deep/c.yaml"]
    assert list(texts(pack(tmp_path, jobs, str(code / "conf/*.yaml"), str(tmp_path)))) == ["code/conf/a.yaml"]
    assert list(texts(pack(code, jobs, ["conf/deep", str(code / "train.py")], ["conf", str(code)]))) == [
        "deep/c.yaml",
        "train.py",
    ]


def test_a_root_that_looks_like_a_pattern_or_is_reached_through_a_link(jobs, texts, tmp_path):
    root = tmp_path / "[x]"
    root.mkdir()
    (root / "a.txt").write_text("a")
    (root / "[a].txt").write_text("literal")
    assert texts(pack(root, jobs, "*.txt")) == {"[a].txt": "literal", "a.txt": "a"}
    assert texts(pack(root, jobs, "[a].txt")) == {"[a].txt": "literal"}
    os.symlink(root, tmp_path / "link")
    assert texts(pack(root, jobs, str(tmp_path / "link/a.txt"), str(root))) == {"a.txt": "a"}


def test_links_permissions_and_what_is_no_file(code, jobs, unpack):
    os.symlink("train.py", code / "link")
    os.symlink("conf", code / "directory")
    os.symlink("nowhere", code / "conf/broken")
    os.mkfifo(code / "pipe")
    (code / "train.py").chmod(0o700)
    (code / "conf/b.json").chmod(0o600)
    archive = pack(code, jobs, ".")
    found = unpack(archive)
    assert (found["link"], found["directory"], found["conf/broken"]) == ("train.py", "conf", "nowhere")
    assert found["train.py"] == (b"train.py", True)
    assert "pipe" not in found
    with tarfile.open(archive) as tar:
        assert (tar.getmember("train.py").mode, tar.getmember("conf/b.json").mode) == (0o700, 0o600)


def test_the_archive_does_not_pack_itself(code, texts):
    jobs = str(code / "conf/jobs")
    first = texts(pack(code, jobs, "conf"))
    assert texts(pack(code, jobs, "conf")) == first
    assert not [name for name in first if "jobs" in name]


def test_the_same_content_gives_the_same_bytes(code, jobs):
    first = Path(pack(code, jobs, ".")).read_bytes()
    for directory, _, names in os.walk(code):
        for name in names:
            os.utime(os.path.join(directory, name), (1, 1))
    assert Path(pack(code, jobs, ".")).read_bytes() == first
    (code / "train.py").write_text("changed")
    assert Path(pack(code, jobs, ".")).read_bytes() != first
    assert os.listdir(jobs) == ["job.tar.gz"]


def test_a_failure_leaves_what_was_there(code, jobs):
    before = Path(pack(code, jobs, "train.py")).read_bytes()
    for pattern, relative, words in [
        ("missing", "", "'missing' matches no file"),
        ("*.none", "", "matches no file"),
        ("conf", "a b", "does not lie below"),
        ("../code", "", "does not lie below|has no place"),
        (["a", "b"], "", "2 patterns to include but 1 relative paths"),
        ("", "", "nothing to pack"),
    ]:
        if pattern == "../code":
            pattern, relative = "..", ""
        with pytest.raises(PackagingError, match=words) as caught:
            pack(code, jobs, pattern, relative)
        assert isinstance(caught.value, (ValueError, RuntimeError))
        assert caught.value.hint
    assert os.listdir(jobs) == ["job.tar.gz"]
    assert Path(jobs, "job.tar.gz").read_bytes() == before


def test_a_file_and_a_directory_of_one_name(code, jobs, tmp_path):
    other = tmp_path / "other/conf"
    other.parent.mkdir()
    other.write_text("a file")
    with pytest.raises(PackagingError, match="below 'conf'"):
        pack(code, jobs, ["conf", str(other)], ["", str(other.parent)])


names = st.text(st.characters(blacklist_characters="\0/", blacklist_categories=("Cs",)), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..") and len(os.fsencode(name)) < 240
)


@settings(max_examples=40, deadline=None, database=None)
@given(st.lists(names, min_size=1, max_size=4), st.binary(max_size=50), st.booleans())
def test_unpacking_gives_the_tree_again(tree, unpack, parts, content, executable):
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory, "root")
        file = root.joinpath(*parts)
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
        file.chmod(0o755 if executable else 0o644)
        # The name itself, which may well look like a pattern, and the whole directory.
        for pattern in (parts[0], "."):
            assert unpack(pack(root, str(Path(directory, "jobs")), pattern)) == tree(root)
