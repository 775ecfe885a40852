"""Finds SQL outside the packages that may hold it (`make check`, as "sql").

Only rowcall.queue.postgres, rowcall.sharding and rowcall.migrations know tables; everybody else calls them. rowcall.embedded
administers a server of its own (it creates databases) and knows no table either. A string literal that reads as a
statement, and a .sql file, is SQL; docstrings are prose. An example is a user's own code and its own affair, as are
tests; but the conformance suite of the queue knows no implementation: no SQL, and no import of one or of its driver.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    "libs/common/src/rowcall",
    "libs/cli/src",
    "services/gateway/src",
    "services/worker/src",
    "services/standalone/src",
)
ALLOWED = tuple(
    f"libs/common/src/rowcall/{package}/" for package in ("queue/postgres", "sharding", "migrations", "embedded")
)
NEUTRAL = "tests/integration/queue/conformance"
"""Where nothing may be of one implementation of the queue."""

STATEMENT = re.compile(
    r"""^\s*(?:--[^\n]*\n\s*)*(?:
        select\s+(?:(?:.*\W)?from\s|\S+\(|\d) | insert\s+into\s | update\s+\S+\s+(?:\S+\s+)?set\s
      | delete\s+from\s | merge\s+into\s | with\s+(?:recursive\s+)?\w+\s+as\s | truncate\s | call\s+\S+\(
      | copy\s+\S+\s+(?:from|to)\s | (?:grant|revoke)\s.+\s(?:to|from)\s | lock\s+table\s
      | (?:create|alter|drop)\s+(?:(?:or\s+replace|unique|materialized|temp|temporary|unlogged|event)\s+)*
        (?:table|index|view|function|procedure|trigger|policy|role|schema|database|type|sequence|extension)\s
      | set\s+(?:local|session|role)\s | (?:un)?listen\s+[\w"{*]+\s*;?\s*$ | notify\s+[\w"{]+
    )""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)

IMPLEMENTATION = re.compile(r"(?:^|\.)(?:psycopg|postgres)", re.IGNORECASE)
"""In an imported name: the driver, rowcall.queue.postgres, or what tests have of it (postgres_probe, PostgresQueue)."""


def docstrings(tree: ast.AST) -> set[ast.AST]:
    """The string expressions that stand alone: docstrings of modules, classes, functions and attributes."""
    return {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def statements(source: str) -> Iterator[tuple[int, str]]:
    """The line and the beginning of each string literal, plain or formatted, that reads as an SQL statement."""
    tree = ast.parse(source)
    prose = docstrings(tree)
    inner = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if node in prose or node in inner:
            continue
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            text = node.value if isinstance(node.value, str) else node.value.decode("utf-8", "replace")
        else:
            continue
        if STATEMENT.match(text):
            yield node.lineno, " ".join(text.split())[:60]


def imports(source: str) -> Iterator[tuple[int, str]]:
    """The line and the whole name of everything that is imported."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, each.name) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{'.' * node.level}{node.module or ''}.{each.name}") for each in node.names)


def taking_sides(root: Path) -> Iterator[str]:
    """One line for each piece of SQL, and each import of an implementation, in the conformance suite."""
    for path in sorted((root / NEUTRAL).rglob("*")):
        place = path.relative_to(root).as_posix()
        if path.suffix == ".sql":
            yield f"{place}: an SQL file"
        elif path.suffix == ".py":
            source = path.read_text("utf-8")
            found = [
                *statements(source),
                *((line, f"import {name}") for line, name in imports(source) if IMPLEMENTATION.search(name)),
            ]
            yield from (f"{place}:{line}: {text}" for line, text in sorted(found))


def misplaced(root: Path) -> Iterator[str]:
    """One line for each piece of SQL where none may be."""
    for source in SOURCES:
        for path in sorted((root / source).rglob("*")):
            place = path.relative_to(root).as_posix()
            if place.startswith(ALLOWED):
                continue
            if path.suffix == ".sql":
                yield f"{place}: an SQL file"
            elif path.suffix == ".py" and not path.name.endswith(("_pb2.py", "_pb2_grpc.py")):
                for line, text in statements(path.read_text("utf-8")):
                    yield f"{place}:{line}: {text}"


def main() -> int:
    """Prints what is misplaced; returns the exit status."""
    found, sided = list(misplaced(ROOT)), list(taking_sides(ROOT))
    for line in (*found, *sided):
        print(line)
    if found:
        print(
            "SQL belongs to rowcall.queue.postgres, rowcall.sharding or rowcall.migrations: move it there and call it"
        )
    if sided:
        print("The conformance suite knows no implementation: ask the Protocols or the Probe (tests/support/probe.py)")
    return 1 if found or sided else 0


if __name__ == "__main__":
    sys.exit(main())
