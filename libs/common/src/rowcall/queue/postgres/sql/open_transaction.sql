select now(), set_config('idle_in_transaction_session_timeout', %(idle)s, true),
  set_config('statement_timeout', %(statement)s, true)
