-- Writes the document's row, and returns its id unless it is there in this version already. Of two that write at once,
-- the second waits here for the first one's commit.
insert into documents.document (tenant, path, digest, chunker, embedder, weight, chunks)
values (%(tenant)s, %(path)s, %(digest)s, %(chunker)s, %(embedder)s, %(weight)s, %(chunks)s)
on conflict (tenant, path) do update
set digest = excluded.digest,
    chunker = excluded.chunker,
    embedder = excluded.embedder,
    weight = excluded.weight,
    chunks = excluded.chunks,
    indexed_at = now()
where (document.digest, document.chunker, document.embedder)
  is distinct from (excluded.digest, excluded.chunker, excluded.embedder)
returning document_id
