"""The file ROWCALL_ISSUERS: whose tokens are taken, and what they say of their callers. Read by the settings and by `opening`.

TOML or JSON, by the file's ending. A table [[issuer]] each:

    [[issuer]]
    issuer = "https://login.example.com/realms/acme"    # the claim "iss", letter for letter
    audiences = ["rowcall"]                              # one of them must be in "aud"
    keys = "https://login.example.com/realms/acme/protocol/openid-connect/certs"
    claims.tenant = "tenant"

docs/identity.md has all of it. Everything that is wrong is told at once.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from rowcall.names import is_tenant
from rowcall.security.access import wrong_names
from rowcall.security.roles import ADMIN, CALLER, OPERATOR, PAYLOAD_VIEWER, VIEWER
from rowcall.settings.values import Duration

ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
)  # fmt: skip
"""What tokens may be signed with. All are asymmetric: who can check a token cannot make one."""

_SYMMETRIC: Final = re.compile(r"HS\d+|none", re.IGNORECASE)
_MOST_BYTES: Final = 1 << 20
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def _algorithm(name: str) -> str:
    if name in ALGORITHMS:
        return name
    if _SYMMETRIC.fullmatch(name):
        raise ValueError(
            f"{name!r} is refused: with HS* whoever checks a token could make one, with none everybody could; "
            f"take one of {', '.join(ALGORITHMS)}"
        )
    raise ValueError(f"{name!r} is not one of {', '.join(ALGORITHMS)}")


def _role(name: str) -> str:
    # Access rules may name roles of the deployment's own.
    for problem in wrong_names([name], ()):
        raise ValueError(f"names {problem}")
    return name


def _tenant(name: str) -> str:
    if not is_tenant(name):
        raise ValueError(f"{name!r} is not the name of a tenant: lower-case letters, digits and inner '-', 63 at most")
    return name


def _tenant_pattern(pattern: str) -> str:
    if not re.fullmatch(r"[a-z0-9*-]{1,63}", pattern):
        raise ValueError(f"{pattern!r} is neither the name of a tenant nor one with * in it")
    return pattern


def _path(value: object) -> object:
    """A claim's name is a path of one step."""
    return (value,) if isinstance(value, str) else value


def _positive(duration: timedelta) -> timedelta:
    if duration <= timedelta(0):
        raise ValueError("is not above 0")
    return duration


Algorithm = Annotated[str, AfterValidator(_algorithm)]
RoleName = Annotated[str, AfterValidator(_role)]
TenantName = Annotated[str, AfterValidator(_tenant)]
TenantPattern = Annotated[str, AfterValidator(_tenant_pattern)]
PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
Text = Annotated[str, Field(min_length=1, max_length=1000)]
ClaimPath = Annotated[tuple[Text, ...], BeforeValidator(_path), Field(min_length=1, max_length=10)]
"""A claim's name, or the names that lead to it, outermost first. A name is taken as it is: it may have dots and slashes."""


class _Strict(BaseModel):
    # Its inputs are no secrets, but a key file's name may be long: the field's place says enough.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Claims(_Strict):
    """Which claims say what."""

    tenant: ClaimPath = ("tenant",)
    """Whose data the caller may touch. Not asked where the issuer has a fixed tenant."""
    actor: ClaimPath = ("sub",)
    """Who it is, as rows and logs tell it."""
    roles: ClaimPath = ("roles",)
    """A list, or words with blanks between them."""
    scopes: ClaimPath = ("scope",)
    """A list, or words with blanks between them."""


