-- An index of history: of the days that are made from now on. Those that are there are gone with their retention, or get theirs
-- one by one (create index concurrently, attach). Postgres does not use it for the whole before all have it, and for each
-- day that has it at once.
set local role rowcall_owner;
create index job_history_note on only rowcall.job_history (tenant, note) where note is not null;
create index job_history_short_note on only rowcall.job_history_short (tenant, note) where note is not null;
create index job_history_standard_note on only rowcall.job_history_standard (tenant, note) where note is not null;
create index job_history_long_note on only rowcall.job_history_long (tenant, note) where note is not null;
alter index rowcall.job_history_note attach partition rowcall.job_history_short_note;
alter index rowcall.job_history_note attach partition rowcall.job_history_standard_note;
alter index rowcall.job_history_note attach partition rowcall.job_history_long_note;
