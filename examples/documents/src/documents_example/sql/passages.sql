-- The texts of chunks that were found.
select
  chunk.document_id,
  chunk.ordinal,
  document.path,
  chunk.heading,
  chunk.body,
  chunk.first_line,
  chunk.last_line
from unnest(%(document_ids)s::uuid[], %(ordinals)s::integer[]) as wanted (document_id, ordinal)
join documents.chunk using (document_id, ordinal)
join documents.document using (tenant, document_id)
where chunk.tenant = %(tenant)s
