-- A field more of how an attempt ended: it says the note anew.
set local role rowcall_owner;

do $$
declare
  v_fields text;
  v_values text;
begin
  select
    string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' order by a.attnum),
    string_agg(format('s.%I', a.attname), ', ' order by a.attnum)
  into v_fields, v_values
  from pg_attribute a
  where a.attrelid = 'rowcall.settlement'::regclass and a.attnum > 0 and not a.attisdropped;
  execute format('create type rowcall.settlement_2 as (%s, note text)', v_fields);
  execute format(
    $f$
      create function rowcall.settle_jobs_2(p_settlement rowcall.settlement_2[], p_cancelled_error bytea)
      returns table (place bigint, state smallint, waiter_id uuid)
      language plpgsql security definer set search_path = pg_catalog, pg_temp
      as $b$
      #variable_conflict use_column
      begin
        update rowcall.job j
        set note = s.note
        from unnest(p_settlement) s
        where s.note is not null and j.tenant = s.tenant and j.job_id = s.job_id and j.lease = s.lease and j.state = 3;
        return query
        select a.place, a.state, a.waiter_id
        from rowcall.settle_jobs(
          array(select row(%s)::rowcall.settlement from unnest(p_settlement) with ordinality s order by s.ordinality),
          p_cancelled_error
        ) a;
      end
      $b$
    $f$,
    v_values
  );
end
$$;
grant execute on function rowcall.settle_jobs_2 to rowcall_worker;
