-- What a session tells of its server. By its own name a function of Postgres's may be withheld too.
select
  rowcall.find_lacks() as lacks,
  current_setting('server_version') as version,
  pg_backend_pid() as pid,
  has_function_privilege('pg_catalog.pg_notify(text, text)', 'execute') as notifies,
  current_setting('synchronous_commit') as synchronous_commit,
  current_setting('synchronous_standby_names') <> '' as has_standby,
  (select r.rolsuper from pg_catalog.pg_roles r where r.rolname = session_user) as is_superuser,
  pg_has_role(session_user, 'rowcall_owner', 'member') as is_owner
