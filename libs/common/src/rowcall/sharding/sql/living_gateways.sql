-- The gateways that were seen lately, and how far each is.
select g.name, g.version, g.deployed, g.number, g.started_at, g.seen_at
from rowcall_catalogue.living_gateways() g
