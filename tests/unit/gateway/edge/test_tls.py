"""The certificate of the gateway's port: which files are refused, and what becomes of files that are exchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from rowcall_gateway.edge.port import CertificateFiles
from rowcall_gateway.edge.tls import LARGEST, BadCertificate, KeptCertificate, dns_name, read_certificate
from tests.support.pki import CLIENT, DAY, SERVER, Authority, Files, Issued
from tests.support.waiting import until

NAME = "gateway.example"
CALLERS = Authority("Callers")
OURS = Authority("Ours")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(tmp_path)
    files.put(OURS.issue(NAME), CALLERS.pem)
    return files


def named(files: Files, *, client_ca: bool = True) -> CertificateFiles:
    return CertificateFiles(files.cert, files.key, files.ca if client_ca else None)


def refusal(files: Files) -> tuple[str, str]:
    """The part that is refused, and what is said of it."""
    with pytest.raises(BadCertificate) as refused:
        read_certificate(named(files))
    return refused.value.part, str(refused.value)


def events(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [(line["log_level"], line["event"].partition(":")[0]) for line in lines]


def test_it_tells_its_names_and_how_long_it_is_good_for(files: Files) -> None:
    files.put(OURS.issue(NAME, "10.0.0.1", "spiffe://example/gateway", ends=3 * DAY), CALLERS.pem)
    certificate = read_certificate(named(files))

    assert certificate.names == [NAME, "10.0.0.1", "spiffe://example/gateway"]
    assert timedelta(days=2.9) < certificate.left(datetime.now(UTC)) < timedelta(days=3)


def test_a_chain_is_good_for_as_long_as_its_shortest_part(files: Files) -> None:
    between = Authority("Between", ends=2 * DAY)
    issued = between.issue(NAME, ends=5 * DAY)
    files.put(issued, cert=issued.cert_pem + between.pem)

    assert read_certificate(named(files, client_ca=False)).left(datetime.now(UTC)) < 2 * DAY


@pytest.mark.parametrize(
    ("put", "part", "said"),
    [
        (lambda it, other: {"cert": b"nothing"}, "cert", "holds no certificate in PEM"),
        (lambda it, other: {"cert": b""}, "cert", "holds no certificate in PEM"),
        (lambda it, other: {"cert": it.key_pem}, "cert", "holds a key"),
        (lambda it, other: {"cert": b"x" * (LARGEST + 1)}, "cert", "no such file"),
        (lambda it, other: {"key": b"nothing"}, "key", "holds no private key in PEM"),
        (lambda it, other: {"key": it.cert_pem}, "key", "holds a certificate"),
        (lambda it, other: {"key": it.encrypted_key_pem(b"x")}, "key", "is encrypted"),
        (lambda it, other: {"key": other.key_pem}, "key", "is not the key of the certificate in"),
        (lambda it, other: {"cert": other.cert_pem + it.cert_pem}, "cert", "must come first"),
        (lambda it, other: {"ca": b"nothing"}, "client_ca", "holds no certificate in PEM"),
        (lambda it, other: {"ca": it.key_pem}, "client_ca", "holds a key"),
    ],
)
def test_files_that_are_wrong_are_told_apart(
    files: Files, put: Callable[[Issued, Issued], dict[str, bytes]], part: str, said: str
) -> None:
    issued, other = OURS.issue(NAME), OURS.issue(NAME)
    files.put(issued, **{"ca": CALLERS.pem, **put(issued, other)})

    refused = refusal(files)
    assert refused[0] == part
    assert said in refused[1]
    assert "PRIVATE KEY" not in refused[1]


@pytest.mark.parametrize(
    ("issued", "said"),
    [
        (OURS.issue(NAME, begins=-2 * DAY, ends=-DAY), "expired on"),
        (OURS.issue(NAME, begins=DAY, ends=2 * DAY), "machine's clock"),
        (OURS.issue(), "is for no name"),
        (OURS.issue(NAME, uses=[CLIENT]), "is not for servers"),
    ],
)
def test_certificates_that_no_caller_takes_are_refused(files: Files, issued: Issued, said: str) -> None:
    files.put(issued, CALLERS.pem)
    part, told = refusal(files)
    assert part == "cert"
    assert said in told


def test_one_that_is_for_servers_among_others_is_taken(files: Files) -> None:
    files.put(OURS.issue(NAME, uses=[CLIENT, SERVER]), CALLERS.pem)
    assert read_certificate(named(files)).names == [NAME]


def test_callers_authorities_that_have_all_expired_are_refused(files: Files) -> None:
    gone = Authority("Gone", begins=-2 * DAY, ends=-DAY)
    files.put(OURS.issue(NAME), gone.pem)
    part, said = refusal(files)
    assert (part, "have all expired" in said) == ("client_ca", True)

    files.put(OURS.issue(NAME), gone.pem + CALLERS.pem)
    read_certificate(named(files))


@pytest.mark.parametrize("name", ["cert", "key", "ca"])
def test_a_file_that_is_not_there_is_named(files: Files, name: str) -> None:
    file: Path = getattr(files, name)
    file.unlink()
    part, said = refusal(files)
    assert part == ("client_ca" if name == "ca" else name)
    assert f"{str(file)!r} cannot be read: No such file" in said


async def test_files_that_are_exchanged_are_served_from_the_next_look_on(files: Files) -> None:
    kept = KeptCertificate(named(files))
    first = kept.configuration()
    await kept.look()
    assert kept.configuration() is first, "nothing has changed"

    files.put(OURS.issue("other.example"), CALLERS.pem)
    with capture_logs() as lines:
        await kept.look()
    assert kept.current.names == ["other.example"]
    assert kept.configuration() is not first
    assert events(lines) == [("info", "certificate exchanged")]
    assert (lines[0]["names"], lines[0]["file"]) == (["other.example"], str(files.cert))
    assert 4.9 < lines[0]["days"] <= 5


async def test_callers_authorities_are_exchanged_too(files: Files) -> None:
    kept = KeptCertificate(named(files))
    first, issued = kept.configuration(), OURS.issue(NAME)
    files.put(issued, CALLERS.pem)
    await kept.look()
    second = kept.configuration()
    files.put(issued, OURS.pem)
    await kept.look()
    assert len({id(first), id(second), id(kept.configuration())}) == 3


async def test_files_that_are_wrong_leave_what_is_served_and_are_told_of_once(files: Files) -> None:
    kept = KeptCertificate(named(files))
    good = kept.configuration()
    files.put(OURS.issue(NAME), CALLERS.pem, key=b"half of a k")
    with capture_logs() as lines:
        await kept.look()
        assert not lines, "the first time they may be on their way"
        for _ in range(3):
            await kept.look()
    assert kept.configuration() is good
    (line,) = lines
    assert (line["log_level"], line["setting"]) == ("warning", "ROWCALL_TLS_KEY")
    assert "holds no private key" in line["cause"]
    assert "half of" not in str(line)

    # Other wrong ones are told of too, and so are those that are not there.
    files.key.unlink()
    with capture_logs() as lines:
        for _ in range(3):
            await kept.look()
    assert [line["log_level"] for line in lines] == ["warning"]
    assert kept.configuration() is good


async def test_files_that_come_right_again_are_served(files: Files) -> None:
    kept = KeptCertificate(named(files))
    issued = OURS.issue("other.example")
    files.put(issued, CALLERS.pem, key=OURS.issue(NAME).key_pem)
    await kept.look()
    files.put(issued, CALLERS.pem)
    with capture_logs() as lines:
        await kept.look()
    assert kept.current.names == ["other.example"]
    assert events(lines) == [("info", "certificate exchanged")]


async def test_an_expired_one_does_not_take_the_place_of_one_that_is_good(files: Files) -> None:
    kept = KeptCertificate(named(files))
    good = kept.configuration()
    files.put(OURS.issue(NAME, begins=-2 * DAY, ends=-DAY), CALLERS.pem)
    await kept.look()
    await kept.look()
    assert kept.configuration() is good


@pytest.mark.parametrize(
    ("begins", "ends", "level"),
    [
        # One that lasts for a year ends soon in its last two weeks, one that lasts for a day in its last fifth.
        (-340 * DAY, 20 * DAY, "info"),
        (-340 * DAY, 13 * DAY, "warning"),
        (-0.7 * DAY, 0.3 * DAY, "info"),
        (-0.9 * DAY, 0.1 * DAY, "warning"),
    ],
)
def test_the_end_of_a_certificate_is_told_of_ahead(
    files: Files, begins: timedelta, ends: timedelta, level: str
) -> None:
    files.put(OURS.issue(NAME, begins=begins, ends=ends), CALLERS.pem)
    with capture_logs() as lines:
        KeptCertificate(named(files))
    assert [line["log_level"] for line in lines] == [level]
    assert abs(lines[0]["days"] - ends / DAY) < 0.02


async def test_it_is_told_of_once_a_day(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = KeptCertificate(named(files))
    now = datetime.now(UTC)
    passed = [timedelta(0)]

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return now + passed[-1]

    monkeypatch.setattr("rowcall_gateway.edge.tls.datetime", Later)
    told = []
    for since in (timedelta(hours=23), timedelta(hours=25), timedelta(hours=26), 3 * DAY, 4.5 * DAY, 6 * DAY):
        passed.append(since)
        with capture_logs() as lines:
            await kept.look()
        told.append([line["log_level"] for line in lines])
    assert told == [[], ["info"], [], ["info"], ["warning"], ["error"]]


async def test_it_looks_by_itself_until_it_is_closed(files: Files) -> None:
    kept = KeptCertificate(named(files), every=timedelta(milliseconds=5))
    kept.start()
    files.put(OURS.issue("other.example"), CALLERS.pem)
    await until(lambda: kept.current.names == ["other.example"])
    await kept.close()
    assert isinstance(kept.configuration(), grpc.ServerCertificateConfiguration)


def test_a_name_by_which_it_is_known_is_found() -> None:
    assert dns_name(OURS.issue("10.0.0.1", "gateway.example").cert_pem) == "gateway.example"
    assert dns_name(OURS.issue("10.0.0.1").cert_pem) == "10.0.0.1"
    assert dns_name(OURS.issue("*.example").cert_pem) == "any.example"
    with pytest.raises(ValueError, match="no DNS name"):
        dns_name(OURS.issue("spiffe://example/gateway").cert_pem)
