"""Fixtures: descriptor images of protos that a test writes, built as a user builds them."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest

from tests.support.places import ROOT

PROTOS = ROOT / "protos"
THIRD_PARTY = ("protos/third_party/googleapis", "protos/third_party/protovalidate")
BUF_YAML = """\
version: v2
modules:
  - path: own
  - path: protos
    excludes: [protos/third_party]
  - path: protos/third_party/googleapis
  - path: protos/third_party/protovalidate
"""


class ImageBuilder:
    """Builds images in a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)

    def __call__(
        self, files: Mapping[str, str], *, compiler: Literal["buf", "protoc"] = "buf", imports: bool = True
    ) -> Path:
        """Builds one image.

        Args:
            files: Proto sources by their path.
            compiler: What to build it with.
            imports: Whether the image has the imported files in it.
        """
        folder = self._folder / f"image{next(self._numbers)}"
        for name, source in files.items():
            path = folder / "own" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        (folder / "protos").symlink_to(PROTOS)
        (folder / "buf.yaml").write_text(BUF_YAML)
        image = folder / ("image.binpb" if compiler == "buf" else "image.pb")
        command: list[str | Path]
        if compiler == "buf":
            command = [Path(sys.executable).parent / "buf", "build", "own", "-o", image]
            command += [] if imports else ["--exclude-imports"]
        else:
            command = [sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_out={image}"]
            command += ["--include_imports"] if imports else []
            command += [f"-I{path}" for path in ("own", "protos", *THIRD_PARTY)]
            command += list(files)
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return image


@pytest.fixture
def build_image(tmp_path: Path) -> ImageBuilder:
    """Builds a descriptor image of proto sources: `build_image({"acme/v1/a.proto": …})`."""
    return ImageBuilder(tmp_path)
