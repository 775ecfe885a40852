"""What every call passes, whatever it calls: read, identified, bounded, refused, told of.

Here: `interceptor` (the way in and out), `gate` (whether calls are taken), `identity` (whose a call is), `credentials/` (tokens and certificates that say it), `access` (who may call what, who sees payloads), `incoming` (the call as
it comes in), `metadata` (what it may carry), `rules` (what is known of its method), `offered` (what is served now), `deadlines` (when its answer must leave),
`failures` (what it ends with instead), `request_line` and `telemetry` (what is told of it), `refused` (how many were not let in for who they are), `head_export` (ends of the audit's chains over OTLP), `handlers` (how its method is
found, and its request taken in), `reserved` (where several processes listen), `port` (with TLS or without) and `tls` (its certificate, exchanged while it is served), `transport` (bounds on
connections), `intake` (calls taken in many at a time), `in_time` (who would be answered too late), `serving` (the server of gRPC's, watched) and `paths` (what no path may do to it). Put together by `rowcall_gateway.server`; used by all other rooms.

The lowest room: it imports no other one, nor the settings, and it asks no database.
"""
