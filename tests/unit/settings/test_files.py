"""A settings' file that is read again when it changes."""

from __future__ import annotations

from pathlib import Path

from rowcall.settings.files import WatchedFile
from tests.support.tokens import replaced


def read(file: Path) -> str:
    text = file.read_text()
    if text == "bad":
        raise ValueError("is bad")
    return text


def test_what_is_new_is_handed_on_and_what_is_wrong_is_not(tmp_path: Path) -> None:
    file = tmp_path / "settings"
    file.write_text("one")
    found: list[str] = []
    watched = WatchedFile(file, read, found.append)
    watched.look()
    assert found == [], "nothing has changed"
    replaced(file, b"two")
    watched.look()
    watched.look()
    assert found == ["two"]
    replaced(file, b"bad")
    watched.look()
    file.unlink()
    watched.look()
    assert found == ["two"], "what was there before goes on"
    replaced(file, b"three")
    watched.look()
    assert found == ["two", "three"]


def test_a_link_that_is_pointed_elsewhere_is_a_change(tmp_path: Path) -> None:
    """As Kubernetes changes what it mounts: the file's own times stay as they are."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings").write_text(name)
    link = tmp_path / "now"
    link.symlink_to(tmp_path / "a")
    found: list[str] = []
    watched = WatchedFile(link / "settings", read, found.append)
    fresh = tmp_path / "fresh"
    fresh.symlink_to(tmp_path / "b")
    fresh.replace(link)
    watched.look()
    assert found == ["b"]
