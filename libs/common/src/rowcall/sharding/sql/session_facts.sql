-- What of a session nobody reports, and only its own answer tells. transaction_timeout came with PG 17.
select
  current_setting('synchronous_commit') as synchronous_commit,
  current_setting('synchronous_standby_names') <> '' as has_standby,
  coalesce(current_setting('transaction_timeout', true), '0') <> '0' as has_transaction_timeout
