"""What a program's imports need not do: no garbage is looked for, and some modules come when they are asked for, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fix_commands import environment

END_SECONDS = 30.0


def run(program: str, *, folder: Path, **variables: str) -> str:
    """What a program prints, in a process of its own, which finds the modules of a folder."""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=False,
        env=environment(
            {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])), **variables}
        ),
        text=True,
        timeout=END_SECONDS,
    )
    assert not ended.returncode, ended.stderr
    return ended.stdout.strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A package `big` whose `heavy` says that it was imported, and a module `user` that takes it along."""
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "__init__.py").touch()
    (tmp_path / "big" / "heavy.py").write_text('print("heavy")\nVALUE = 7\n')
    (tmp_path / "user.py").write_text("from big import heavy\n\n\ndef value():\n    return heavy.VALUE\n")
    return tmp_path


STARTS = (
    "from rowcall.starting import importing\nwith importing(later=('big.heavy',)):\n    import user\nprint('started')\n"
)


def test_a_module_for_later_is_not_imported(folder: Path) -> None:
    assert run(STARTS, folder=folder) == "started"


def test_a_module_for_later_is_imported_once_when_something_is_asked_of_it(folder: Path) -> None:
    asked = "print(user.value(), user.value())\nfrom big.heavy import VALUE\nprint(VALUE)\n"
    assert run(STARTS + asked, folder=folder).split() == ["started", "heavy", "7", "7", "7"]


def test_whoever_imports_it_gets_the_module_itself(folder: Path) -> None:
    asked = "import big.heavy\nprint(big.heavy.VALUE, user.value(), type(big.heavy).__name__)\n"
    assert run(STARTS + asked, folder=folder).split() == ["started", "heavy", "7", "7", "module"]


def test_it_may_be_asked_for_while_others_are_imported(folder: Path) -> None:
    (folder / "early.py").write_text("import user\n\nprint(user.value())\n")
    program = STARTS.replace("import user", "import user, early")
    assert run(program, folder=folder).split() == ["heavy", "7", "started"]


def test_several_threads_may_ask_for_it_at_once(folder: Path) -> None:
    (folder / "big" / "heavy.py").write_text('import time\n\nprint("heavy")\ntime.sleep(0.2)\nVALUE = 7\n')
    asked = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(8) as threads:\n"
        "    print(*threads.map(lambda _: user.value(), range(8)))\n"
    )
    assert run(STARTS + asked, folder=folder).split() == ["started", "heavy", *["7"] * 8]


def test_what_is_missing_from_it_is_told_as_ever(folder: Path) -> None:
    asked = "try:\n    user.heavy.other\nexcept AttributeError as error:\n    print(error)\n"
    assert run(STARTS + asked, folder=folder).endswith("module 'big.heavy' has no attribute 'other'")


def test_a_package_to_do_without_cannot_be_had_until_the_end(folder: Path) -> None:
    (folder / "user.py").write_text("try:\n    import big\nexcept ImportError:\n    print('without')\n")
    program = STARTS.replace("later=('big.heavy',)", "without=('big',)") + "import big.heavy\n"
    assert run(program, folder=folder).split() == ["without", "started", "heavy"]


def test_no_garbage_is_looked_for_meanwhile_nor_in_what_was_imported(folder: Path) -> None:
    (folder / "user.py").write_text("import gc\n\nprint(gc.isenabled())\nkept = [[] for _ in range(100_000)]\n")
    asked = "import gc\nprint(gc.isenabled(), gc.get_freeze_count() > 100_000, len(gc.get_objects()) < 1000)\n"
    assert run(STARTS + asked, folder=folder).split() == ["False", "started", "True", "True", "True"]


def test_the_collector_comes_back_when_an_import_fails(folder: Path) -> None:
    (folder / "user.py").write_text("raise ValueError\n")
    program = STARTS.replace("    import user\n", "    import big\n    import user\n")
    tried = "try:\n" + "".join(f"    {line}\n" for line in program.splitlines()) + "except ValueError:\n    pass\n"
    asked = "import gc, sys\nprint(gc.isenabled(), 'big.heavy' in sys.modules)\n"
    assert run(tried + asked, folder=folder).split() == ["True", "False"]


@pytest.mark.parametrize("implementation", ["upb", "python"])
def test_messages_are_as_ever_in_either_implementation(folder: Path, implementation: str) -> None:
    program = (
        "from rowcall.starting import UNUSED_BY_SERVICES, importing\n"
        "with importing(later=UNUSED_BY_SERVICES):\n"
        "    from rowcall.probe.v1.probe_pb2 import EchoRequest\n"
        "    from google.protobuf.internal import api_implementation\n"
        "from google.protobuf import json_format, text_format\n"
        "message = EchoRequest.FromString(EchoRequest().SerializeToString())\n"
        "print(api_implementation.Type(), json_format.MessageToJson(message), text_format.MessageToString(message))\n"
    )
    said = run(program, folder=folder, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=implementation)
    assert said.split() == [implementation, "{}"]
