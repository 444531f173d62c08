from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import nemo_prefect as run
from nemo_prefect.errors import PackagingError
from nemo_prefect.executors.registry import executor_from_spec, executor_to_spec

TRACKED = {"pkg/model.py": "layers = 2\n", "train.py": "print('train')\n"}


def provenance(jobs, name="job"):
    return json.loads(Path(jobs, f"{name}.provenance.json").read_text())


def pack(repo, jobs, **options):
    return run.GitArchivePackager(**options).package(repo.root, jobs, "job")


def test_packs_the_repository_from_any_directory_in_it(repo, jobs, texts):
    archive = run.GitArchivePackager().package(repo.root / "pkg", jobs, "job")
    assert archive == os.path.join(jobs, "job.tar.gz")
    assert texts(archive) == TRACKED
    assert provenance(jobs) == {
        "root": str(repo.root),
        "ref": "HEAD",
        "commit": repo.git("rev-parse", "HEAD"),
        "dirty": False,
        "diff": "",
        "untracked": [],
        "submodules": {},
    }


def test_basepath_names_the_repository(repo, jobs, tmp_path, texts):
    assert texts(run.GitArchivePackager(basepath=str(repo.root)).package(tmp_path, jobs, "job")) == TRACKED


def test_uncommitted_changes_travel_as_they_are_on_disk(repo, jobs, unpack, tree):
    repo.file("train.py", "staged\n")
    repo.git("add", "train.py")
    repo.file("train.py", "on disk\n", mode=0o755)
    repo.file("new.py", "added\n")
    repo.git("add", "new.py")
    (repo.root / "pkg/model.py").unlink()
    repo.file("untracked.py", "")
    archive = pack(repo, jobs)
    assert unpack(archive) == {"train.py": (b"on disk\n", True), "new.py": (b"added\n", False)}
    record = provenance(jobs)
    assert record["dirty"] is True
    assert record["untracked"] == []
    assert stat.S_IMODE(Path(jobs, "job.provenance.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(archive).stat().st_mode) == 0o600
    # The commit and the diff give again what was packed.
    repo.git("stash", "--quiet")
    subprocess.run(["git", "apply", "-"], cwd=repo.root, input=record["diff"].encode(), check=True)
    assert {k: v for k, v in tree(repo.root).items() if k != "untracked.py"} == unpack(archive)


def test_a_file_taken_out_of_the_index_is_not_tracked_any_more(repo, jobs, texts):
    repo.git("rm", "--quiet", "--cached", "train.py")
    assert set(texts(pack(repo, jobs))) == {"pkg/model.py"}
    assert set(texts(pack(repo, jobs, include_untracked=True))) == {"pkg/model.py", "train.py"}


def test_a_touched_file_is_no_change(repo, jobs):
    os.utime(repo.root / "train.py", (1, 1))
    pack(repo, jobs, check_uncommitted_changes=True, check_untracked_files=True)
    assert provenance(jobs)["dirty"] is False


def test_untracked_files_travel_on_request_but_ignored_ones_never(repo, jobs, texts):
    repo.file(".gitignore", "*.log\n")
    repo.file("out.log", "")
    repo.file("notes/a b.py", "x")
    assert texts(pack(repo, jobs)) == TRACKED
    assert set(texts(pack(repo, jobs, include_untracked=True))) == {*TRACKED, ".gitignore", "notes/a b.py"}
    assert provenance(jobs)["untracked"] == [".gitignore", "notes/a b.py"]
    assert provenance(jobs)["dirty"] is True


def test_what_we_write_into_the_tree_ourselves_is_not_untracked(repo, texts, monkeypatch):
    monkeypatch.setenv("NEMORUN_HOME", str(repo.root / "home"))
    repo.file("home/experiments/old/log", "")
    jobs = str(repo.root / "jobs")
    for _ in range(2):
        archive = pack(repo, jobs, include_untracked=True, check_untracked_files=True)
        assert texts(archive) == TRACKED


def test_the_working_tree_and_index_are_left_alone(repo, jobs, tree):
    repo.file("train.py", "changed\n")
    before, index = tree(repo.root), (repo.root / ".git/index").read_bytes()
    pack(repo, jobs)
    assert tree(repo.root) == before
    assert (repo.root / ".git/index").read_bytes() == index
    assert sorted(os.listdir(jobs)) == ["job.provenance.json", "job.tar.gz"]


def test_another_ref_is_packed_as_it_was_committed(repo, jobs, texts):
    first = repo.git("rev-parse", "HEAD")
    repo.git("tag", "--annotate", "v1", "--message", "v1")
    repo.file("train.py", "second\n")
    second = repo.commit()
    repo.file("train.py", "uncommitted\n")
    assert texts(pack(repo, jobs, ref="v1")) == TRACKED
    assert provenance(jobs)["commit"] == first
    assert provenance(jobs)["dirty"] is False
    assert texts(pack(repo, jobs, ref="main"))["train.py"] == "second\n"
    assert provenance(jobs)["commit"] == second
    assert texts(pack(repo, jobs))["train.py"] == "uncommitted\n"


def test_the_same_content_gives_the_same_bytes_and_other_content_others(repo, tmp_path):
    first = Path(pack(repo, str(tmp_path / "a"))).read_bytes()
    for file in TRACKED:
        os.utime(repo.root / file, (1, 1))
    repo.git("commit", "--quiet", "--allow-empty", "--message", "later")
    assert Path(pack(repo, str(tmp_path / "b"))).read_bytes() == first
    # An archive that is there already is no reason to run old code.
    repo.file("train.py", "changed\n")
    changed = Path(pack(repo, str(tmp_path / "a"))).read_bytes()
    assert changed != first
    repo.commit()
    assert Path(pack(repo, str(tmp_path / "b"))).read_bytes() == changed


def test_a_subpath_becomes_the_root(repo, jobs, texts):
    repo.file("pkg/new.py", "new")
    repo.file("train.py", "changed outside\n")
    assert texts(pack(repo, jobs, subpath="./pkg/")) == {"model.py": "layers = 2\n"}
    assert provenance(jobs)["dirty"] is False
    assert set(texts(pack(repo, jobs, subpath="pkg", include_untracked=True))) == {"model.py", "new.py"}
    assert texts(pack(repo, jobs, subpath="pkg", ref="main")) == {"model.py": "layers = 2\n"}


@pytest.mark.parametrize("subpath", ["missing", "train.py", "../repo", "/", "pk", "pkg/model.py"])
def test_a_subpath_that_is_no_directory_of_the_repository(repo, jobs, subpath):
    with pytest.raises(PackagingError, match=r"directory|outside"):
        pack(repo, jobs, subpath=subpath)
    assert not Path(jobs, "job.tar.gz").exists()


def test_checks_name_the_files(repo, jobs):
    repo.file("train.py", "changed\n")
    repo.file("new file.py", "")
    with pytest.raises(RuntimeError, match=r"uncommitted changes: train\.py\."):
        pack(repo, jobs, check_uncommitted_changes=True)
    with pytest.raises(AssertionError, match=r"untracked files: new file\.py\."):
        pack(repo, jobs, check_untracked_files=True)
    for i in range(12):
        repo.file(f"{i}.txt", "")
    with pytest.raises(PackagingError, match="and 3 more"):
        pack(repo, jobs, check_untracked_files=True)


def test_attributes_keep_files_out(repo, jobs, texts):
    repo.file(".gitattributes", "/tests export-ignore\nsecret.txt export-ignore\n")
    repo.file("tests/test_a.py", "")
    repo.file("pkg/secret.txt", "")
    repo.commit()
    repo.file("tests/test_a.py", "changed")
    repo.file("tests/test_b.py", "untracked")
    repo.file("pkg/secret.txt", "changed")
    assert set(texts(pack(repo, jobs, include_untracked=True))) == {*TRACKED, ".gitattributes"}
    assert set(texts(pack(repo, jobs, ref="main"))) == {*TRACKED, ".gitattributes"}


def test_links_and_executables_stay_what_they_are(repo, jobs, unpack):
    repo.file("bin/go", "#!/bin/sh\n", mode=0o755)
    os.symlink("bin/go", repo.root / "go")
    os.symlink("/does/not/exist", repo.root / "data")
    os.symlink("pkg", repo.root / "linked")
    repo.commit()
    os.unlink(repo.root / "go")
    os.symlink("train.py", repo.root / "go")
    found = unpack(pack(repo, jobs))
    assert found["bin/go"] == (b"#!/bin/sh\n", True)
    assert (found["go"], found["data"], found["linked"]) == ("train.py", "/does/not/exist", "pkg")
    assert unpack(pack(repo, jobs, ref="main"))["go"] == "bin/go"


def test_a_directory_that_became_a_link_and_a_file_that_became_a_directory(repo, jobs, unpack):
    repo.file("other/model.py", "other")
    repo.commit()
    (repo.root / "pkg/model.py").unlink()
    (repo.root / "pkg").rmdir()
    os.symlink("other", repo.root / "pkg")
    (repo.root / "train.py").unlink()
    repo.file("train.py/main.py", "main")
    assert unpack(pack(repo, jobs)) == {"other/model.py": (b"other", False)}
    repo.git("add", "--all")
    expected = {"other/model.py": (b"other", False), "pkg": "other", "train.py/main.py": (b"main", False)}
    assert unpack(pack(repo, jobs)) == expected


@pytest.fixture
def nested(repo, new_repo, tmp_path):
    """`repo` with the submodule libs/outer, which has the submodule in/inner; and one that is not checked out."""
    inner, outer = new_repo(tmp_path / "inner"), new_repo(tmp_path / "outer")
    inner.file("inner.py", "inner")
    inner.commit()
    outer.file("outer.py", "outer")
    outer.submodule(inner, "in/inner")
    outer.commit()
    repo.submodule(outer, "libs/outer")
    repo.submodule(inner, "libs/absent")
    repo.commit("submodules")
    repo.git("submodule", "--quiet", "deinit", "libs/absent")
    return repo


SUBMODULES = {"libs/outer/outer.py": "outer", "libs/outer/in/inner/inner.py": "inner"}


def sources(found):
    return {name: text for name, text in found.items() if name.endswith(".py")}


def test_submodules_are_packed_in_their_place(nested, jobs, texts, caplog):
    assert sources(texts(pack(nested, jobs))) == {**TRACKED, **SUBMODULES}
    assert "libs/absent is not checked out" in caplog.text
    assert sources(texts(pack(nested, jobs, ref="main"))) == {**TRACKED, **SUBMODULES}
    assert sources(texts(pack(nested, jobs, include_submodules=False))) == TRACKED


def test_changes_in_submodules_travel_and_are_recorded(nested, jobs, texts):
    nested.file("libs/outer/in/inner/inner.py", "changed")
    nested.file("libs/outer/in/inner/new.py", "new")
    assert sources(texts(pack(nested, jobs)))["libs/outer/in/inner/inner.py"] == "changed"
    record = provenance(jobs)
    assert (record["dirty"], record["diff"]) == (True, "")
    inner = record["submodules"]["libs/outer"]["submodules"]["in/inner"]
    assert inner["dirty"] is True
    assert "+changed" in inner["diff"]
    assert sources(texts(pack(nested, jobs, include_untracked=True)))["libs/outer/in/inner/new.py"] == "new"
    with pytest.raises(PackagingError, match=r"libs/outer/in/inner/inner\.py"):
        pack(nested, jobs, check_uncommitted_changes=True)
    with pytest.raises(PackagingError, match=r"libs/outer/in/inner/new\.py"):
        pack(nested, jobs, check_untracked_files=True)


def test_a_submodule_at_another_commit_is_a_change(nested, jobs, texts, new_repo):
    outer = new_repo(nested.root / "libs/outer")
    outer.file("outer.py", "newer")
    newer = outer.commit()
    assert sources(texts(pack(nested, jobs)))["libs/outer/outer.py"] == "newer"
    record = provenance(jobs)
    assert (record["dirty"], record["submodules"]["libs/outer"]["commit"]) == (True, newer)
    assert f"+Subproject commit {newer}" in record["diff"]
    assert sources(texts(pack(nested, jobs, ref="main")))["libs/outer/outer.py"] == "outer"
    with pytest.raises(PackagingError, match="libs/outer"):
        pack(nested, jobs, check_uncommitted_changes=True)


def test_subpaths_around_and_in_submodules(nested, jobs, texts):
    # As NeMo-Run does it: those elsewhere keep their place.
    assert sources(texts(pack(nested, jobs, subpath="pkg"))) == {"model.py": "layers = 2\n", **SUBMODULES}
    both = {"outer/outer.py": "outer", "outer/in/inner/inner.py": "inner"}
    assert sources(texts(pack(nested, jobs, subpath="libs"))) == both
    assert sources(texts(pack(nested, jobs, subpath="libs/outer"))) == {"outer.py": "outer", "in/inner/inner.py": "inner"}
    assert sources(texts(pack(nested, jobs, subpath="libs/outer/in", ref="main"))) == {"inner/inner.py": "inner"}
    assert texts(pack(nested, jobs, subpath="pkg", include_submodules=False)) == {"model.py": "layers = 2\n"}


def test_an_untracked_repository_in_the_tree(repo, jobs, texts, new_repo):
    clone = new_repo(repo.root / "clone")
    clone.file("a.py", "a")
    clone.commit()
    assert texts(pack(repo, jobs)) == TRACKED
    assert texts(pack(repo, jobs, include_untracked=True)) == {**TRACKED, "clone/a.py": "a"}


def test_further_files_by_pattern(repo, jobs, tmp_path, texts):
    repo.file(".gitignore", "data\n")
    repo.commit()
    repo.file("data/a.txt", "a")
    repo.file("data/deep/b.txt", "b")
    tracked = {**TRACKED, ".gitignore": "data\n"}
    data = {"data/a.txt": "a", "data/deep/b.txt": "b"}
    assert texts(pack(repo, jobs, include_pattern="data")) == {**tracked, **data}
    assert texts(pack(repo, jobs, include_pattern="data/*.txt")) == {**tracked, "data/a.txt": "a"}
    assert texts(pack(repo, jobs, include_pattern=str(repo.root / "data"), ref="main")) == {**tracked, **data}
    (tmp_path / "far/in").mkdir(parents=True)
    (tmp_path / "far/in/c.txt").write_text("c")
    far = {"include_pattern": [str(tmp_path / "far"), "", "data/a.txt"]}
    relative = {"include_pattern_relative_path": [str(tmp_path), "", "data"]}
    assert texts(pack(repo, jobs, **far, **relative)) == {**tracked, "far/in/c.txt": "c", "a.txt": "a"}
    with pytest.raises(PackagingError, match="does not lie below"):
        pack(repo, jobs, include_pattern=str(tmp_path / "far"))
    with pytest.raises(ValueError, match="3 patterns to include but 1 relative"):
        pack(repo, jobs, **far)
    with pytest.raises(PackagingError, match="matches no file"):
        pack(repo, jobs, include_pattern="nothing*")


def test_what_git_refuses_is_told_in_its_own_words(repo, jobs, tmp_path, new_repo):
    with pytest.raises(PackagingError, match=r"not a git repository.*basepath"):
        run.GitArchivePackager().package(tmp_path, jobs, "job")
    with pytest.raises(PackagingError, match="cannot be packed with git"):
        run.GitArchivePackager().package(tmp_path / "missing", jobs, "job")
    with pytest.raises(PackagingError, match=r"no git ref 'nosuch': fatal: .*branch"):
        pack(repo, jobs, ref="nosuch")
    for ref in ("", "--output=x"):
        with pytest.raises(PackagingError, match="cannot be a git ref"):
            pack(repo, jobs, ref=ref)
    with pytest.raises(PackagingError, match="no git ref 'HEAD'"):
        pack(new_repo(tmp_path / "unborn"), jobs)


def test_nothing_to_pack(tmp_path, jobs, new_repo):
    empty = new_repo(tmp_path / "empty")
    empty.git("commit", "--quiet", "--allow-empty", "--message", "empty")
    with pytest.raises(PackagingError, match="nothing to pack"):
        pack(empty, jobs)
    assert os.listdir(jobs) == []


def test_a_missing_git(repo, jobs, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PackagingError, match="git is not installed"):
        pack(repo, jobs)


def test_a_job_directory_that_cannot_be_written_to(repo, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PackagingError, match=r"cannot be packed: .*room"):
        pack(repo, str(tmp_path / "file/jobs"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read(repo, jobs):
    repo.file("train.py", "changed", mode=0)
    with pytest.raises(PackagingError, match=r"train\.py"):
        pack(repo, jobs)


def test_a_hooks_environment_does_not_mislead(repo, jobs, texts, new_repo, tmp_path, monkeypatch):
    other = new_repo(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other.root / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert texts(pack(repo, jobs)) == TRACKED


def test_the_users_way_to_see_diffs_does_not_matter(repo, jobs):
    repo.file("train.py", "changed\n")
    pack(repo, jobs)
    plain = provenance(jobs)["diff"]
    for setting in ("diff.noprefix=true", "diff.mnemonicPrefix=true", "color.ui=always", "diff.external=false"):
        repo.git("config", *setting.split("="))
    pack(repo, jobs)
    assert provenance(jobs)["diff"] == plain


def test_travels_in_an_executor():
    executor = run.LocalExecutor(packager=run.GitArchivePackager(subpath="a", include_pattern=["x", "y"]))
    spec = executor_to_spec(executor)
    again = executor_from_spec(type(spec).model_validate_json(spec.model_dump_json()))
    assert again.packager == executor.packager


characters = st.characters(blacklist_characters="\0/", blacklist_categories=("Cs",))
odd = st.sampled_from(
    ["a b", "it's", 'say "hi"', "new\nline", "tab\there", "back\\slash", "-rf", "*", "[a]", "$(x)", "é", "日本", ":top"]
)
# Bytes that are no UTF-8 come as surrogates.
part = (odd | st.text(characters, min_size=1, max_size=8) | st.just("\udce9")).filter(
    lambda name: name not in (".", "..") and len(os.fsencode(name)) < 200 and not re.search(r"(?i)\.git|git~", name)
)
content = st.tuples(st.binary(max_size=20), st.booleans()) | st.sampled_from(["target", "../up", "/abs/olute", "a b\n"])


def write_tree(root, spec):
    """Writes what of `spec` fits together; directories win over files that came later."""
    for parts, what in spec.items():
        path = root.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(path) or path.parent.is_symlink():
                continue
            if isinstance(what, str):
                os.symlink(what, path)
            else:
                path.write_bytes(what[0])
                path.chmod(0o755 if what[1] else 0o644)
        except OSError:  # a parent is a file
            continue


trees = st.dictionaries(st.lists(part, min_size=1, max_size=3).map(tuple), content, min_size=1, max_size=6)


@settings(max_examples=15, deadline=None, database=None)
@given(trees, trees)
@example({("x" * 120, "y" * 120): (b"long", True)}, {("x" * 120, "z" * 99): "l" * 150})
def test_unpacking_gives_the_tree_again(tree, unpack, new_repo, committed, changed):
    with tempfile.TemporaryDirectory() as directory:
        repo = new_repo(Path(directory, "repo"))
        write_tree(repo.root, committed)
        repo.commit()
        jobs = str(Path(directory, "jobs"))
        before = tree(repo.root)
        write_tree(repo.root, changed)
        after = tree(repo.root)
        assert unpack(pack(repo, jobs, ref="main")) == before
        assert unpack(pack(repo, jobs)) == before
        assert unpack(pack(repo, jobs, include_untracked=True)) == after
        repo.git("add", "--all")
        assert unpack(pack(repo, jobs)) == after
