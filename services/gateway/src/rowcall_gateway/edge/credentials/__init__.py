"""Callers known by what they can prove: bearer tokens (JWT) and client certificates.

Here: `issuers` and `certificates` (who is told by the settings' files whose tokens and certificates are taken), `claims` (what a
token's claims say of its caller), `tokens` (a token read and held against its issuer), `jwks` (a set of keys, read), `sources`
(an issuer's keys, kept fresh), `fetching` (where they come from), `verified` (tokens that were good just now), `revocations` (what
is refused since), `refusals` (what is said), `scopes` (the TenantScopes that
are made of all that) and `opening` (the one that the settings ask for, with what runs beside it). Made by `rowcall_gateway.server`.

Nothing of a token is ever logged or told, and it asks no database: what was revoked is handed to it.
"""
