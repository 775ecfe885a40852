-- The queue that raw limits are measured on. It is nobody's, and stays as it is when Rowcall's own tables change: figures
-- against it can be compared over the years.
drop schema if exists reference cascade;
create schema reference;
create table reference.job (
  id bigint generated always as identity primary key,
  state smallint not null default 2,
  lease bigint not null default 0,
  created_at timestamptz not null default clock_timestamp(),
  started_at timestamptz,
  request bytea not null
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
create index job_ready on reference.job (id) where state = 2;
create table reference.history (
  id bigint primary key,
  created_at timestamptz not null,
  started_at timestamptz,
  finished_at timestamptz not null default clock_timestamp(),
  request bytea not null,
  response bytea not null
);
