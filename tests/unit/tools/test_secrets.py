"""tools/secret_scan.py: a secret is found wherever it would be committed, and what is listed is none."""

from __future__ import annotations

import secrets
import string
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tools.secret_scan import Allowed, Finding, allowed, committed, findings, judged

FOUND = Finding("a.py", 3, "rule.1")


def key() -> str:
    """A private key that is nobody's."""
    made = ec.generate_private_key(ec.SECP256R1())
    return made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def token() -> str:
    """What a person's access key of AWS looks like, with its secret; put together here, for this file is looked through too."""
    # Base32: those with 0, 1, 8 or 9 in them are none of AWS's, and not found.
    letters = string.ascii_uppercase + "234567"
    name = "AK" + "IA" + "".join(secrets.choice(letters) for _ in range(16))
    secret = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(40))
    return f'aws_access_key_id = "{name}"\naws_secret_access_key = "{secret}"\n'


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text("ignored/\n")
    (tmp_path / "ignored").mkdir()
    (tmp_path / "ignored" / "tls.key").write_text(key())
    return tmp_path


def test_a_secret_is_found(repository: Path) -> None:
    (repository / "deploy").mkdir()
    (repository / "deploy" / "tls.key").write_text(key())
    (repository / "settings.py").write_text(f"# nothing\n{token()}")
    (repository / "README.md").write_text("A word or two.\n")

    files = committed(repository)
    found = {finding.file for finding in findings(repository, files)}

    assert files == [".gitignore", "README.md", "deploy/tls.key", "settings.py"]
    assert found == {"deploy/tls.key", "settings.py"}, "what git ignores is not looked at"


def test_nothing_is_found_in_nothing(repository: Path) -> None:
    assert list(findings(repository, committed(repository))) == []
    assert list(findings(repository, [])) == []


def test_what_is_not_listed_is_told_with_its_place() -> None:
    assert judged([FOUND], []) == ["a.py:3: looks like a secret (rule.1)"]
    assert judged([FOUND], [Allowed("b.py", "rule.1", "made up")])[0] == "a.py:3: looks like a secret (rule.1)"


def test_what_is_listed_is_none_while_it_is_there() -> None:
    listed = [Allowed("a.py", "rule.1", "made up")]
    assert judged([FOUND], listed) == []
    assert judged([], listed) == ["tools/secrets.toml allows rule.1 in a.py, where there is none"]


def test_an_entry_says_why(tmp_path: Path) -> None:
    (tmp_path / "secrets.toml").write_text('[[allowed]]\nfile = "a.py"\nrule = "rule.1"\nreason = ""\n')
    with pytest.raises(TypeError, match=r"a\.py: say a reason"):
        allowed(tmp_path / "secrets.toml")
