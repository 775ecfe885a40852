-- The document at a path.
select document_id, digest, chunker, embedder, chunks
from documents.document
where tenant = %(tenant)s
  and path = %(path)s
