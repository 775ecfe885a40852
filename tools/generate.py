"""Generates the checked-in Python and images of the protos, or says where they differ (`make generate`, `make check`).

buf compiles, the plugins of tools/protoc write into a scratch directory, and this puts the result in place: new and
changed files are written, files whose proto is gone are deleted, nothing else is touched.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("libs/common/src", "examples/documents/src")
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi", "*.binpb")
# What a gateway is given to serve an example's methods: the protos with all that they import, compiled.
IMAGES = {"examples/documents/src/documents_example/documents.binpb": "examples/documents/protos/documents"}


def templates(root: Path) -> list[Path]:
    """The buf templates: the contract's, the stubs of google's packages, and each example's own."""
    return [
        root / "buf.gen.yaml",
        root / "tools/protoc/google-stubs.gen.yaml",
        *sorted(root.glob("examples/*/buf.gen.yaml")),
    ]


def placed(path: PurePosixPath) -> PurePosixPath:
    """Where a generated file belongs: google/* goes to google-stubs/*, the place of stubs for another's package."""
    parts = tuple("google-stubs" if part == "google" else part for part in path.parts)
    return PurePosixPath(*parts)


def compiled(root: Path) -> dict[PurePosixPath, bytes]:
    """Runs every template, builds every image, and returns each generated file by its path in the repository."""
    files: dict[PurePosixPath, bytes] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for template in templates(root):
            subprocess.run(
                [buf(), "generate", "--template", str(template.relative_to(root)), "--output", scratch],
                cwd=root,
                check=True,
            )
        for path in sorted(Path(scratch).rglob("*.py*")):
            # For a file without services mypy-protobuf writes a gRPC stub all the same; no module goes with it.
            orphan = path.name.endswith("_pb2_grpc.pyi") and "Stub:" not in path.read_text("utf-8")
            if not orphan:
                files[placed(PurePosixPath(path.relative_to(scratch).as_posix()))] = path.read_bytes()
        for place, protos in IMAGES.items():
            image = Path(scratch, "image.binpb")
            options = ["--as-file-descriptor-set", "--exclude-source-info"]
            subprocess.run([buf(), "build", "--path", protos, *options, "--output", image], cwd=root, check=True)
            files[PurePosixPath(place)] = image.read_bytes()
    return files


def checked_in(root: Path) -> dict[PurePosixPath, bytes]:
    """The generated files that the repository has now."""
    return {
        PurePosixPath(path.relative_to(root).as_posix()): path.read_bytes()
        for source in SOURCES
        for pattern in GENERATED
        for path in (root / source).rglob(pattern)
    }


def buf() -> str:
    """The buf of the environment that runs this, or the one on PATH."""
    beside = Path(sys.executable).parent / "buf"
    found = str(beside) if beside.exists() else shutil.which("buf")
    if found is None:
        sys.exit("buf is not installed: run `make setup` first")
    return found


def differences(wanted: Mapping[PurePosixPath, object], present: Mapping[PurePosixPath, object]) -> list[str]:
    """One line for each file that is missing, different, or left over."""
    lines = [f"missing: {path}" for path in sorted(wanted.keys() - present.keys())]
    lines += [f"differs: {path}" for path in sorted(wanted.keys() & present.keys()) if wanted[path] != present[path]]
    lines += [f"left over, its proto is gone: {path}" for path in sorted(present.keys() - wanted.keys())]
    return lines


def main() -> int:
    """Generates, or with --check compares; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python tools/generate.py",
        description=__doc__.splitlines()[0] if __doc__ else None,
        epilog="Example: python tools/generate.py --check",
    )
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the checked-in code differs")
    check: bool = parser.parse_args().check
    if not (ROOT / "tools/protoc/.venv/bin/protoc-gen-mypy").exists():
        sys.exit("the compilers are not installed: run `make setup` first")
    wanted, present = compiled(ROOT), checked_in(ROOT)
    changes = differences(wanted, present)
    if check:
        for line in changes:
            print(line)
        if changes:
            print("the protos and the generated code differ: run `make generate` and commit the result")
        return 1 if changes else 0
    for path in present.keys() - wanted.keys():
        (ROOT / path).unlink()
    for path, content in wanted.items():
        if present.get(path) != content:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_bytes(content)
    print("\n".join(changes) if changes else "generated code is up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
