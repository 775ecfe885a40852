-- A column of the job, kept in its history. Null in all that the release before writes.
set local role rowcall_owner;

create function pg_temp.rewritten(p_text text, p_pattern text, p_by text)
returns text
language plpgsql
as $$
declare
  v_text text := regexp_replace(p_text, p_pattern, p_by);
begin
  if v_text = p_text then
    raise exception 'The next release of the tests does not fit any more: nothing matches % in %', p_pattern, left(p_text, 200);
  end if;
  return v_text;
end
$$;

-- One after the other in the order in which a settle takes them.
lock table rowcall.job in access exclusive mode;
lock table rowcall.job_history in access exclusive mode;
alter table rowcall.job add column note text;
alter table rowcall.job_history add column note text;

-- What moves whole rows carries it from now on, for whichever release calls. In the same transaction: ended() returns rows of
-- job_history, and is wrong without it.
do $$
begin
  execute pg_temp.rewritten(
    pg_get_functiondef('rowcall.ended'::regproc), '(\s+from rowcall\.policy p\s)', ', p_job.note\1'
  );
  execute pg_temp.rewritten(
    pg_get_functiondef('rowcall.settle_jobs'::regproc),
    '(insert into rowcall\.job_history \()([^)]*\)\s*select\s+)', '\1note, \2g.note, '
  );
  execute pg_temp.rewritten(
    pg_get_functiondef('rowcall.replay_jobs'::regproc), '(insert into rowcall\.job \()([^)]*\)\s*select\s+)', '\1note, \2f.note, '
  );
end
$$;
