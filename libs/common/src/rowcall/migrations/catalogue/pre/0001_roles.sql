-- The roles of the catalogue. All are NOLOGIN: an operator grants them to login roles.
-- The owner holds the tables; services hold the rights they need
-- and nothing else. Roles belong to the whole server, so two
-- databases on one server, migrated side by side, may both try to make them.
do $$
declare
  v_role text;
  v_may_act boolean;
begin
  foreach v_role in array array['rowcall_owner', 'rowcall_gateway', 'rowcall_worker', 'rowcall_auditor'] loop
    begin
      if not exists (select from pg_catalog.pg_roles where rolname = v_role) then
        execute format('create role %I nologin', v_role);
      end if;
    exception
      when duplicate_object or unique_violation then null;
    end;
  end loop;
  -- From 16 on, who makes a role may administer it, but not act as it before
  -- granting it to itself; before 16 the two are one.
  v_may_act := case
    when current_setting('server_version_num')::integer >= 160000
      then pg_catalog.pg_has_role(current_user, 'rowcall_owner', 'set')
    else pg_catalog.pg_has_role(current_user, 'rowcall_owner', 'member')
  end;
  if not v_may_act then
    execute format('grant rowcall_owner to %I', current_user);
  end if;
  execute format('grant create on database %I to rowcall_owner', current_database());
end
$$;
create schema if not exists rowcall_catalogue authorization rowcall_owner;
grant usage on schema rowcall_catalogue to rowcall_gateway, rowcall_worker, rowcall_auditor;
