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

_MONEY = 'syntax = "proto3"; package common; message Money {{ int64 units = 1; {} }}'
_TILL = """\
syntax = "proto3";
package {0}.v1;
import "common/money.proto";
import "rowcall/options/v1/job.proto";
service TillService {{ rpc Pay(PayRequest) returns (PayResponse) {{ option (rowcall.options.v1.job) = {{}}; }} }}
message PayRequest {{ common.Money amount = 1; }}
message PayResponse {{}}
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


@pytest.fixture
def tills(build_image: ImageBuilder) -> tuple[str, ...]:
    """What a gateway is told to serve two images with two versions of one file (case 19): red.v1.TillService pays units,
    blue.v1.TillService in a currency too."""
    versions = {"red": _MONEY.format(""), "blue": _MONEY.format("string currency = 2;")}
    images = [
        build_image({"common/money.proto": version, f"{team}/v1/till.proto": _TILL.format(team)})
        for team, version in versions.items()
    ]
    return tuple(word for image in images for word in ("--image", str(image)))
