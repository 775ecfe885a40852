-- Whose turn it is: order keys, a lane's virtual time. Only functions with a
-- search_path of their own call those that have none.
set local role rowcall_owner;

-- By how much one job of weight 1 moves its tenant forward; rowcall.queue.model has
-- it too.
create function rowcall.order_stride()
returns bigint
language sql immutable parallel safe
as $$
  select 1048576::bigint
$$;

-- The key that puts a job next in its lane: just above the frontier.
create function rowcall.next_key(p_queue_id integer, p_lane smallint)
returns bigint
language sql volatile
as $$
  select coalesce(pg_sequence_last_value(l.frontier), 0) + 1
  from rowcall.queue_lane l
  where l.queue_id = p_queue_id and l.lane = p_lane
$$;

-- Keys for many jobs that become ready again, in their order: next, not behind the
-- tenant's backlog, but one stride after the other, so that a hundred thousand of them
-- are not before everybody else's.
create function rowcall.again_keys(p_tenant text[], p_queue_id integer[], p_lane smallint[])
returns bigint[]
-- See submit_jobs: the plan is kept, and its parts are hashed.
language plpgsql volatile set search_path = pg_catalog, pg_temp
set enable_hashjoin = on set enable_nestloop = off set enable_mergejoin = off
set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_keys bigint[];
begin
  with input as materialized (
    select
      i.*,
      row_number() over (partition by i.tenant, i.queue_id, i.lane order by i.place) as number,
      count(*) over (partition by i.tenant, i.queue_id, i.lane) as jobs
    from unnest(p_tenant, p_queue_id, p_lane) with ordinality as i (tenant, queue_id, lane, place)
  ),
  flow as materialized (
    select
      f.*, w.step,
      -- The first job is next if the flow's last ones have been claimed.
      greatest(coalesce(pg_sequence_last_value(l.frontier), 0) + 1 - w.step, t.again_key) as base
    from (
      select i.tenant, i.queue_id, i.lane, i.jobs
      from input i
      where i.number = 1
      -- In one order: two of these would deadlock otherwise.
      order by i.tenant, i.queue_id, i.lane
    ) f
    -- Limited, so that they stay lookups by key.
    cross join lateral (
      select l.frontier from rowcall.queue_lane l where l.queue_id = f.queue_id and l.lane = f.lane limit 1
    ) l
    left join lateral (
      select r.weight from rowcall.tenant_route r where r.tenant = f.tenant limit 1
    ) r on true
    cross join lateral (select greatest(rowcall.order_stride() / coalesce(r.weight, 1), 1)::bigint as step) w
    left join lateral (
      select t.again_key
      from rowcall.turn t
      where t.tenant = f.tenant and t.queue_id = f.queue_id and t.lane = f.lane
      limit 1
      for update
    ) t on true
  ),
  turned as (
    insert into rowcall.turn as t (tenant, queue_id, lane, again_key)
    select f.tenant, f.queue_id, f.lane, f.base + f.jobs * f.step from flow f
    on conflict (tenant, queue_id, lane) do update set again_key = greatest(t.again_key, excluded.again_key)
  )
  select array_agg(f.base + i.number * f.step order by i.place)
  into v_keys
  from input i
  join flow f on f.tenant = i.tenant and f.queue_id = i.queue_id and f.lane = i.lane;
  return v_keys;
end
$$;

