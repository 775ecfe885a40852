-- rowcall: no-transaction
create index concurrently job_note on rowcall.job (tenant, note) where note is not null
