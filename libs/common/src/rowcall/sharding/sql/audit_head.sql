-- Where the catalogue's chain ends.
select r.place, r.hash, r.at
from rowcall_catalogue.audit_head() r
