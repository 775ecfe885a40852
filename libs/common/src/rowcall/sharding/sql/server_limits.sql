-- How many connections the server allows to ordinary roles.
-- reserved_connections came with PG 16.
select
  current_setting('max_connections')::integer as max_connections,
  current_setting('superuser_reserved_connections')::integer
    + coalesce(current_setting('reserved_connections', true)::integer, 0) as reserved
