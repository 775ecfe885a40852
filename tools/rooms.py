"""Holds the rooms to what docs/architecture.md promises of them (`make check`, as "rooms").

A package's docstring names every module in it, so that whoever opens it reads its plan first. The page names every room, which
is a package within a service or of the queue, and every module at the top of a service; and what lies loose at the top of a
service or of the integration tests can be taken in at a glance. Which room may import which is import-linter's.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = "docs/architecture.md"
ROOMY = ("services/gateway/src/rowcall_gateway", "services/worker/src/rowcall_worker")
"""The services that are made of rooms. What lies at their top is named by the page: their docstrings speak to others."""
SERVICES = (*ROOMY, "services/standalone/src/rowcall_standalone")
ROOMS_IN = (*ROOMY, "libs/common/src/rowcall/queue")
"""Where every package is a room."""
PACKAGES_IN = (*SERVICES, "libs/common/src/rowcall", "libs/cli/src/rowcall_cli")
"""Where every package has a docstring that names its modules."""
GENERATED = ("v1", "options", "probe")
"""Packages of the common library that are made from protos."""
FEW = (*SERVICES, "tests/integration")
MOST = 12
"""As many modules, packages not counted, may lie at the top of one of those."""


def modules(folder: Path) -> list[str]:
    """The modules and packages right in a folder, by their names; not its own __init__."""
    files = [path.stem for path in folder.glob("*.py") if path.name != "__init__.py"]
    return sorted([*files, *(path.parent.name for path in folder.glob("*/__init__.py"))])


def packages(root: Path, places: Iterable[str]) -> Iterator[Path]:
    """Every package at or below these places that people wrote."""
    for place in places:
        for found in sorted((root / place).rglob("__init__.py")):
            if not set(GENERATED).intersection(found.relative_to(root / place).parts):
                yield found.parent


def named(text: str) -> set[str]:
    """What a text names in backticks: `module`, `room.module`, `room/`, and the words of what is written between them."""
    return {word for quoted in re.findall(r"`([^`\n]+)`", text) for word in re.split(r"[^\w]+", quoted)}


def faults(root: Path) -> Iterator[str]:
    """One line for each promise that is not kept."""
    for place in FEW:
        loose = [path.name for path in sorted((root / place).glob("*.py"))]
        if len(loose) > MOST:
            yield f"{place}: {len(loose)} modules lie at its top, {MOST} at most may: move some into a room"
    page = root / PAGE
    told = named(page.read_text("utf-8")) if page.is_file() else set()
    for place in ROOMY:
        for module in modules(root / place):
            if module not in told:
                yield f"{PAGE}: does not name `{module}` of {place}"
    for package in packages(root, PACKAGES_IN):
        place = package.relative_to(root).as_posix()
        docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text("utf-8"))) or ""
        missing = [module for module in modules(package) if module not in named(docstring)]
        if not docstring:
            yield f"{place}/__init__.py: has no docstring: say what is in the package, who calls it, what it must not import"
        elif missing and place not in ROOMY:
            yield f"{place}/__init__.py: its docstring does not name {', '.join(f'`{each}`' for each in missing)}"
    for room in packages(root, ROOMS_IN):
        place = room.relative_to(root).as_posix()
        if place not in ROOMY and room.name not in told:
            yield f"{PAGE}: does not name the room `{room.name}` ({place})"


def main() -> int:
    """Prints what is not kept; returns the exit status."""
    found = list(faults(ROOT))
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
