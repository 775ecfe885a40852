-- Images that admins published: what every gateway serves beside the images of its own settings. Written through a gateway,
-- read by every gateway once a second: what is new is a look at the end of one index.
set local role rowcall_owner;

create table rowcall_catalogue.image (
  -- What the image is published under; its revisions are counted from 1.
  name text not null,
  revision bigint not null,
  -- SHA-256 of the content, in hexadecimal digits.
  digest text not null,
  -- A serialised google.protobuf.FileDescriptorSet.
  content bytea not null,
  -- One more at each publication, in the order in which they are committed.
  number bigint not null unique,
  published_at timestamptz not null default clock_timestamp(),
  actor text,
  note text,
  primary key (name, revision)
);

-- Which gateways there are, and up to which publication each serves.
create table rowcall_catalogue.gateway (
  gateway_id uuid primary key,
  name text not null,
  -- The release.
  version text not null,
  -- Of what it runs, as whoever deploys it calls that.
  deployed text,
  number bigint not null,
  started_at timestamptz not null,
  seen_at timestamptz not null
);

-- Publishes an image: its next revision, if that which it was compared with (0: none) is still the latest; else no row. Of
-- one name the last twenty revisions are kept. Recorded (0005_audit), with what it was before; as a rollback where it says to
-- which revision.
create function rowcall_catalogue.publish_image(
  p_name text, p_base bigint, p_digest text, p_content bytea, p_actor text, p_note text, p_rolled_back_to bigint, p_act jsonb
)
returns table (revision bigint, number bigint, published_at timestamptz)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_number bigint;
  v_before jsonb;
begin
  -- One after the other until the commit: whoever has read up to a number must not meet
  -- a lower one later.
  lock table rowcall_catalogue.image in share row exclusive mode;
  if p_base <> (select coalesce(max(i.revision), 0) from rowcall_catalogue.image i where i.name = p_name) then
    return;
  end if;
  select coalesce(max(i.number), 0) + 1 into v_number from rowcall_catalogue.image i;
  select jsonb_build_object('revision', i.revision, 'digest', i.digest) into v_before
  from rowcall_catalogue.image i
  where i.name = p_name and i.revision = p_base;
  perform rowcall_catalogue.record_action(
    p_act,
    case when p_rolled_back_to is null then 'image.publish' else 'image.rollback' end,
    'images/' || p_name,
    v_before,
    jsonb_strip_nulls(jsonb_build_object('revision', p_base + 1, 'digest', p_digest, 'rolled_back_to', p_rolled_back_to))
  );
  delete from rowcall_catalogue.image i where i.name = p_name and i.revision <= p_base - 19;
  return query
    insert into rowcall_catalogue.image as i (name, revision, digest, content, number, actor, note)
    values (p_name, p_base + 1, p_digest, p_content, v_number, p_actor, p_note)
    returning i.revision, i.number, i.published_at;
end
$$;

-- A gateway says that it lives and up to which publication it serves, and is told the latest revisions of what was
-- published after that.
create function rowcall_catalogue.images_after(
  p_gateway_id uuid, p_name text, p_version text, p_deployed text, p_number bigint
)
returns table (name text, revision bigint, digest text, number bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  insert into rowcall_catalogue.gateway as g (
    gateway_id, name, version, deployed, number, started_at, seen_at
  )
  values (p_gateway_id, p_name, p_version, p_deployed, p_number, clock_timestamp(), clock_timestamp())
  on conflict (gateway_id) do update
  set number = excluded.number, seen_at = excluded.seen_at
  where g.number <> excluded.number or g.seen_at < clock_timestamp() - interval '5 seconds';
  if found then
    delete from rowcall_catalogue.gateway g where g.seen_at < clock_timestamp() - interval '1 hour';
  end if;
  return query
    select i.name, i.revision, i.digest, i.number
    from rowcall_catalogue.image i
    where
      i.number > p_number
      and not exists (select from rowcall_catalogue.image l where l.name = i.name and l.revision > i.revision)
    order by i.number;
end
$$;

-- A gateway has ended: it is waited for by nobody.
create function rowcall_catalogue.forget_gateway(p_gateway_id uuid)
returns void
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  delete from rowcall_catalogue.gateway g where g.gateway_id = p_gateway_id
$$;

-- The gateways that were seen lately.
create function rowcall_catalogue.living_gateways()
returns table (name text, version text, deployed text, number bigint, started_at timestamptz, seen_at timestamptz)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select g.name, g.version, g.deployed, g.number, g.started_at, g.seen_at
  from rowcall_catalogue.gateway g
  where g.seen_at > clock_timestamp() - interval '15 seconds'
  order by g.name
$$;

-- One revision of an image; 0: the latest. No row: there is none.
create function rowcall_catalogue.read_image(p_name text, p_revision bigint)
returns table (revision bigint, digest text, content bytea)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select i.revision, i.digest, i.content
  from rowcall_catalogue.image i
  where i.name = p_name and (i.revision = p_revision or p_revision = 0)
  order by i.revision desc
  limit 1
$$;

-- What was published, the latest first, below a number where it is not null; of one name where it is not ''.
create function rowcall_catalogue.list_images(p_name text, p_below bigint, p_limit integer)
returns table (
  name text, revision bigint, digest text, number bigint, published_at timestamptz, actor text, note text, latest boolean
)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select
    i.name,
    i.revision,
    i.digest,
    i.number,
    i.published_at,
    i.actor,
    i.note,
    not exists (select from rowcall_catalogue.image l where l.name = i.name and l.revision > i.revision)
  from rowcall_catalogue.image i
  where (p_name = '' or i.name = p_name) and (p_below is null or i.number < p_below)
  order by i.number desc
  limit p_limit
$$;

grant execute on function
  rowcall_catalogue.publish_image(text, bigint, text, bytea, text, text, bigint, jsonb),
  rowcall_catalogue.images_after(uuid, text, text, text, bigint),
  rowcall_catalogue.forget_gateway(uuid),
  rowcall_catalogue.living_gateways(),
  rowcall_catalogue.read_image(text, bigint),
  rowcall_catalogue.list_images(text, bigint, integer)
to rowcall_gateway;
grant select on rowcall_catalogue.image, rowcall_catalogue.gateway to rowcall_auditor;
