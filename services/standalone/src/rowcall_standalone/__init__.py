"""Gateway and workers in one process: the only package that may import both.

Here: `commands` (the command lines), `serve` (`rowcall serve`, with its `settings` and `healthcheck`), `dev` (`rowcall dev`), `demo`
(`rowcall demo`), `issuing` (`rowcall token`); `system` (gateway and workers, put together), `databases` (of an embedded Postgres), `listen` (the address),
`serving` (whether a gateway answers), `signals`, `errors`. The `rowcall` command takes `commands` in where this is installed.
"""
