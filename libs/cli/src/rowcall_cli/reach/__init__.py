"""How a command reaches a gateway that is not merely on this machine: `flags` (what is said of TLS and of the credential, on every
command that has an --address), `tokens` (where a token comes from, and where it may go), `channel` (the channel that is made of it),
`trouble` (what is wrong where TLS does not come about: gRPC hides it).

Called by `gateway` and `main`; it calls no command.
"""
