"""Packing: equal content gives equal bytes, what does not belong in stays out, and what can't be packed says why."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from pathlib import Path

import pytest

from actorfw.io import packing
from actorfw.io.packing import FOLDER, MODULE, pack, same_content, signature, source_of
from actorfw.values.errors import UsageError

LIMIT = 1 << 20


def _packed(path: Path, kind: str = FOLDER, limit: int = LIMIT) -> bytes:
    file = io.BytesIO()
    pack(source_of(kind, str(path), "working_dir"), file, limit)
    return file.getvalue()


def _names(package: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(package)).namelist()


def _fill(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        assert path.is_relative_to(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    one = _fill(tmp_path / "one", {"b.py": "b = 1", "a.py": "a = 1", "sub/c.py": "c = 1"})
    other = _fill(tmp_path / "other", {"sub/c.py": "c = 1", "a.py": "a = 1", "b.py": "b = 1"})
    os.utime(other / "a.py", (1, 1))
    (other / "b.py").chmod(0o600)
    assert _packed(one) == _packed(other)
    assert _names(_packed(one)) == ["a.py", "b.py", "sub/c.py"]
    (other / "b.py").chmod(0o700)
    assert _packed(one) != _packed(other)


def test_nothing_is_compressed(tmp_path: Path) -> None:
    package = _packed(_fill(tmp_path / "p", {"a.py": "x" * 1000}))
    (info,) = zipfile.ZipFile(io.BytesIO(package)).infolist()
    assert info.compress_type == zipfile.ZIP_STORED
    assert stat.S_ISREG(info.external_attr >> 16)


def test_what_is_made_stays_out(tmp_path: Path) -> None:
    p = _fill(tmp_path / "p", {"a.py": "", "sub/x.py": "", "data/raw/x": "", "data/x": "", "notes": ""})
    for name in (".git/config", "__pycache__/a.pyc", "venv/bin/python", "venv/pyvenv.cfg", "keep/notes"):
        (p / name).parent.mkdir(parents=True, exist_ok=True)
        (p / name).write_text("")
    (p / ".actorfwignore").write_text("# large\ndata/raw/\n/notes\nsub\n")
    assert _names(_packed(p)) == ["a.py", "data/x", "keep/notes"]


def test_links_are_what_they_lead_to_and_circles_end(tmp_path: Path) -> None:
    p = _fill(tmp_path / "p", {"a.py": "a = 1"})
    outside = _fill(tmp_path / "outside", {"deep": "text"})
    (p / "b.py").symlink_to(p / "a.py")
    (p / "nowhere").symlink_to(tmp_path / "missing")
    (p / "sub").symlink_to(outside)
    (p / "back").symlink_to(p)
    os.mkfifo(p / "pipe")
    assert _names(_packed(p)) == ["a.py", "b.py", "sub/deep"]


def test_a_module_keeps_its_name(tmp_path: Path) -> None:
    package = _fill(tmp_path / "mine", {"__init__.py": "", "sub/x.py": ""})
    assert _names(_packed(package, MODULE)) == ["mine/__init__.py", "mine/sub/x.py"]
    (tmp_path / "single.py").write_text("x = 1")
    assert _names(_packed(tmp_path / "single.py", MODULE)) == ["single.py"]


def test_an_archive_is_packed_anew(tmp_path: Path) -> None:
    folder = _fill(tmp_path / "p", {"a.py": "a = 1", "b/c.py": ""})
    with zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("b/c.py", "a.py"):
            archive.write(folder / name, name)
    assert _packed(tmp_path / "p.zip") == _packed(folder)


@pytest.mark.parametrize("name", ["../x.py", "/x.py", "a/../../x.py", "C:/x.py", "a\\b.py"])
def test_an_archive_that_leads_out_of_itself_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(name, "")
    with pytest.raises(UsageError, match="no plain file below"):
        _packed(tmp_path / "bad.zip")


def test_an_archive_that_grows_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(64 * LIMIT))
    assert (tmp_path / "bomb.zip").stat().st_size < LIMIT
    with pytest.raises(UsageError, match="zeros"):
        _packed(tmp_path / "bomb.zip")


def test_what_is_too_large_names_the_largest(tmp_path: Path) -> None:
    p = _fill(tmp_path / "p", {"a.py": "", "small": "x" * 100, "large": "x" * 3000, "larger": "x" * 4000})
    with pytest.raises(UsageError, match=r"larger \(4000 bytes\), large \(3000 bytes\).*\.actorfwignore"):
        _packed(p, limit=5000)


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MOST_FILES", 2)
    with pytest.raises(UsageError, match="more than 2 files"):
        _packed(_fill(tmp_path / "p", {"a": "", "b": "", "c": ""}))


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (FOLDER, "missing", "can't be read: No such file"),
        (FOLDER, "file.txt", "must be a folder"),
        (MODULE, "file.txt", "package's folder"),
        (MODULE, "no-name", "package's folder"),
        (MODULE, "json.py", "json is imported in every worker"),
        (MODULE, "x-1-cp311-cp311-linux_x86_64.whl", "one platform"),
        (FOLDER, "not.zip", "no archive"),
    ],
)
def test_what_can_be_no_package_says_so(tmp_path: Path, kind: str, name: str, message: str) -> None:
    for made in ("file.txt", "json.py", "x-1-cp311-cp311-linux_x86_64.whl", "not.zip"):
        (tmp_path / made).write_text("")
    (tmp_path / "no-name").mkdir()
    with pytest.raises(UsageError, match=message):
        _packed(tmp_path / name, kind)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    p = _fill(tmp_path / "p", {"a.py": ""})
    (p / "a.py").chmod(0)
    with pytest.raises(UsageError, match=r"a\.py can't be read"):
        _packed(p)


def test_a_signature_changes_with_the_files(tmp_path: Path) -> None:
    p = _fill(tmp_path / "p", {"a.py": "a = 1", "b.py": ""})
    source = source_of(FOLDER, str(p), "working_dir")
    before = signature(source)
    assert signature(source) == before
    (p / "a.py").write_text("a = 22")
    changed = signature(source)
    assert changed != before
    (p / "b.py").unlink()
    assert signature(source) not in (before, changed)


def test_same_content(tmp_path: Path) -> None:
    one = _fill(tmp_path / "x" / "mine", {"a.py": "a = 1", "b.py": ""})
    other = _fill(tmp_path / "y" / "mine", {"a.py": "a = 1", "b.py": ""})
    (other / "__pycache__").mkdir()
    (other / "__pycache__" / "a.pyc").write_text("")
    assert same_content(str(one), str(other))
    (other / "a.py").write_text("a = 2")
    assert not same_content(str(one), str(other))
    (other / "a.py").write_text("a = 1")
    (other / "c.py").write_text("")
    assert not same_content(str(one), str(other))
