"""How statements go over the wire: connections, what is sent on them, what comes back. Called by `rowcall.queue.postgres`.

Here: `connection` (one of a pool, and the running of one statement), `prepared` (statements as they are sent, answered and read),
`arrays` (batches as Postgres takes them), `link` (a dedicated connection that is made again), `lent` (a connection as a handler
gets it), `watch` (a socket in the event loop), `types` (what a connection and a pool are, below all of them).

It knows statements by name and errors by class, and nothing of jobs.
"""
