"""Rowcall's common library: the contract, the error envelope, the queue on Postgres and what services share."""
