"""The file of issuers: what is good, and everything that is wrong, told at once with where and what to do."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rowcall_gateway.edge.credentials.issuers import read_issuers

GOOD: dict[str, Any] = {
    "issuer": "https://login.example.com",
    "audiences": ["rowcall"],
    "keys": "https://login.example.com/keys",
}


def written(directory: Path, *issuers: dict[str, Any]) -> Path:
    file = directory / "issuers.json"
    file.write_text(json.dumps({"issuer": issuers}))
    return file


def problems(directory: Path, *issuers: dict[str, Any]) -> str:
    with pytest.raises(ValueError, match=r".") as refused:
        read_issuers(written(directory, *issuers))
    return str(refused.value)


def test_toml_says_it_with_its_defaults(tmp_path: Path) -> None:
    file = tmp_path / "issuers.toml"
    file.write_text(
        """
        [[issuer]]
        issuer = "https://login.example.com"
        audiences = ["rowcall"]
        keys = "https://login.example.com/keys"
        claims.roles = ["realm_access", "roles"]
        claims.tenant = "https://rowcall.example/tenant"
        leeway = "1m"

        [issuer.role_names]
        "rowcall-ops" = "operator"
        """
    )
    [issuer] = read_issuers(file).values()
    assert issuer.algorithms == ("RS256",)
    assert issuer.claims.roles == ("realm_access", "roles")
    assert issuer.claims.tenant == ("https://rowcall.example/tenant",), "a name is taken as it is"
    assert issuer.leeway == timedelta(minutes=1)
    assert "admin" not in issuer.may_grant, "unless somebody says so"


def test_files_are_where_the_settings_file_lies(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{}")
    [issuer] = read_issuers(written(tmp_path, {**GOOD, "keys": "keys.json"})).values()
    assert issuer.keys == str(tmp_path / "keys.json")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"issuer": ""}, "issuer.0.issuer: "),
        ({"audiences": []}, "issuer.0.audiences: "),
        ({"algorithms": ["HS256"]}, "HS* whoever checks a token could make one"),
        ({"algorithms": ["none"]}, "with none everybody could"),
        ({"algorithms": ["RS255"]}, "'RS255' is not one of RS256, "),
        ({"algorithms": []}, "issuer.0.algorithms: "),
        ({"keys": "http://login.example.com/keys"}, "write https, or insecure_keys = true"),
        ({"keys": "ftp://login.example.com/keys"}, "neither an https URL nor a file"),
        ({"keys": "https://ada:secret@login.example.com/keys"}, "leave it out, they are public"),
        ({"keys": "missing.json"}, "there is no file"),
        ({"keys_ca": "missing.pem"}, "there is no file"),
        ({"default_roles": ["Operator"]}, "names the role 'Operator', which is none of Rowcall's: write 'operator'"),
        ({"role_names": {"boss": "admin"}}, "gives the role admin, which may_grant does not name"),
        ({"tenant": "Acme"}, "'Acme' is not the name of a tenant"),
        ({"tenant": "acme", "tenants": ["acme"]}, "leave one of them out"),
        ({"tenant": "acme", "may_grant": ["admin"]}, "may grant admin, who acts for every tenant, and is bound"),
        ({"leeway": "1h"}, "a leeway that is not from 0s to 10m"),
        ({"leeway": "soon"}, "is not a duration; write 500ms"),
        ({"keep_keys": "1s"}, "keeps keys for less (keep_keys) than it reads them (refresh)"),
        ({"max_age": "0s"}, "is not above 0"),
        ({"claims": {"tenants": "t"}}, "issuer.0.claims.tenants: is no setting of ours"),
        ({"audience": "rowcall"}, "issuer.0.audience: is no setting of ours"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    said = problems(tmp_path, {**GOOD, **changes})
    assert told in said
    assert "secret" not in said


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    said = problems(tmp_path, {**GOOD, "leeway": "soon"}, {"issuer": "b", "algorithms": ["none"]})
    assert [line.partition(":")[0] for line in said.splitlines()] == [
        "issuer.0.leeway",
        "issuer.1.audiences",
        "issuer.1.keys",
        "issuer.1.algorithms.0",
    ]


def test_an_issuer_is_there_once(tmp_path: Path) -> None:
    assert "twice" in problems(tmp_path, GOOD, GOOD)


@pytest.mark.parametrize("keys", ["http://localhost:8080/keys", "http://127.0.0.1:8080/keys", "http://[::1]:8080/keys"])
def test_keys_of_this_machine_need_no_https(tmp_path: Path, keys: str) -> None:
    assert read_issuers(written(tmp_path, {**GOOD, "keys": keys}))


def test_http_from_elsewhere_must_be_said(tmp_path: Path) -> None:
    assert read_issuers(written(tmp_path, {**GOOD, "keys": "http://proxy.local/keys", "insecure_keys": True}))


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.json", "{", "is not JSON"),
        ("a.json", '{"issuer": [], "issuer": []}', "a name is given twice"),
        ("a.toml", "[[issuer", "is not TOML"),
        ("a.json", "[]", "is not an object"),
        ("a.toml", "", "issuer: is not set"),
        ("a.json", '{"issuer": []}', "issuer: "),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=r".") as refused:
        read_issuers(tmp_path / name)
    assert told in str(refused.value)
