-- The chunks whose vectors are closest to the question's: every one of the tenant's is looked at, which is exact and
-- fast enough for some ten thousand; beyond that, give the column an HNSW index.
select chunk.document_id, chunk.ordinal
from documents.chunk
join documents.document using (tenant, document_id)
where chunk.tenant = %(tenant)s
  and document.embedder = %(embedder)s
order by
  document.weight * documents.similarity(chunk.embedding, documents.to_embedding(%(embedding)s::real[])) desc,
  chunk.document_id,
  chunk.ordinal
limit %(limit)s
