"""What to do about a connection to Postgres that TLS, or what is asked of a client's certificate, did not let come about.

libpq says what was wrong, not what to look at. Asked where a connection is refused for good: at a service's start and by
the migrations, and for the log line of a pool that cannot connect.
"""

from __future__ import annotations

import re
from typing import Final

import psycopg

_ADVICE: Final = (
    (
        r"does not support SSL",
        (
            "The server speaks no TLS, or somebody who stands between answers for it: switch ssl on there (ssl = on), and check that "
            "host and port are the server's"
        ),
    ),
    (
        r"does not match host name",
        "Name the host as the server's certificate has it; if that is how it is named, somebody else answers",
    ),
    (
        r"certificate verify failed",
        (
            "sslrootcert must have the certificate of who signed the server's, and neither may be expired; if both are so, somebody "
            "else answers: do not lower sslmode"
        ),
    ),
    (
        r"root certificate file .* does not exist|could not read root certificate file",
        "Name the certificate of who signed the server's with sslrootcert=FILE, or sslrootcert=system for the machine's own",
    ),
    (
        r"private key file|certificate file|certificate present|load private key|read certificate",
        "Check sslcert and sslkey: PEM, the key is the certificate's, and nobody but its owner may read it (chmod 600)",
    ),
    (
        r"requires a valid client certificate|certificate authentication failed|alert",
        (
            "The server asks for a client's certificate: name it with sslcert and sslkey, signed by who the server trusts (ssl_ca_file), not "
            "expired, and for this login"
        ),
    ),
    (
        # Where TLS was tried too, it is pg_hba.conf that has no place for this login.
        r"(?s)\A(?!.*SSL encryption).*no encryption",
        "The server takes connections over TLS only: say sslmode=verify-full and sslrootcert=FILE",
    ),
    (
        r"invalid response to SSL negotiation|wrong version number|without ALPN|unexpected ALPN",
        "Check that host and port are a Postgres server's, and that nothing between takes TLS apart",
    ),
)
"""libpq's words, and what to look at; the first that fits. A connection that ends while TLS is agreed on is none of these: so does
one to a server that is restarted."""


def advice(error: BaseException) -> str | None:
    """What to look at, in a sentence without its full stop; None where the failure is none of TLS's."""
    if not isinstance(error, psycopg.OperationalError):
        return None
    said = str(error)
    return next((what for pattern, what in _ADVICE if re.search(pattern, said)), None)
