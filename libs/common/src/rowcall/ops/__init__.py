"""The operations port: what a process stands at, over HTTP, for Prometheus, Kubernetes and KEDA. Off the gRPC port, and without a
credential: it belongs where only operators reach it.

`http` (requests read and answered within bounds), `standing` (whether a service is ready, and why not), `pages` (what is asked for),
`port` (opened by a service's `main`, closed at its end), `settings` (where it is).

It has nothing asked of a database: what it tells, others keep.
"""
