"""tools/unused_dependencies.py: what nothing uses is found, and every way of use is one."""

from pathlib import Path

import pytest

from tools import unused_dependencies

PYTEST_NEEDS = "[tool.pytest.ini_options]\nminversion = '9'\n"


def workspace(root: Path, requirement: str, **files: str) -> list[str]:
    """What is unused of a workspace with one requirement and these files, "/" written as "__"."""
    everything = {
        "pyproject.toml": PYTEST_NEEDS,
        "Makefile": "",
        ".ci/run": "",
        **{name.replace("__", "/"): text for name, text in files.items()},
    }
    everything["pyproject.toml"] += (
        f'[dependency-groups]\ndev = [{{ include-group = "test" }}]\ntest = ["{requirement}"]\n'
    )
    for name, text in everything.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(unused_dependencies.unused(root))


USED = {
    "imported": ("PyYAML>=6", {"tests__test_a.py": "import yaml"}),
    "imported in a function": ("grpcio-testing", {"tests__fix_a.py": "def f():\n    from grpc_testing import channel"}),
    "imported by an example's tests": ("PyYAML", {"examples__a__tests__test_a.py": "from yaml import safe_load"}),
    "imported by a tool": ("PyYAML", {"tools__a.py": "import yaml"}),
    "a module of a namespace": ("google-api-core", {"tests__test_a.py": "from google.api_core import operation"}),
    "a package of a namespace": ("google-api-core", {"tests__test_a.py": "from google import api_core"}),
    "not installed": ("matplotlib>=3.10", {"tests__bench__plot.py": "from matplotlib import pyplot"}),
    "run as a module": (
        "grpcio-tools",
        {"tests__test_a.py": "run([*(sys.executable, '-m', 'grpc_tools.protoc'), '-I.'])"},
    ),
    "a command of a check": ("deptry", {"tools__check.py": "passes(BIN / 'deptry', 'src')"}),
    "a command of a test": ("buf-bin", {"tests__test_a.py": "run([Path(sys.executable).parent / 'buf', 'curl'])"}),
    "a command of another name": ("import-linter", {"tools__check.py": "passes(BIN / 'lint-imports')"}),
    "a command of the Makefile": ("ruff", {"Makefile": "format:\n\t@$(BIN)/ruff format\n"}),
    "a command of CI": ("mypy", {".ci__run": "$(BIN)/mypy\n"}),
    "a plugin that is set": ("pytest-asyncio", {"pyproject.toml": f"{PYTEST_NEEDS}asyncio_mode = 'auto'\n"}),
    "a plugin whose setting has its name": ("pytest-timeout", {"pyproject.toml": f"{PYTEST_NEEDS}timeout = 120\n"}),
    "a plugin by its flag": ("pytest-xdist", {"Makefile": "test:\n\t@$(BIN)/pytest -n 2 --dist loadfile\n"}),
    "types of what is shipped": ("types-psutil", {"libs__a__src__a.py": "import psutil"}),
    "types of a namespace": ("types-protobuf", {"services__a__src__a.py": "from google.protobuf import any_pb2"}),
    "needed on another system": ("ruff; sys_platform == 'nowhere'", {}),
    "types of what a test imports": ("types-PyYAML", {"tests__test_a.py": "import yaml"}),
}


@pytest.mark.parametrize(("requirement", "files"), USED.values(), ids=USED)
def test_each_way_of_use_is_one(tmp_path: Path, requirement: str, files: dict[str, str]) -> None:
    assert workspace(tmp_path, requirement, **files) == []


UNUSED = {
    "nothing": ("grpcio-testing>=1.80", {}),
    "a name in prose": ("ruff", {"tools__check.py": '"""Runs ruff."""\nChecked("ruff", passes(BIN / "mypy"))'}),
    "another module of the namespace": ("google-api-core", {"tests__test_a.py": "from google.rpc import status_pb2"}),
    "a module of the own package": ("PyYAML", {"tests__test_a.py": "from .yaml import load"}),
    "imported by what is shipped alone": ("PyYAML", {"libs__a__src__a.py": "import yaml"}),
    "imported in an environment of its own": ("grpcio-tools", {"tools__protoc__a.py": "import grpc_tools"}),
    "not installed": ("matplotlib", {"tests__bench__plot.py": "import math"}),
    "a plugin that nothing sets": ("pytest-timeout", {}),
    "types of what nothing imports": ("types-psutil", {"tests__test_a.py": "import psycopg"}),
    "types of another module of the namespace": (
        "types-protobuf",
        {"tests__test_a.py": "from google.rpc import status_pb2"},
    ),
}


@pytest.mark.parametrize(("requirement", "files"), UNUSED.values(), ids=UNUSED)
def test_what_nothing_uses_is_found(tmp_path: Path, requirement: str, files: dict[str, str]) -> None:
    (line,) = workspace(tmp_path, requirement, **files)
    name = requirement.partition(">")[0]
    assert line == f"pyproject.toml: {name} of the group test is used by nothing"


def test_what_cannot_be_looked_into_is_told(tmp_path: Path) -> None:
    (line,) = workspace(tmp_path, "no-such-distribution")
    assert line == "pyproject.toml: no-such-distribution of the group test is not installed, and not in NOT_INSTALLED"


def test_it_fails_with_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace(tmp_path, "grpcio-testing")
    monkeypatch.setattr(unused_dependencies, "ROOT", tmp_path)
    assert unused_dependencies.main() == 1
    assert "grpcio-testing of the group test is used by nothing" in capsys.readouterr().out
    (tmp_path / "conftest.py").write_text("import grpc_testing")
    assert unused_dependencies.main() == 0
