"""grpcurl, which knows of a gateway what reflection tells: it asks for files, and keeps all that it gets in one pool.

In the long form only (`make chaos`): where nothing of it is cached, building it takes some 100 s of processor time.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fix_cluster import Cluster
from tests.fix_gateway import jobs
from tests.fix_services import Services
from tests.support.golang import BUILD_SECONDS, NoGo, build
from tests.support.scale import LONG

GRPCURL = Path(__file__).parent / "grpcurl"

pytestmark = [
    pytest.mark.timeout(2 * BUILD_SECONDS),
    pytest.mark.skipif(not LONG, reason="NOT TRIED WITH GRPCURL: building it takes a minute; make chaos does"),
]

Ran = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def grpcurl(run_directory: Path) -> Callable[..., Ran]:
    """Runs grpcurl with arguments, built from the very versions of its go.sum."""
    program = run_directory / "grpcurl"
    try:
        build(GRPCURL, program, "github.com/fullstorydev/grpcurl/cmd/grpcurl")
    except NoGo as error:
        pytest.skip(f"NOT TRIED WITH GRPCURL: {error}")

    def run(*arguments: str) -> Ran:
        return subprocess.run(
            [program, "-plaintext", *arguments], capture_output=True, check=False, text=True, timeout=60
        )

    return run


def test_two_images_with_two_versions_of_one_file_are_described_and_called_each_as_it_is(
    grpcurl: Callable[..., Ran], services: Services, tills: tuple[str, ...], cluster: Cluster, tmp_path: Path
) -> None:
    """One of the two versions has the file's name, the other is told under a name of its own, with its importer's import written anew."""
    address = services.gateway("127.0.0.1:0", *tills).address()

    listed = grpcurl(address, "list").stdout.split()
    assert {"blue.v1.TillService", "red.v1.TillService"} <= set(listed)

    def imported(team: str) -> tuple[str, str]:
        """The name of the file with the money of a team's service, and what it says."""
        written = tmp_path / team
        described = grpcurl("-proto-out-dir", str(written), address, "describe", f"{team}.v1.TillService")
        assert described.returncode == 0, described.stderr
        [name] = re.findall(r'import "(.*money\.proto)";', (written / team / "v1/till.proto").read_text())
        return name, (written / name).read_text()

    (red, red_money), (blue, blue_money) = imported("red"), imported("blue")
    own, other = sorted((red, blue))
    assert own == "common/money.proto"
    assert re.fullmatch("image-[0-9a-f]+/common/money.proto", other)
    assert ("currency" in red_money, "currency" in blue_money) == (False, True)

    def pay(team: str, amount: dict[str, object]) -> str:
        """Nobody serves it: what is good becomes a job that waits."""
        data = json.dumps({"amount": amount})
        return grpcurl("-H", "prefer: wait=0", "-d", data, address, f"{team}.v1.TillService/Pay").stderr

    assert "DeadlineExceeded" in pay("blue", {"units": 3, "currency": "EUR"})
    assert "DeadlineExceeded" in pay("red", {"units": 3})
    assert "no known field named currency" in pay("red", {"units": 3, "currency": "EUR"})
    assert sorted(jobs(cluster, "method")) == [("blue.v1.TillService/Pay",), ("red.v1.TillService/Pay",)]
