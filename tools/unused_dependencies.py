"""Finds requirements of the workspace's dependency groups that nothing uses (`make check`, in "dependencies").

deptry, which holds each distribution against its own imports, knows no other use than an import, and takes any import of
`google` for one of google-api-core: most of the groups would be its exceptions, where the unused ones would hide. Here a
requirement is used if tests or tools import one of its modules or run it by `-m`; if a check, a tool, a test, the Makefile
or CI runs one of its commands; if it is a pytest plugin that is configured; or if it has the types of what any source
imports.
"""

import ast
import itertools
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePath

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
DEVELOPMENT = ("conftest.py", "tests/**/*.py", "tools/*.py", "examples/*/tests/**/*.py")
"""What the groups are for. tools/protoc, and the other queues that are measured, have environments of their own."""
SHIPPED = ("libs/*/src/**/*.py", "services/*/src/**/*.py", "examples/*/src/**/*.py")
SCRIPTS = ("Makefile", ".ci/run")

NOT_INSTALLED = {"matplotlib": "matplotlib"}
"""The module of what `make setup` leaves out: the group "bench" is installed by `make bench`."""
PLUGIN_FLAGS = {"xdist": "--dist"}
"""The flag of pytest plugins that are used by one, and have no settings."""

COMMAND = re.compile(r"\$\(BIN\)/([\w.-]+)")


@dataclass(slots=True)
class Uses:
    """What the workspace's files use."""

    modules: set[str] = field(default_factory=set)
    """Imported or run by tests and tools: dotted names, of what is taken from a module too."""
    typed: set[str] = field(default_factory=set)
    """Imported by anything."""
    commands: set[str] = field(default_factory=set)
    """Run out of the environment's bin."""
    plugins: set[str] = field(default_factory=set)
    """Words that configure pytest: its settings, and the flags of the Makefile and CI."""


@dataclass(slots=True)
class Offer:
    """What a distribution has to use."""

    modules: set[str] = field(default_factory=set)
    stubs: set[str] = field(default_factory=set)
    commands: set[str] = field(default_factory=set)
    plugins: set[str] = field(default_factory=set)


def imports(tree: ast.AST) -> Iterator[str]:
    """The dotted names that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def text_of(node: ast.AST | None) -> str:
    """A string literal's text; "" for anything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def runs(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The modules ("-m", name) and commands ("", name) that a module runs: behind a "-m", or as the end of a path."""
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple):
            words = [text_of(each) for each in node.elts]
            yield from (("-m", after) for word, after in itertools.pairwise(words) if word == "-m")
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            yield "", text_of(node.right)


def uses(root: Path) -> Uses:
    """Looks through the workspace."""
    found = Uses()
    for pattern in (*DEVELOPMENT, *SHIPPED):
        for path in root.glob(pattern):
            tree = ast.parse(path.read_text("utf-8"))
            names = set(imports(tree))
            found.typed |= names
            if pattern in DEVELOPMENT:
                found.modules |= names
                for how, name in runs(tree):
                    (found.modules if how else found.commands).add(name)
    for script in SCRIPTS:
        text = (root / script).read_text("utf-8")
        found.commands |= set(COMMAND.findall(text))
        found.plugins |= set(text.split())
    manifest = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    found.plugins |= set(manifest.get("tool", {}).get("pytest", {}).get("ini_options", {}))
    return found


def dotted(path: PurePath) -> str:
    """The name of the module in a file."""
    return ".".join(path.with_name(path.name.partition(".")[0]).parts).removesuffix(".__init__")


def offer(name: str) -> Offer:
    """What a distribution has to use, by its metadata. Raises PackageNotFoundError."""
    if name in NOT_INSTALLED:
        return Offer(modules={NOT_INSTALLED[name]})
    metadata = distribution(name)
    found = Offer()
    for entry in metadata.entry_points:
        if entry.group == "pytest11":
            found.plugins.add(entry.name)
    for file in metadata.files or ():
        if file.parts[0].endswith("-stubs"):
            found.stubs.add(dotted(PurePath(file.parts[0].removesuffix("-stubs"), *file.parts[1:])))
        elif file.suffix in {".py", ".so"}:
            found.modules.add(dotted(file))
        elif file.parts[0] == ".." and file.parts[-2] == "bin":
            found.commands.add(file.name)
    return found


def is_used(offered: Offer, used: Uses) -> bool:
    """Whether anything of a distribution is used."""
    return bool(
        offered.modules & used.modules
        or offered.stubs & used.typed
        or offered.commands & used.commands
        or any(
            PLUGIN_FLAGS.get(plugin) in used.plugins
            or any(word == plugin or word.startswith(f"{plugin}_") for word in used.plugins)
            for plugin in offered.plugins
        )
    )


def requirements(root: Path) -> Iterator[tuple[str, str]]:
    """Each group with the distributions that it names itself."""
    groups: Mapping[str, list[object]] = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))[
        "dependency-groups"
    ]
    for group, wanted in groups.items():
        for each in wanted:
            if isinstance(each, str):
                requirement = Requirement(each)
                # What another system needs is not installed here.
                if requirement.marker is None or requirement.marker.evaluate():
                    yield group, requirement.name


def unused(root: Path) -> Iterator[str]:
    """One line for each requirement that nothing uses."""
    used = uses(root)
    for group, name in requirements(root):
        try:
            offered = offer(name)
        except PackageNotFoundError:
            yield f"pyproject.toml: {name} of the group {group} is not installed, and not in NOT_INSTALLED"
            continue
        if not is_used(offered, used):
            yield f"pyproject.toml: {name} of the group {group} is used by nothing"


def main() -> int:
    """Prints what is unused; returns the exit status."""
    found = list(unused(ROOT))
    for line in found:
        print(line)
    if found:
        print("a requirement that nothing uses is one more to keep: remove it, and run `make lock`")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
