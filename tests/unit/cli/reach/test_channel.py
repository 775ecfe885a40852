"""The files of a command's TLS: what is wrong with them is told before anything is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.reach.channel import open_one, read_files, stamp
from rowcall_cli.reach.flags import Reach
from tests.support.pki import Authority, Files

OURS = Authority("Ours")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(tmp_path)
    files.put(OURS.issue("caller.example"), OURS.pem)
    return files


def reach(files: Files) -> Reach:
    return Reach(ca=files.ca, cert=files.cert, key=files.key)


def refusal(said: Reach) -> str:
    with pytest.raises(CommandError) as refused:
        open_one("gateway.example:50051", said)
    assert refused.value.exit_code is ExitCode.USAGE
    assert "PRIVATE KEY" not in str(refused.value)
    return str(refused.value)


def test_files_that_are_right_are_read(files: Files) -> None:
    read = read_files(reach(files))
    assert (read.ca, read.cert, read.key) == (files.ca.read_bytes(), files.cert.read_bytes(), files.key.read_bytes())


def test_a_certificate_has_a_key_and_a_key_a_certificate(files: Files) -> None:
    assert "--tls-cert is given without --tls-key" in refusal(Reach(cert=files.cert))
    assert "--tls-key is given without --tls-cert" in refusal(Reach(key=files.key))


def test_the_flag_of_what_is_wrong_is_named(files: Files) -> None:
    issued, other = OURS.issue("caller.example"), OURS.issue("caller.example")
    for wrong, said in [
        ({"key": other.key_pem}, f"--tls-key '{files.key}' is not the key of the certificate"),
        ({"key": b"nothing"}, f"--tls-key '{files.key}' holds no private key"),
        ({"key": issued.encrypted_key_pem(b"x")}, f"--tls-key '{files.key}' is encrypted"),
        ({"cert": b"nothing"}, f"--tls-cert '{files.cert}' holds no certificate"),
        ({"ca": b"nothing"}, f"--tls-ca '{files.ca}' holds no certificate"),
    ]:
        files.put(issued, **{"ca": OURS.pem, **wrong})
        assert said in refusal(reach(files))


def test_a_file_that_is_not_there_is_named(files: Files) -> None:
    files.ca.unlink()
    assert f"--tls-ca '{files.ca}' cannot be read: No such file" in refusal(reach(files))


def test_an_exchange_of_files_is_noticed(files: Files) -> None:
    before = stamp(reach(files))
    assert stamp(reach(files)) == before
    files.put(OURS.issue("caller.example"), OURS.pem)
    assert stamp(reach(files)) != before
    assert stamp(Reach(tls=True)) == stamp(Reach(tls=True))
