"""The RPC services that are ours, one a module, with their helpers beside them.

Here: `jobs` (rowcall.v1.JobService), `operations` (google.longrunning.Operations), `queues` (rowcall.v1.QueueService), `catalogue`
(rowcall.v1.CatalogueService), `tenants` (rowcall.v1.TenantService), `workers` (rowcall.v1.WorkerService), `access` (rowcall.v1.AccessService), `bounds`
(rowcall.v1.AdmissionService), `audit` (rowcall.v1.AuditService), `errors` (rowcall.v1.ErrorService), `traces` (rowcall.v1.ActionService) and `reflection`
(grpc.reflection.v1alpha.ServerReflection). `job_lists`, `filters`, `selections` and `actions` serve `jobs`;
`action_trees` (what of a large action is shown) and `spend` (what was spent, in sums) serve `traces`;
`heads` tells where chains of the audit end; `disclosures` serves `jobs` and `operations`, `listing` `operations`; `publishing` (images that were published) and `exchange` (what is served, exchanged)
serve `catalogue`; `exports` (all that is kept of one), `erasures` and
`homes` (where one lives) and `tenant_failures` (dead letters of all) serve `tenants`; `activity` (what happens in queues) serves `queues`; `changes` serves `queues`, `catalogue` and `tenants`; `fitting` (how much an answer holds) serves `exports` and `traces`; `reading` and `tokens` serve several. Made and
registered by `rowcall_gateway.server`, and by nobody else; a later service is one more module here (docs/adr/0023).

Uses `calls`, `shards` and `edge`. None of those imports it, and it never imports the settings: the server gives values.
"""