class Issuer(_Strict):
    """One that is trusted to say who calls."""

    issuer: Text
    """The claim "iss" of its tokens."""
    audiences: Annotated[tuple[Text, ...], Field(min_length=1)]
    """One of them must be in the claim "aud": tokens for other services are not for us."""
    keys: Text
    """Its JWKS: an https URL, or a file."""
    keys_ca: Path | None = None
    """What signs the certificate of that URL, where the system does not know it: a PEM file."""
    insecure_keys: bool = False
    """Take the keys over http from elsewhere than this machine: whoever is in between can be every caller."""
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = ("RS256",)
    """What its tokens may be signed with."""
    claims: Claims = Claims()
    tenant: TenantName | None = None
    """Every caller of it is of this tenant, whatever its claims say."""
    tenants: tuple[TenantPattern, ...] | None = None
    """The tenants that its tokens may be of, "*" for any letters; None: all."""
    tenant_names: Mapping[Text, TenantName] = Field(default_factory=dict)
    """What it calls tenants, and what they are called here; where there are any, no other is taken."""
    role_names: Mapping[Text, RoleName] = Field(default_factory=dict)
    """What it calls roles, and what they are called here; where there are any, no other counts."""
    default_roles: tuple[RoleName, ...] = ()
    """Of callers whose token has no role that counts."""
    may_grant: tuple[RoleName, ...] = (CALLER, OPERATOR, PAYLOAD_VIEWER, VIEWER)
    """The roles that its tokens can give; admin, and roles of the deployment's own, only where they are named."""
    leeway: Duration = timedelta(seconds=30)
    """By how much its clock may differ from ours."""
    max_age: PositiveDuration | None = None
    """The longest since a token was issued, whatever it says itself; tokens must then say when."""
    refresh: PositiveDuration = timedelta(minutes=5)
    """How often its keys are read."""
    keep_keys: PositiveDuration = timedelta(hours=24)
    """How long they are used when they cannot be read any more."""

    @property
    def is_remote(self) -> bool:
        """Whether its keys are fetched from a URL."""
        return "://" in self.keys

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = [*_place_problems(self)]
        if self.tenant is not None and (self.tenants is not None or self.tenant_names):
            problems.append("has a fixed tenant, and tenants or tenant_names beside it: leave one of them out")
        if ADMIN in self.may_grant and (self.tenant is not None or self.tenants is not None):
            problems.append(
                "may grant admin, who acts for every tenant, and is bound to some: leave out admin, or what binds it"
            )
        beyond = sorted({*self.role_names.values(), *self.default_roles} - set(self.may_grant))
        if beyond:
            problems.append(f"gives the role {', '.join(beyond)}, which may_grant does not name")
        if not timedelta(0) <= self.leeway <= timedelta(minutes=10):
            problems.append("has a leeway that is not from 0s to 10m")
        if self.keep_keys < self.refresh:
            problems.append("keeps keys for less (keep_keys) than it reads them (refresh)")
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _place_problems(issuer: Issuer) -> list[str]:
    if not issuer.is_remote:
        return []
    try:
        url = urlsplit(issuer.keys)
        host, _ = url.hostname, url.port
    except ValueError:
        return ["has keys at what is no URL"]
    problems = []
    if url.scheme not in ("https", "http") or not host:
        problems.append("has keys that are neither an https URL nor a file")
    elif url.scheme == "http" and host not in _LOOPBACK and not issuer.insecure_keys:
        problems.append(
            "takes its keys over http: whoever is in between can be every caller; write https, or insecure_keys = true"
        )
    if url.username is not None:
        problems.append("has a password in the URL of its keys: leave it out, they are public")
    return problems


class _File(_Strict):
    issuer: Annotated[tuple[Issuer, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [each.issuer for each in self.issuer]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"has {', '.join(map(repr, twice))} twice: a token could be held against either")
        return self


def read_issuers(file: Path) -> Mapping[str, Issuer]:
    """The issuers of a file, by the claim "iss". Names of files in it are from where it lies.

    Raises:
        ValueError: With all that is wrong in it, a line each.
        OSError: It cannot be read.
    """
    document = read_document(file)
    try:
        found = _File.model_validate(document)
    except ValidationError as error:
        raise ValueError(wrong(error)) from None
    problems = []
    issuers = {}
    for number, each in enumerate(found.issuer):
        placed = each.model_copy(
            update={
                "keys": each.keys if each.is_remote else str(file.parent / each.keys),
                "keys_ca": None if each.keys_ca is None else file.parent / each.keys_ca,
            }
        )
        missing = [path for path in (None if placed.is_remote else Path(placed.keys), placed.keys_ca) if path]
        problems += [f"issuer.{number}: there is no file {str(path)!r}" for path in missing if not path.is_file()]
        issuers[placed.issuer] = placed
    if problems:
        raise ValueError("\n".join(problems))
    return issuers


def read_document(file: Path) -> Mapping[str, Any]:
    """A settings' file: JSON where its name ends so, else TOML.

    Raises:
        ValueError: It is not that, or larger than such a file is.
        OSError: It cannot be read.
    """
    with file.open("rb") as opened:
        data = opened.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError("is larger than 1 MiB")
    try:
        text = data.decode()
        is_json = file.suffix == ".json"
        document = json.loads(text, object_pairs_hook=_once) if is_json else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        kind = "JSON" if file.suffix == ".json" else "TOML"
        raise ValueError(f"is not {kind}: {error}") from None
    if not isinstance(document, dict):
        raise ValueError("is not an object of names and values")  # noqa: TRY004 - told with all that is wrong
    return document


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name is given twice in one object")
    return made


def wrong(error: ValidationError) -> str:
    """All that pydantic finds wrong, a line each: where, and what."""
    details = error.errors(include_url=False, include_input=False)
    lines = []
    for detail in details:
        place, kind, message = detail["loc"], detail["type"], detail["msg"]
        if kind == "too_short":
            if any(len(other["loc"]) > len(place) and other["loc"][: len(place)] == place for other in details):
                continue  # what is in it is wrong, and is told
            message = "has nothing in it"
        elif kind == "missing":
            message = "is not set"
        elif kind == "extra_forbidden":
            message = "is no setting of ours"
        elif kind == "value_error":
            message = str(detail["ctx"]["error"])
        where = ".".join(map(str, place))
        lines.append(f"{where}: {message}" if where else message)
    return "\n".join(lines)


def seconds(duration: timedelta | None) -> float:
    """A duration in seconds; without one, no bound."""
    return math.inf if duration is None else duration.total_seconds()
