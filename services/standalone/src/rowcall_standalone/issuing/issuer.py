"""The development issuer as files of a data directory: made by `dev`, read by `dev` and by `rowcall token`.

DIR/issuer/key.json        its private key, readable by this account alone
DIR/issuer/keys.json       the set of keys that it publishes
DIR/issuer/issuers.json    ROWCALL_ISSUERS, as the gateway reads it
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from rowcall.security.roles import ROLES
from rowcall_standalone.errors import StandaloneError

ALGORITHM: Final = "ES256"
AUDIENCE: Final = "rowcall-dev"
_KEY: Final = "key.json"
_ISSUERS: Final = "issuers.json"


@dataclass(frozen=True, slots=True)
class DevIssuer:
    """An issuer whose tokens one development system takes."""

    name: str
    """The claim "iss"; another one for each data directory."""
    key: ECKey
    """Private."""
    settings: Path
    """The gateway's ROWCALL_ISSUERS."""


def open_issuer(data_dir: Path) -> DevIssuer:
    """The issuer of a data directory, which is made where there is none.

    Raises:
        StandaloneError: Its files cannot be written, or are not what they were.
    """
    directory = data_dir / "issuer"
    try:
        if not (directory / _KEY).exists():
            _make(directory)
        return find_issuer(data_dir)
    except OSError as error:
        raise StandaloneError(
            f"The development issuer in {directory} cannot be opened: {error.strerror or error}."
        ) from error


def find_issuer(data_dir: Path) -> DevIssuer:
    """The issuer of a data directory.

    Raises:
        StandaloneError: There is none, or its files are not what they were.
    """
    directory = data_dir / "issuer"
    try:
        stored = json.loads((directory / _KEY).read_bytes())
        name = stored.pop("issuer")
        return DevIssuer(name, ECKey.import_key(stored), directory / _ISSUERS)
    except FileNotFoundError as error:
        raise StandaloneError(
            f"{data_dir} has no development issuer. Start one first: rowcall dev --identity jwt --data-dir {data_dir}"
        ) from error
    except PermissionError as error:
        raise StandaloneError(
            f"The key of the development issuer in {directory} is another account's: run this as the one that runs rowcall dev."
        ) from error
    except (JoseError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StandaloneError(
            f"The development issuer in {directory} is broken. Remove that directory and start rowcall dev again: tokens "
            "that it issued are then refused."
        ) from error


def _make(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = f"rowcall-dev-{secrets.token_hex(4)}"
    key = ECKey.generate_key("P-256", auto_kid=True)
    public = {**key.as_dict(private=False), "use": "sig", "alg": ALGORITHM}
    _write(directory / "keys.json", {"keys": [public]})
    trusted = {
        "issuer": name,
        "audiences": [AUDIENCE],
        "keys": "keys.json",
        "algorithms": [ALGORITHM],
        "may_grant": sorted(ROLES),
    }
    _write(directory / _ISSUERS, {"issuer": [trusted]})
    # The last one: where it is, the others are.
    _write(directory / _KEY, {"issuer": name, **key.as_dict(private=True)})


def _write(file: Path, content: dict[str, Any]) -> None:
    fresh = file.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    # Nobody else's from the first byte on.
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        json.dump(content, opened, indent=2)
    fresh.replace(file)
