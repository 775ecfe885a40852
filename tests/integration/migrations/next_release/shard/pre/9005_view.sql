-- A column more of the view, as its last.
set local role rowcall_owner;

do $$
begin
  execute format(
    $f$
      create or replace view rowcall.jobs as
      select
        v.*,
        coalesce(
          (select j.note from rowcall.job j where j.tenant = v.tenant and j.job_id = v.job_id),
          (select h.note from rowcall.job_history h where h.tenant = v.tenant and h.job_id = v.job_id limit 1)
        ) as note
      from (%s) v
    $f$,
    rtrim(pg_get_viewdef('rowcall.jobs'::regclass), ';')
  );
end
$$;
