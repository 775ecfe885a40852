-- What a shard stands at, for whoever watches it: how much waits, for how long, and what workers run of it and could.
-- docs/adr/0039.
set local role rowcall_owner;

-- What was seen last, and how long the look took: a row with the next number each time, and the one before taken away, read from the
-- highest number down (as worker_beat).
create table rowcall.depth_look (
  number bigint primary key,
  looked_at timestamptz not null,
  took interval not null,
  found jsonb not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- How old the oldest snapshot of this server is, which keeps rows that are dead from being taken away; null where the server does not
-- let the owner see it (grant pg_read_all_stats to rowcall_owner), as many managed ones do not. Only functions with a
-- search_path of their own call it.
create function rowcall.oldest_snapshot()
returns interval
language sql stable
as $$
  select case
    when pg_has_role('pg_read_all_stats', 'usage') then coalesce(
      clock_timestamp() - least(
        (
          select min(a.xact_start)
          from pg_stat_activity a
          where a.backend_xmin is not null and a.pid <> pg_backend_pid() and a.backend_type <> 'autovacuum worker'
        ),
        (select min(p.prepared) from pg_prepared_xacts p)
      ),
      interval '0'
    )
  end
$$;

-- What there is to see. What waits is never counted (lane_backlogs); what is set aside is added up as it was counted when it came and
-- went (set_aside); what runs, living workers have told of (worker_loads).
create function rowcall.depths()
returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = on set enable_hashjoin = on set jit = off
as $$
declare
  v_queue_ids integer[] := array(select q.queue_id from rowcall.queue q);
begin
  return jsonb_build_object(
    'lanes', (
      select coalesce(
        jsonb_agg(
          jsonb_build_object(
            'queue', q.name, 'lane', b.lane, 'ready', round(b.backlog::numeric), 'held', coalesce(a.held, 0),
            'scheduled', coalesce(a.scheduled, 0), 'oldest', extract(epoch from g.oldest)
          )
          order by q.name, b.lane
        ),
        '[]'
      )
      from rowcall.lane_backlogs(v_queue_ids) b
      join rowcall.queue q on q.queue_id = b.queue_id
      join rowcall.lane_ages(v_queue_ids) g on g.queue_id = b.queue_id and g.lane = b.lane
      left join (
        select s.queue_id, s.lane, sum(s.held) as held, sum(s.scheduled) as scheduled
        from rowcall.set_aside s
        group by s.queue_id, s.lane
      ) a on a.queue_id = b.queue_id and a.lane = b.lane
    ),
    'workers', (
      select coalesce(jsonb_agg(jsonb_build_object('queue', q.name, 'slots', w.slots, 'running', w.running)), '[]')
      from rowcall.worker_loads() w
      join rowcall.queue q on q.queue_id = w.queue_id
    ),
    'oldest_snapshot', extract(epoch from rowcall.oldest_snapshot())
  );
end
$$;

-- What was seen within p_fresh, by whomever, and how old it is; seen anew where it is older. One looks at a time, and all looks together
-- take a fiftieth of the time at most: while somebody holds a snapshot, each is longer. No row: nobody has looked yet, and
-- somebody does just now.
create function rowcall.look_at_depths(p_fresh interval)
returns table (age interval, found jsonb)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
#variable_conflict use_column
declare
  v_last rowcall.depth_look;
  v_began timestamptz := clock_timestamp();
  v_found jsonb;
begin
  select l.* into v_last from rowcall.depth_look l order by l.number desc limit 1;
  if (v_last.number is null or v_last.looked_at < v_began - greatest(p_fresh, v_last.took * 50))
    and pg_try_advisory_xact_lock(hashtextextended('rowcall.depth_look', 0))
  then
    perform set_config('synchronous_commit', 'off', true);
    v_found := rowcall.depths();
    insert into rowcall.depth_look (number, looked_at, took, found)
    values (coalesce(v_last.number, 0) + 1, clock_timestamp(), clock_timestamp() - v_began, v_found)
    -- Another one has looked between the two.
    on conflict do nothing;
    delete from rowcall.depth_look l where l.number = v_last.number;
    select l.* into v_last from rowcall.depth_look l order by l.number desc limit 1;
  end if;
  if v_last.number is not null then
    return query select clock_timestamp() - v_last.looked_at, v_last.found;
  end if;
end
$$;

grant execute on function rowcall.look_at_depths to rowcall_gateway, rowcall_worker;
