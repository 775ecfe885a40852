-- What docker-compose.yml's Postgres is made with, once, when its volume is new: the databases and the logins, each with the
-- rights that it needs and no others (docs/operating.md). The image runs it as superuser, with psql.
\getenv migrator_password ROWCALL_MIGRATOR_PASSWORD
\getenv gateway_password ROWCALL_GATEWAY_PASSWORD
\getenv worker_password ROWCALL_WORKER_PASSWORD
\getenv sums_password ROWCALL_SUMS_PASSWORD
\getenv tenants_password ROWCALL_TENANTS_PASSWORD

create role rowcall_migrator login password :'migrator_password';
create role rowcall_gateway_login login password :'gateway_password';
create role rowcall_worker_login login password :'worker_password';
-- Grafana's, of dashboards with sums, and of those with tenants.
create role rowcall_sums_login login password :'sums_password';
create role rowcall_tenants_login login password :'tenants_password';

create database rowcall_catalogue owner rowcall_migrator;
create database rowcall_a owner rowcall_migrator;
create database rowcall_b owner rowcall_migrator;
-- Nobody connects but who is granted it.
revoke all on database rowcall_catalogue, rowcall_a, rowcall_b from public;

-- As "rowcall migrate --roles=print" has it, so that the login that migrates needs no CREATEROLE.
do $$
declare
  v_role text;
begin
  foreach v_role in array array[
    'rowcall_owner',
    'rowcall_gateway',
    'rowcall_worker',
    'rowcall_auditor',
    'rowcall_submitter',
    'rowcall_servicer',
    'rowcall_reader',
    'rowcall_tenant_reader'
  ] loop
    begin
      if not exists (select from pg_catalog.pg_roles where rolname = v_role) then
        execute format('create role %I nologin', v_role);
      end if;
    exception
      -- Another database of this server is migrated at the same time.
      when duplicate_object or unique_violation then null;
    end;
  end loop;
end
$$;
grant rowcall_owner to rowcall_migrator;

grant rowcall_gateway to rowcall_gateway_login;
grant rowcall_worker to rowcall_worker_login;
grant rowcall_reader to rowcall_sums_login;
grant rowcall_auditor to rowcall_tenants_login;
