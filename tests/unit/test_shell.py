from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_prefect.errors import ConfigError
from nemo_prefect.shell import check_env, check_name, exports, join, slug

words = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)))


@settings(max_examples=40, deadline=None)
@given(st.lists(words, max_size=5))
def test_a_shell_gives_the_same_words_again(argv: list[str]) -> None:
    done = subprocess.run(
        ["bash", "-c", "printf '%s\\0' " + join(argv) if argv else "true"], capture_output=True, check=True
    )
    assert done.stdout.decode() == "".join(f"{word}\0" for word in argv)


@settings(max_examples=40, deadline=None)
@given(words)
def test_a_shell_exports_the_same_value(value: str) -> None:
    done = subprocess.run(["bash", "-c", exports({"ODD": value}) + "printenv -0 ODD"], capture_output=True, check=True)
    assert done.stdout.decode() == value + "\0"


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A\n", "Ä", "A=B"])
def test_odd_environment_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="environment variable"):
        check_env({name: "x"})


def test_odd_environment_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="NUL"):
        check_env({"A": "a\0b"})
    with pytest.raises(ConfigError, match="no text"):
        check_env({"A": 1})  # type: ignore[dict-item]


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "a\nb", "a%b", "a" * 300])
def test_names_that_cannot_name_a_directory_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="title"):
        check_name("title", name)


@pytest.mark.parametrize("name", ["a", "llama-3.1 8B", "größer", "a_b-c.d"])
def test_usual_names_are_taken(name: str) -> None:
    assert check_name("title", name) == name


@given(st.text(), st.text())
def test_slugs_are_safe_and_unique(a: str, b: str) -> None:
    assert set(slug(a)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert slug(a)
    assert not slug(a).startswith(".") or slug(a) == a
    assert (slug(a) == slug(b)) == (a == b)
    assert os.path.basename(slug(a)) == slug(a)
