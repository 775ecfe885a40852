"""An issuer of tokens for tests: keys, what it signs with them, the set of keys that it publishes, and it being asked over HTTP.

What is signed is put together by hand, so that it can be wrong in any way.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from rowcall_gateway.edge.credentials.issuers import ALGORITHMS

PrivateKey = RSAKey | ECKey | OKPKey
ISSUER = "https://login.example.com/realms/acme"
AUDIENCE = "rowcall"


@cache
def rsa_key(name: str, bits: int = 2048) -> RSAKey:
    """The same one for the same name: they take long to make."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is short is what a test is about
        return RSAKey.generate_key(bits)


@cache
def ec_key(name: str, curve: str = "P-256") -> ECKey:
    return ECKey.generate_key(curve)


@cache
def ed_key(name: str) -> OKPKey:
    return OKPKey.generate_key("Ed25519")


def encoded(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def public(key: PrivateKey, kid: str | None = None, **more: object) -> dict[str, Any]:
    """A key as it is published."""
    return {**key.as_dict(private=False), **({} if kid is None else {"kid": kid}), **more}


def signed(header: str | Mapping[str, Any], claims: str | Mapping[str, Any], sign: Callable[[bytes], bytes]) -> str:
    """A token of any header and claims, as text or as objects."""
    parts = [encoded((part if isinstance(part, str) else json.dumps(part)).encode()) for part in (header, claims)]
    message = ".".join(parts)
    return f"{message}.{encoded(sign(message.encode()))}"


class TokenIssuer:
    """Keys with names, and tokens that are signed with the first of them unless it is said otherwise."""

    def __init__(self, name: str = ISSUER, *, algorithm: str = "RS256") -> None:
        self.name = name
        self.algorithm = algorithm
        self.keys: dict[str, PrivateKey] = {"one": rsa_key("one")}
        if algorithm.startswith("ES"):
            self.keys = {"one": ec_key("one", {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[algorithm])}
        elif algorithm.startswith("Ed"):
            self.keys = {"one": ed_key("one")}

    def rotate(self, kid: str) -> None:
        """From now on signs with another key, and publishes no other."""
        self.keys = {kid: rsa_key(kid)}

    def jwks(self) -> bytes:
        """What it publishes."""
        return json.dumps({"keys": [public(key, kid, use="sig") for kid, key in self.keys.items()]}).encode()

    def claims(self, **changes: Any) -> dict[str, Any]:
        """What its tokens say: of tenant acme, a caller, for ten minutes. None leaves a claim out."""
        now = int(time.time())
        made = {
            "iss": self.name,
            "aud": AUDIENCE,
            "sub": "ada",
            "iat": now,
            "exp": now + 600,
            "tenant": "acme",
            "roles": ["caller"],
            **changes,
        }
        return {name: value for name, value in made.items() if value is not None}

    def header(self, **changes: Any) -> dict[str, Any]:
        made = {"alg": self.algorithm, "typ": "JWT", "kid": next(iter(self.keys)), **changes}
        return {name: value for name, value in made.items() if value is not None}

    def sign(self, message: bytes, *, kid: str | None = None, key: PrivateKey | None = None) -> bytes:
        signer = key or self.keys[kid or next(iter(self.keys))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # EdDSA has another name by now, and issuers use both
            model = JWSRegistry(algorithms=list(ALGORITHMS)).get_alg(self.algorithm)
        return bytes(model.sign(message, signer))

    def token(self, *, header: Mapping[str, Any] | None = None, key: PrivateKey | None = None, **claims: Any) -> str:
        """A token; by default a good one."""
        return signed(self.header(**(header or {})), self.claims(**claims), lambda message: self.sign(message, key=key))

    def metadata(self, **claims: Any) -> tuple[tuple[str, str], ...]:
        """A call's metadata with a token."""
        return bearer(self.token(**claims))

    def settings(self, keys: str, **more: Any) -> dict[str, Any]:
        """It as an [[issuer]] of the settings' file."""
        return {
            "issuer": self.name,
            "audiences": [AUDIENCE],
            "keys": keys,
            "algorithms": [self.algorithm],
            "may_grant": ["admin", "caller", "operator", "payload-viewer", "viewer"],
            **more,
        }

    def write(self, directory: Path, **more: Any) -> Path:
        """Puts its keys and the settings' file into a directory; the settings' file."""
        (directory / "keys.json").write_bytes(self.jwks())
        return write_issuers(directory, self.settings("keys.json", **more))


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """A call's metadata with this token."""
    return (("authorization", f"Bearer {token}"),)


def write_issuers(directory: Path, *issuers: Mapping[str, Any]) -> Path:
    """A settings' file of issuers. Replaced as a whole: who watches it never sees half of it."""
    file = directory / "issuers.json"
    replaced(file, json.dumps({"issuer": list(issuers)}).encode())
    return file


def replaced(file: Path, data: bytes) -> None:
    """Puts a file in another's place."""
    fresh = file.with_suffix(".new")
    fresh.write_bytes(data)
    fresh.replace(file)


def hmac_with_public_key(issuer: TokenIssuer, **claims: Any) -> str:
    """HS256 with the issuer's public key as the secret: what a verifier takes that goes by the header alone."""
    pem = issuer.keys["one"].as_pem(private=False)
    return signed(
        issuer.header(alg="HS256"),
        issuer.claims(**claims),
        lambda message: hmac.new(pem, message, hashlib.sha256).digest(),
    )


def unsigned(issuer: TokenIssuer, **claims: Any) -> str:
    """alg none, with something where the signature would be: a token has three parts."""
    return signed(issuer.header(alg="none"), issuer.claims(**claims), lambda _: b"\0")


class KeyServer:
    """An issuer's JWKS endpoint on loopback, which can be everything that endpoints are at times."""

    def __init__(self, issuer: TokenIssuer) -> None:
        self.issuer = issuer
        self.answer: Callable[[BaseHTTPRequestHandler], None] = self.good
        self.asked: list[float] = []
        """When it was, by the monotonic clock."""
        self.url = ""
        self.ended = threading.Event()

    def good(self, to: BaseHTTPRequestHandler) -> None:
        send(to, self.issuer.jwks())

    def failing(self, to: BaseHTTPRequestHandler) -> None:
        send(to, b"try later", status=503)

    def html(self, to: BaseHTTPRequestHandler) -> None:
        send(to, b"<!doctype html><title>Sign in</title>", kind="text/html")

    def empty(self, to: BaseHTTPRequestHandler) -> None:
        send(to, b'{"keys": []}')

    def huge(self, to: BaseHTTPRequestHandler) -> None:
        """10 MB that begin as they should."""
        send(to, self.issuer.jwks() + b" " * 10_000_000)

    def huge_untold(self, to: BaseHTTPRequestHandler) -> None:
        """The same without a length."""
        to.send_response(200)
        to.end_headers()
        for _ in range(1000):
            to.wfile.write(b" " * 10_000)

    def redirecting(self, to: BaseHTTPRequestHandler) -> None:
        to.send_response(302)
        to.send_header("Location", self.url)
        to.send_header("Content-Length", "0")
        to.end_headers()

    def trickling(self, to: BaseHTTPRequestHandler) -> None:
        """A byte now and then, for longer than anybody waits."""
        to.send_response(200)
        to.send_header("Content-Length", "1000")
        to.end_headers()
        for _ in range(1000):
            to.wfile.write(b" ")
            to.wfile.flush()
            if self.ended.wait(0.05):
                return


def send(to: BaseHTTPRequestHandler, body: bytes, *, status: int = 200, kind: str = "application/json") -> None:
    to.send_response(status)
    to.send_header("Content-Type", kind)
    to.send_header("Content-Length", str(len(body)))
    to.end_headers()
    to.wfile.write(body)


@contextmanager
def serving_keys(issuer: TokenIssuer) -> Iterator[KeyServer]:
    """Serves an issuer's keys."""
    keys = KeyServer(issuer)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.asked.append(time.monotonic())
            try:
                keys.answer(self)
            except OSError:
                self.close_connection = True  # who asked has had enough

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    keys.url = f"http://127.0.0.1:{server.server_address[1]}/keys"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield keys
    finally:
        keys.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def shared_secret() -> dict[str, Any]:
    """A key that an issuer must never publish."""
    return dict(OctKey.generate_key(256).as_dict(private=True))