-- Behind which key a job comes that submit_v1 writes in somebody else's transaction; null:
-- its flow has a backlog of such jobs, or it cannot be told, and promote_jobs gives it its turn.
--
-- Nothing is locked, so transactions that are open at once do not see each other's jobs and
-- give out the same keys; and those of one that stays open are overtaken by the frontier.
-- Both are bounded by how many jobs get their keys here: each transaction's see 16 in their
-- flow at most. docs/adr/0022.
create function rowcall.key_in_sql(p_tenant text, p_queue_id integer, p_lane smallint)
returns bigint
language plpgsql volatile
-- See submit_jobs. Without a sort there is one way to the highest keys: along the index, down
-- to the frontier. What was claimed lies below that, so dead entries are not walked over.
set enable_sort = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_memory text := 'rowcall.frontier_' || p_queue_id || '_' || p_lane;
  -- Where the frontier was when this transaction first submitted here: its own jobs are above
  -- that, and count however far others have moved meanwhile. Whoever sets it himself has
  -- more to walk over, or a place for some jobs too many.
  v_then bigint := substring(current_setting(v_memory, true) from '^[0-9]{1,18}$')::bigint;
  v_frontier bigint;
  v_turn bigint;
  v_jobs integer;
  v_highest bigint;
begin
  select f.frontier, greatest(t.last_key, t.again_key), s.jobs, s.highest
  into v_frontier, v_turn, v_jobs, v_highest
  from rowcall.queue_lane l
  cross join lateral (select coalesce(pg_sequence_last_value(l.frontier), 0) as frontier offset 0) f
  left join rowcall.turn t on t.tenant = p_tenant and t.queue_id = l.queue_id and t.lane = l.lane
  cross join lateral (
    select count(*) as jobs, max(h.order_key) as highest
    from (
      select j.order_key
      from rowcall.job j
      where j.tenant = p_tenant
        and j.queue_id = p_queue_id
        and j.lane = p_lane
        and j.state = 2
        and j.by_sql
        and j.order_key > least(v_then, f.frontier)
      order by j.order_key desc
      limit 16
    ) h
  ) s
  where l.queue_id = p_queue_id
    and l.lane = p_lane
    -- Of two serializable transactions that both looked and both submitted, one would fail.
    and current_setting('transaction_isolation') <> 'serializable';
  if v_then is null then
    v_memory := set_config(v_memory, v_frontier::text, true);
  end if;
  return case when v_jobs < 16 then greatest(v_frontier, v_turn, v_highest) end;
end
$$;

-- Exchanges gateways' memories of how far flows have moved: each flow's furthest key
-- is kept and answered, by place (from 1).
create function rowcall.exchange_turns(p_tenant text[], p_queue_id integer[], p_lane smallint[], p_last_key bigint[])
returns table (place bigint, last_key bigint)
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with input as materialized (
    select *
    from unnest(p_tenant, p_queue_id, p_lane, p_last_key) with ordinality as i (tenant, queue_id, lane, last_key, place)
  ),
  kept as (
    insert into rowcall.turn as t (tenant, queue_id, lane, last_key)
    select i.tenant, i.queue_id, i.lane, max(i.last_key)
    from input i
    group by i.tenant, i.queue_id, i.lane
    -- In one order: two gateways would deadlock otherwise.
    order by i.tenant, i.queue_id, i.lane
    on conflict (tenant, queue_id, lane) do update set last_key = greatest(t.last_key, excluded.last_key)
    returning t.tenant, t.queue_id, t.lane, t.last_key
  )
  select i.place, k.last_key
  from input i
  join kept k on k.tenant = i.tenant and k.queue_id = i.queue_id and k.lane = i.lane
$$;

-- Forgets turns that the frontier has passed: they say nothing any more. How many. And puts the counters of what is set
-- aside together (0017_admission).
create function rowcall.forget_turns(p_limit integer)
returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_gone bigint;
begin
  perform rowcall.fold_aside(p_limit);
  with gone as (
    delete from rowcall.turn t
    where t.ctid = any (array(
        select p.ctid
        from rowcall.turn p
        join rowcall.queue_lane l on l.queue_id = p.queue_id and l.lane = p.lane
        where greatest(p.last_key, p.again_key) <= coalesce(pg_sequence_last_value(l.frontier), 0)
        limit p_limit
        for update of p skip locked
      ))
    returning 1
  )
  select count(*) into v_gone from gone;
  return v_gone;
end
$$;
