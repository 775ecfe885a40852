"""Who did what: the actions of operators and admins as values (`model`), and the chain that holds them (`chain`), with the
signature that stands where retention cut it (`signing`).

The rows are the queue's (`rowcall.queue.postgres`) and the catalogue's (`rowcall.sharding`); nothing here asks a database. Used by the
gateway, which says who acts, and lists and verifies; by the worker, which seals and cuts.
"""
