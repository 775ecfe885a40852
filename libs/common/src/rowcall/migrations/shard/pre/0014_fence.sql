-- For servicers that write in transactions of their own, on this shard: a transaction that comes
-- too late does not commit.
set local role rowcall_owner;

-- What a transaction must still hold when it commits. A row is there for its trigger's sake, and
-- taken away at once by who wrote it: nobody ever reads the table.
create table rowcall.fence (
  tenant text not null,
  job_id uuid not null,
  lease bigint not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Whether a job still runs under this lease number; else an error. Locks the job, so that this stays
-- true until the transaction ends. Only functions that have a search_path of their own call it.
--
-- FOR SHARE is the weakest lock that ending a lease waits for: several transactions of one attempt have it
-- at once. Lease and state are looked at afterwards, for the condition would be one of job_running,
-- which has an entry of all that a worker ever claimed.
create function rowcall.hold_lease(p_tenant text, p_job_id uuid, p_lease bigint)
returns void
language plpgsql volatile
as $$
declare
  v_lease bigint;
begin
  select case when j.state = 3 then j.lease end into v_lease
  from rowcall.job j
  where j.tenant = p_tenant and j.job_id = p_job_id
  for share;
  if v_lease is distinct from p_lease then
    raise exception 'fence_v1: the lease % of job % is over', p_lease, p_job_id
      using
        errcode = 'object_not_in_prerequisite_state',
        hint = 'The job has ended, or runs again elsewhere. Roll back; what this attempt answers no longer counts.';
  end if;
end
$$;

create function rowcall.fenced()
returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
begin
  perform rowcall.hold_lease(new.tenant, new.job_id, new.lease);
  return null;
end
$$;
-- At the commit, not before: until then the transaction holds nothing up. What it waits for meanwhile, or
-- that it stands still, keeps nobody from ending the lease; it is this transaction that fails then.
create constraint trigger fenced after insert on rowcall.fence
deferrable initially deferred
for each row execute function rowcall.fenced();

-- Has the transaction that calls it fail to commit unless the job still runs under this lease number
-- then: it was not rescued, its time was not over, nobody ended it. Refused at once where that is
-- so already. Stable: a change of meaning is another function. docs/fence_v1.md, docs/adr/0027.
create function rowcall.fence_v1(p_tenant text, p_job_id uuid, p_lease bigint)
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_row tid;
begin
  if p_tenant is null or p_job_id is null or p_lease is null then
    raise exception 'fence_v1: tenant, job and lease must be given'
      using errcode = 'null_value_not_allowed', hint = 'A servicer is told of them with each call.';
  end if;
  if not exists (
    select from (select j.lease, j.state from rowcall.job j where j.tenant = p_tenant and j.job_id = p_job_id limit 1) j
    where j.lease = p_lease and j.state = 3
  ) then
    -- The same words.
    perform rowcall.hold_lease(p_tenant, p_job_id, p_lease);
  end if;
  insert into rowcall.fence as f (tenant, job_id, lease) values (p_tenant, p_job_id, p_lease) returning f.ctid into v_row;
  delete from rowcall.fence f where f.ctid = v_row;
end
$$;
