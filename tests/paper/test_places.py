"""Where files are looked for, in which order, and what is said when they are nowhere."""

from pathlib import Path

import pytest

from solset.paper import CIFAR10_ARCHIVE, RESNET56_WEIGHTS, cache_folder

SOURCES = [CIFAR10_ARCHIVE, RESNET56_WEIGHTS]


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize("source", SOURCES)
def test_a_given_path_comes_before_the_cache(source, home):
    cached = put(home / "home" / source.name)
    assert source.find(download=False) == cached
    given = put(home / "given")
    assert source.find(given, download=False) == source.find(str(given)) == given


@pytest.mark.parametrize("source", SOURCES)
def test_a_given_path_that_is_not_there_is_not_replaced_by_another(source, home):
    put(home / "home" / source.name)
    with pytest.raises(FileNotFoundError, match=r"^nothing at .*/given\. .*not tried, for a path was given"):
        source.find(home / "given")


@pytest.mark.parametrize("source", SOURCES)
def test_without_download_both_cures_are_named(source, home):
    with pytest.raises(FileNotFoundError) as caught:
        source.find(download=False)
    message = str(caught.value)
    for part in (home / "home" / source.name, source.url, "PATH`", "turned off"):
        assert str(part) in message


def test_an_unpacked_folder_is_found(home):
    (home / "cifar-10-batches-py").mkdir()
    assert CIFAR10_ARCHIVE.find(home / "cifar-10-batches-py") == home / "cifar-10-batches-py"


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("SOLSET_HOME", "one")
    monkeypatch.setenv("XDG_CACHE_HOME", "two")
    assert cache_folder() == Path("one")
    monkeypatch.delenv("SOLSET_HOME")
    assert cache_folder() == Path("two/solset")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "solset"
