-- A gateway has ended.
select rowcall_catalogue.forget_gateway(%(gateway_id)s)
