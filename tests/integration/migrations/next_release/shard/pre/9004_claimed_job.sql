-- A column more of an answer: another type, and another function that returns it.
set local role rowcall_owner;

do $$
declare
  v_fields text := (
    select string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' order by a.attnum)
    from pg_attribute a
    where a.attrelid = 'rowcall.claimed_job'::regclass and a.attnum > 0 and not a.attisdropped
  );
begin
  execute format('create type rowcall.claimed_job_2 as (%s, note text)', v_fields);
end
$$;

create function rowcall.claim_jobs_2(
  p_worker_id uuid, p_queue_id integer, p_method_id integer[], p_from bigint[], p_limit integer
)
returns setof rowcall.claimed_job_2
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  -- In a statement of its own: that which reads the notes must see what was submitted until then.
  v_claimed rowcall.claimed_job[] := array(
    select c from rowcall.claim_jobs(p_worker_id, p_queue_id, p_method_id, p_from, p_limit) c
  );
begin
  return query
  select c.*, j.note from unnest(v_claimed) c join rowcall.job j on j.tenant = c.tenant and j.job_id = c.job_id;
end
$$;
grant execute on function rowcall.claim_jobs_2 to rowcall_worker;
