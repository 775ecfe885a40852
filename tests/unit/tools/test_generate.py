"""tools/generate.py: what differs is said, generated code is in place and imports."""

import importlib
from pathlib import Path, PurePosixPath

from tools import generate


def test_differences_name_every_kind() -> None:
    wanted = {PurePosixPath("new_pb2.py"): "", PurePosixPath("changed_pb2.py"): "2", PurePosixPath("same_pb2.py"): "1"}
    present = {PurePosixPath("old_pb2.py"): "", PurePosixPath("changed_pb2.py"): "1", PurePosixPath("same_pb2.py"): "1"}

    assert generate.differences(wanted, present) == [
        "missing: new_pb2.py",
        "differs: changed_pb2.py",
        "left over, its proto is gone: old_pb2.py",
    ]


def test_types_for_googles_packages_go_where_type_checkers_look() -> None:
    assert generate.placed(PurePosixPath("src/google/rpc/status_pb2.pyi")) == PurePosixPath(
        "src/google-stubs/rpc/status_pb2.pyi"
    )
    assert generate.placed(PurePosixPath("src/rowcall/v1/job_pb2.py")) == PurePosixPath("src/rowcall/v1/job_pb2.py")


def test_google_is_never_generated() -> None:
    modules = [path for path in generate.checked_in(generate.ROOT) if path.suffix == ".py"]

    assert modules
    assert not [path for path in modules if "google" in path.parts]


def test_every_generated_module_imports_on_the_installed_runtime() -> None:
    # Generated code refuses a runtime older than its compiler, and warns of one too new; warnings are errors here.
    for path in generate.checked_in(generate.ROOT):
        if path.suffix == ".py":
            source = next(source for source in generate.SOURCES if path.is_relative_to(source))
            importlib.import_module(".".join(path.relative_to(source).with_suffix("").parts))


def test_every_proto_of_ours_has_generated_code() -> None:
    protos = {
        path.relative_to(generate.ROOT / "protos") for path in (generate.ROOT / "protos/rowcall").rglob("*.proto")
    }
    modules = {
        Path(path).relative_to("libs/common/src")
        for path in generate.checked_in(generate.ROOT)
        if path.name.endswith("_pb2.py") and path.is_relative_to("libs/common/src/rowcall")
    }

    assert {proto.with_name(f"{proto.stem}_pb2.py") for proto in protos} == modules
