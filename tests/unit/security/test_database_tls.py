"""What is said to do about a connection to Postgres that TLS did not let come about. The texts are libpq 18's."""

from __future__ import annotations

import psycopg
import pytest

from rowcall.security.database_tls import advice
from rowcall.sharding.faults import refused_login

AT = 'connection failed: connection to server at "10.0.0.1", port 5432 failed: '


@pytest.mark.parametrize(
    ("said", "todo"),
    [
        ("server does not support SSL, but SSL was required", "ssl = on"),
        ("SSL error: certificate verify failed: unable to get local issuer certificate", "sslrootcert"),
        ('server certificate for "other" does not match host name "db.example"', "as the server's certificate has it"),
        ('root certificate file "/root/.postgresql/root.crt" does not exist\nEither provide', "sslrootcert=FILE"),
        ('could not read root certificate file "/x": no certificate or crl found', "sslrootcert=FILE"),
        ('private key file "/x" has group or world access; file must have', "chmod 600"),
        ('certificate does not match private key file "/x": key values mismatch', "sslcert and sslkey"),
        ('could not open certificate file "/x": No such file', "sslcert and sslkey"),
        ("FATAL:  connection requires a valid client certificate", "client's certificate"),
        ('FATAL:  certificate authentication failed for user "me"', "client's certificate"),
        ("SSL error: tlsv1 alert unknown ca", "client's certificate"),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.9", user "me", database "x", no encryption', "over TLS only"),
        ("received invalid response to SSL negotiation: H", "host and port"),
    ],
)
def test_it_is_said_and_ends_a_start(said: str, todo: str) -> None:
    error = psycopg.OperationalError(AT + said)

    found = advice(error)
    assert found is not None
    assert todo in found
    assert found in (refused_login(error) or "")


@pytest.mark.parametrize(
    "said",
    [
        "Connection refused\nIs the server running on that host and accepting TCP/IP connections?",
        "SSL SYSCALL error: EOF detected",
        "SSL connection has been closed unexpectedly",
        "FATAL:  the database system is starting up",
        "timeout expired",
    ],
)
def test_what_may_pass_by_itself_is_none_of_it(said: str) -> None:
    error = psycopg.OperationalError(AT + said)
    assert advice(error) is None
    assert refused_login(error) is None


def test_a_login_without_a_place_in_pg_hba_is_not_told_to_use_tls_that_it_used() -> None:
    entry = 'FATAL:  no pg_hba.conf entry for host "10.0.0.9", user "me", database "x"'
    error = psycopg.OperationalError(f"{AT}{entry}, SSL encryption\n{AT}{entry}, no encryption")
    assert advice(error) is None
    assert "pg_hba.conf" in (refused_login(error) or "")


def test_errors_of_statements_are_none_of_it() -> None:
    assert advice(psycopg.errors.UniqueViolation("SSL error: alert")) is None


def test_a_login_without_a_password_is_told_where_one_is_looked_for() -> None:
    said = refused_login(psycopg.OperationalError(f"{AT}fe_sendauth: no password supplied"))
    assert said is not None
    assert "ROWCALL_PASSWORD_FILE" in said
    assert "libpq ignores a passfile" in said
