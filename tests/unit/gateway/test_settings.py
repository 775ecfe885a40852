"""A gateway's settings: what is refused at the start, and with which words."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from rowcall.settings import SettingsError, read_settings
from rowcall_gateway.settings import GatewaySettings
from tests.support.tokens import TokenIssuer

CLUSTER = {"ROWCALL_CATALOGUE": "postgresql:///c", "ROWCALL_SHARDS": '{"a": "postgresql:///a"}'}


def read(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str], *arguments: str) -> GatewaySettings:
    for name, value in {**CLUSTER, **variables}.items():
        monkeypatch.setenv(name, value)
    return read_settings(GatewaySettings, arguments)


def test_what_is_not_said_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(monkeypatch, {})

    assert settings.listen == "127.0.0.1:50051"
    assert settings.identity == "insecure-dev"
    assert (settings.max_request_bytes, settings.max_call_wait) == (1024 * 1024, timedelta(seconds=50))
    assert settings.uses_hints


def test_environment_and_flags_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images = [str(tmp_path / name) for name in ("a.binpb", "b.binpb")]
    for image in images:
        Path(image).touch()
    settings = read(
        monkeypatch,
        {"ROWCALL_MAX_CALL_WAIT": "20s", "ROWCALL_IMAGES": ",".join(images), "ROWCALL_TRANSACTION_POOLER": "true"},
        *("--listen", "[::1]:0", "--gather", "5ms", "--identity", "insecure-network"),
    )

    assert (str(settings.address), settings.identity) == ("[::1]:0", "insecure-network")
    assert (settings.max_call_wait, settings.gather) == (timedelta(seconds=20), timedelta(milliseconds=5))
    assert [str(image) for image in settings.images] == images
    # A pooler in transaction mode cannot carry LISTEN.
    assert not settings.uses_hints


@pytest.mark.parametrize(
    ("variables", "arguments", "said"),
    [
        ({"ROWCALL_LISTEN": "0.0.0.0:0"}, (), "ROWCALL_IDENTITY=insecure-network"),
        ({"ROWCALL_LISTEN": "nowhere"}, (), "ROWCALL_LISTEN (--listen) is not an address"),
        ({}, ("--listn", "x"), "Did you mean --listen?"),
        ({"ROWCALL_IDENTITY": "none"}, (), "ROWCALL_IDENTITY (--identity)"),
        ({"ROWCALL_GATHRE": "1s"}, (), "Did you mean ROWCALL_GATHER?"),
        ({"ROWCALL_MAX_CALL_WAIT": "0s"}, (), "ROWCALL_MAX_CALL_WAIT (--max-call-wait) is not above 0"),
        ({"ROWCALL_MAX_WAITERS": "0"}, (), "ROWCALL_MAX_WAITERS (--max-waiters)"),
        ({"ROWCALL_PROCESSES": "0"}, (), "ROWCALL_PROCESSES (--processes)"),
        (
            {"ROWCALL_ACCESS_DEFAULT": "caller"},
            (),
            "ROWCALL_ACCESS_DEFAULT (--access-default) is no access rule; write roles:caller",
        ),
        ({"ROWCALL_ACCESS_DEFAULT": "public"}, (), "ROWCALL_PUBLIC_TENANT does not say whose calls"),
        ({"ROWCALL_PUBLIC_TENANT": "A_B"}, (), "ROWCALL_PUBLIC_TENANT (--public-tenant) is no tenant"),
        (
            {"ROWCALL_IMAGE_ROLES": "caller,Operator"},
            (),
            "has the role 'Operator', which is none of Rowcall's: write 'operator'",
        ),
        ({}, ("--processes", "65"), "ROWCALL_PROCESSES (--processes)"),
    ],
)
def test_what_is_wrong_is_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], arguments: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SettingsError) as error:
        read(monkeypatch, variables, *arguments)
    assert said in str(error.value)


def test_several_processes_need_a_system_that_spreads_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert read(monkeypatch, {"ROWCALL_PROCESSES": "4"}).processes == 4
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert read(monkeypatch, {"ROWCALL_PROCESSES": "1"}).processes == 1
    with pytest.raises(SettingsError, match="only Linux spreads connections"):
        read(monkeypatch, {"ROWCALL_PROCESSES": "2"})


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ROWCALL_TLS_CERT": "{file}"}, "ROWCALL_TLS_KEY (--tls-key) is not set, and ROWCALL_TLS_CERT is"),
        ({"ROWCALL_TLS_KEY": "{file}"}, "ROWCALL_TLS_KEY (--tls-key) is set without ROWCALL_TLS_CERT"),
        (
            {"ROWCALL_TLS_CLIENT_CA": "{file}"},
            "ROWCALL_TLS_CLIENT_CA (--tls-client-ca) is set without ROWCALL_TLS_CERT",
        ),
        ({"ROWCALL_TLS_CERT": "{file}.none"}, "ROWCALL_TLS_CERT (--tls-cert) names what cannot be read"),
        ({"ROWCALL_IDENTITY": "mtls"}, "ROWCALL_TLS_CERT (--tls-cert) is not set, and identity mtls"),
        ({"ROWCALL_IDENTITY": "jwt+mtls"}, "ROWCALL_TLS_CLIENT_CA (--tls-client-ca) is not set, and identity jwt+mtls"),
        ({"ROWCALL_IDENTITY": "jwt", "ROWCALL_LISTEN": "0.0.0.0:1"}, "ROWCALL_PLAINTEXT (--plaintext) is loopback"),
        ({"ROWCALL_PLAINTEXT": "yes"}, "ROWCALL_PLAINTEXT (--plaintext)"),
        ({"ROWCALL_HEALTH_LISTEN": "nowhere"}, "ROWCALL_HEALTH_LISTEN (--health-listen) is not an address"),
        ({"ROWCALL_HEALTH_LISTEN": "127.0.0.1:50051"}, "ROWCALL_HEALTH_LISTEN (--health-listen) is the address of"),
        ({"ROWCALL_PASSWORD_FILE": "{file}.none"}, "ROWCALL_PASSWORD_FILE (--password-file) names what cannot be read"),
    ],
)
def test_what_of_tls_is_wrong_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SettingsError) as error:
        read(monkeypatch, {name: value.format(file=file) for name, value in variables.items()})
    assert said in str(error.value)


@pytest.mark.parametrize(
    "variables",
    [
        {"ROWCALL_TLS_CERT": "{file}", "ROWCALL_TLS_KEY": "{file}"},
        {"ROWCALL_PLAINTEXT": "behind-proxy"},
        {"ROWCALL_LISTEN": "127.0.0.1:1"},
    ],
)
def test_tokens_are_taken_over_tls_behind_a_proxy_and_from_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    told = {"ROWCALL_IDENTITY": "jwt", "ROWCALL_LISTEN": "0.0.0.0:1", **variables}
    with pytest.raises(SettingsError) as error:
        read(monkeypatch, {name: value.format(file=file) for name, value in told.items()})
    # What is missing yet is who issues them.
    assert [problem.where for problem in error.value.problems] == ["ROWCALL_ISSUERS (--issuers)"]


def test_a_gateway_without_tls_has_no_certificate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert read(monkeypatch, {}).certificate_files is None
    file = str(tmp_path / "file")
    Path(file).touch()
    files = read(monkeypatch, {"ROWCALL_TLS_CERT": file, "ROWCALL_TLS_KEY": file}).certificate_files
    assert files is not None
    assert (str(files.cert), str(files.key), files.client_ca) == (file, file, None)


def test_an_identity_by_credentials_needs_the_files_that_say_whose(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for identity, missing in {
        "jwt": ["ROWCALL_ISSUERS"],
        "mtls": ["ROWCALL_CERTIFICATES"],
        "jwt+mtls": ["ROWCALL_ISSUERS", "ROWCALL_CERTIFICATES"],
    }.items():
        with pytest.raises(SettingsError) as refused:
            read(monkeypatch, {"ROWCALL_IDENTITY": identity})
        said = str(refused.value)
        assert [name for name in ("ROWCALL_ISSUERS", "ROWCALL_CERTIFICATES") if name in said] == missing
        assert f"is not set, and identity {identity} goes by it" in said


def test_files_that_nobody_would_look_at_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An operator who sets the issuers and not the identity would have everybody believed."""
    with pytest.raises(SettingsError, match=r"every caller would be believed. Set ROWCALL_IDENTITY"):
        read(monkeypatch, {"ROWCALL_ISSUERS": str(TokenIssuer().write(tmp_path))})


