-- A field more of what is submitted: another type, and another function beside the old one. An array of the old type goes on
-- being read, which it would not be if that had a field more ("wrong number of columns").
set local role rowcall_owner;

do $$
declare
  v_fields text := (
    select string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' order by a.attnum)
    from pg_attribute a
    where a.attrelid = 'rowcall.submission'::regclass and a.attnum > 0 and not a.attisdropped
  );
begin
  execute format('create type rowcall.submission_2 as (%s, note text)', v_fields);
  execute pg_temp.rewritten(
    pg_temp.rewritten(
      pg_get_functiondef('rowcall.submit_jobs'::regproc),
      'rowcall\.submit_jobs\(p_submission rowcall\.submission\[\]', 'rowcall.submit_jobs_2(p_submission rowcall.submission_2[]'
    ),
    '(insert into rowcall\.job \()([^)]*\)\s*select\s+)', '\1note, \2j.note, '
  );
end
$$;
grant execute on function rowcall.submit_jobs_2 to rowcall_gateway, rowcall_worker;
