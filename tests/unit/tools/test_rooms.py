"""tools/rooms.py: what a room does not say, and what lies loose, is told of; a house in order is silent."""

from pathlib import Path

import pytest

from tools import rooms

EDGE = "services/gateway/src/rowcall_gateway/edge"


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small house in order: one room in the gateway."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/architecture.md").write_text("The gateway has `edge/` and `main`.")
    room = tmp_path / EDGE
    room.mkdir(parents=True)
    (room.parent / "__init__.py").write_text('"""The gateway."""')
    (room.parent / "main.py").touch()
    (room / "__init__.py").write_text('"""What every call passes: `gate`, `rules.py`."""')
    (room / "gate.py").touch()
    (room / "rules.py").touch()
    return tmp_path


def test_a_house_in_order(house: Path) -> None:
    assert list(rooms.faults(house)) == []


def test_a_module_that_its_room_does_not_name(house: Path) -> None:
    (house / EDGE / "quota.py").touch()
    (house / EDGE / "access").mkdir()
    (house / EDGE / "access/__init__.py").write_text('"""Who may."""')

    assert list(rooms.faults(house)) == [
        f"{EDGE}/__init__.py: its docstring does not name `access`, `quota`",
        f"docs/architecture.md: does not name the room `access` ({EDGE}/access)",
    ]


def test_a_room_without_a_docstring(house: Path) -> None:
    (house / EDGE / "__init__.py").write_text("")

    [told] = rooms.faults(house)
    assert told.startswith(f"{EDGE}/__init__.py: has no docstring")


def test_a_module_at_the_top_that_the_plan_does_not_name(house: Path) -> None:
    (house / EDGE).parent.joinpath("quota.py").touch()

    assert list(rooms.faults(house)) == [
        "docs/architecture.md: does not name `quota` of services/gateway/src/rowcall_gateway"
    ]


@pytest.mark.parametrize("place", ["services/standalone/src/rowcall_standalone", "tests/integration"])
def test_too_much_that_lies_loose(house: Path, place: str) -> None:
    (house / place).mkdir(parents=True)
    for number in range(12):
        (house / place / f"test_{number}.py").touch()
    assert list(rooms.faults(house)) == []

    (house / place / "one_more.py").touch()

    assert list(rooms.faults(house)) == [f"{place}: 13 modules lie at its top, 12 at most may: move some into a room"]
