"""What both services and the commands know of security: `roles` (the names of the roles that callers may have), `access` (a rule
that says who may call), `passwords` (of Postgres, in files that are exchanged while a program runs), `database_tls` (what a failure of TLS
to Postgres asks for).

It imports settings and nothing else of ours.
"""
