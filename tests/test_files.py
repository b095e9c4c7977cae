"""Files are there whole or not at all, whoever else writes them and whatever stops the writer."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from circa_train import files
from circa_train.files import (
    file_digest,
    read_json,
    whole_folder,
    write_bytes,
    write_file,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writing_replaces_whole_files_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "a.txt", "1")
    write_text(tmp_path / "deep" / "a.txt", "2")
    assert [(f.name, f.read_text()) for f in (tmp_path / "deep").iterdir()] == [("a.txt", "2")]


def test_results_are_strict_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"accuracy": math.nan})
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_bytes(tmp_path / "b", b"\x00\xff")
    write_text(tmp_path / "t", "\u00fc\r\n")
    write_json(tmp_path / "j", {"a": [1, None]})
    assert (tmp_path / "b").read_bytes() == b"\x00\xff"
    assert (tmp_path / "t").read_bytes() == b"\xc3\xbc\r\n"  # no line ending is translated
    assert read_json(tmp_path / "j") == {"a": [1, None]}


@pytest.mark.parametrize("content", [None, "", "{", "[1]", "null", b"\xff"])
def test_what_is_no_json_object_reads_as_none(tmp_path: Path, content: str | bytes | None) -> None:
    if content is not None:
        (tmp_path / "j").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert read_json(tmp_path / "j") is None


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")

    def half(file) -> None:
        file.write(b"half of it")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_file(tmp_path / "a", half)
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_contents_and_names_are_forced_to_the_disk_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        events.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", lambda *names: (events.append("rename"), replace(*names)))
    write_text(tmp_path / "a", "1")
    assert events == ["file", "rename", "folder"]


def test_the_file_has_the_rights_that_any_new_file_gets(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "1")
    (tmp_path / "b").write_text("1")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    def outer(file) -> None:
        file.write(b"outer, ")
        write_text(tmp_path / "a", "inner")  # another process would not know of us any better
        assert (tmp_path / "a").read_text() == "inner"
        file.write(b"the last one wins")

    write_file(tmp_path / "a", outer)
    assert (tmp_path / "a").read_text() == "outer, the last one wins"
    assert names(tmp_path) == ["a"]


def test_what_a_killed_writer_leaves_is_removed_after_a_day(tmp_path: Path) -> None:
    code = (
        "import os, sys; from circa_train.files import whole_folder, write_file\n"
        "write_file(sys.argv[1], lambda file: os._exit(9))"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a[1]")], timeout=60)
    assert killed.returncode == 9
    (leftover,) = tmp_path.iterdir()
    write_text(tmp_path / "a[1]", "1")
    assert leftover.exists(), "its writer may still be at work"
    stranger = tmp_path / ".a1.partial"
    stranger.write_text("")
    folder = tmp_path / ".a[1].0123456789ab.partial"
    folder.mkdir()
    (folder / "x").write_text("")
    for path in (leftover, stranger, folder):
        os.utime(path, (1, 1))
    write_text(tmp_path / "a[1]", "2")
    assert names(tmp_path) == [".a1.partial", "a[1]"]


def fill(folder: Path, content: str | bytes, *, replace: bool) -> None:
    with whole_folder(folder, replace=replace) as new:
        assert not folder.exists() or (folder / "x").read_text() == "old"
        (new / "x").write_text(content)


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    fill(tmp_path / "deep" / "f", "old", replace=False)
    fill(tmp_path / "deep" / "f", "new", replace=False)
    assert (tmp_path / "deep" / "f" / "x").read_text() == "old"
    fill(tmp_path / "deep" / "f", "new", replace=True)
    assert (tmp_path / "deep" / "f" / "x").read_text() == "new"
    assert names(tmp_path / "deep") == ["f"]


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_that_cannot_be_filled_leaves_what_was_there(tmp_path: Path, replace: bool) -> None:
    fill(tmp_path / "f", "old", replace=False)
    with pytest.raises(TypeError, match="data must be str"):
        fill(tmp_path / "f", b"not text", replace=replace)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NotADirectoryError), whole_folder(tmp_path / "file", replace=replace):
        pass
    assert (tmp_path / "f" / "x").read_text() == "old"
    assert names(tmp_path) == ["f", "file"]


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path: Path) -> None:
    fill(tmp_path / "f", "old", replace=False)
    with pytest.raises(OSError, match="No such file"), whole_folder(tmp_path / "f", replace=True) as new:
        new.rmdir()
    assert (tmp_path / "f" / "x").read_text() == "old"
    assert names(tmp_path) == ["f"]


def test_the_digest_of_a_folder_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_text("1")
    first = file_digest(tmp_path)
    (tmp_path / "sub" / "a").rename(tmp_path / "sub" / "b")
    renamed = file_digest(tmp_path)
    (tmp_path / "sub" / "b").write_text("2")
    assert len({first, renamed, file_digest(tmp_path)}) == 3


def test_the_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"abc")
    assert file_digest(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_neither_torch_nor_hydra_is_needed() -> None:
    code = "import sys, circa_train.files, circa_train.text; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not {"torch", "hydra"} & set(run.stdout.split())


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="the system has no exchange of names")
def test_a_folder_is_replaced_without_a_moment_without_one(tmp_path: Path) -> None:
    """Somebody who looks all the time always finds a folder of that name."""
    place, seen, done = tmp_path / "folder", set(), threading.Event()
    with whole_folder(place, replace=True) as new:
        (new / "content").write_text("0")

    def look() -> None:
        while not done.is_set():
            seen.add(place.is_dir())

    watcher = threading.Thread(target=look)
    watcher.start()
    for number in range(1, 200):
        with whole_folder(place, replace=True) as new:
            (new / "content").write_text(str(number))
    done.set()
    watcher.join()
    assert seen == {True}
    assert (place / "content").read_text() == "199"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_without_an_exchange_a_folder_is_replaced_by_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    for text in ("old", "new"):
        with whole_folder(tmp_path / "folder", replace=True) as new:
            (new / "content").write_text(text)
    assert (tmp_path / "folder" / "content").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