def test_what_is_wrong_in_the_files_is_told_with_everything_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    issuers, certificates = tmp_path / "issuers.json", tmp_path / "certificates.json"
    issuers.write_text(
        '{"issuer": [{"issuer": "a", "audiences": ["b"], "keys": "https://a/keys", "algorithms": ["none"]}]}'
    )
    certificates.write_text('{"certificate": [{"dns": "a"}]}')
    with pytest.raises(SettingsError) as refused:
        read(
            monkeypatch,
            {
                "ROWCALL_IDENTITY": "jwt+mtls",
                "ROWCALL_ISSUERS": str(issuers),
                "ROWCALL_CERTIFICATES": str(certificates),
                "ROWCALL_MAX_WAITERS": "0",
            },
        )
    said = str(refused.value)
    for part in (
        "ROWCALL_ISSUERS (--issuers) names",
        "issuer.0.algorithms.0: 'none' is refused",
        "ROWCALL_CERTIFICATES (--certificates) names",
        "certificate.0: does not say its tenant",
        "ROWCALL_MAX_WAITERS",
    ):
        assert part in said
    with pytest.raises(SettingsError, match="which cannot be read \\(No such file or directory\\)"):
        read(
            monkeypatch,
            {"ROWCALL_IDENTITY": "jwt", "ROWCALL_ISSUERS": str(tmp_path / "missing.toml"), "ROWCALL_CERTIFICATES": ""},
        )


def test_without_tokens_each_certificate_must_say_its_tenant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    certificates = tmp_path / "certificates.json"
    certificates.write_text('{"certificate": [{"dns": "a", "tenant": "acme"}, {"dns": "b", "tenants": ["*"]}]}')
    with pytest.raises(
        SettingsError, match=r"says no tenant in certificate\.1, and with identity mtls there is no token"
    ):
        read(monkeypatch, {"ROWCALL_IDENTITY": "mtls", "ROWCALL_CERTIFICATES": str(certificates)})
