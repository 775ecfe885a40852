-- The tables of the documents example, made once; later runs change nothing. With the extension vector, vectors are of
-- its type; without it they are arrays. The difference ends here: statements use documents.embedding, its maker and its
-- similarity, the same in both.
do $$
declare
  v_extension_schema text;
begin
  perform pg_advisory_xact_lock(hashtextextended('documents_example.schema', 0));
  if to_regclass('documents.chunk') is not null then
    return;
  end if;
  if to_regnamespace('documents') is null then
    create schema documents;
  end if;

  if exists (select from pg_available_extensions where name = 'vector') then
    begin
      create extension if not exists vector;
    exception
      when insufficient_privilege then null;
    end;
  end if;
  select n.nspname into v_extension_schema
    from pg_extension e join pg_namespace n on n.oid = e.extnamespace
    where e.extname = 'vector';
  if v_extension_schema is not null then
    execute format('create domain documents.embedding as %I.vector', v_extension_schema);
    execute format(
      'create function documents.to_embedding(p_values real[]) returns documents.embedding
         immutable strict parallel safe
         return p_values::%I.vector', v_extension_schema);
    execute format(
      'create function documents.similarity(p_one documents.embedding, p_other documents.embedding)
         returns double precision immutable strict parallel safe
         return 1 - (p_one operator(%I.<=>) p_other)', v_extension_schema);
  else
    create domain documents.embedding as real[];
    create function documents.to_embedding(p_values real[]) returns documents.embedding
      immutable strict parallel safe
      return p_values;
    -- Embedders make vectors of length 1: their product is the cosine.
    create function documents.similarity(p_one documents.embedding, p_other documents.embedding)
      returns double precision immutable strict parallel safe
      return (select sum(pair.one * pair.other) from unnest(p_one::real[], p_other::real[]) as pair (one, other));
  end if;

  create table documents.document (
    tenant text not null,
    document_id uuid not null default gen_random_uuid(),
    path text not null,
    digest bytea not null,
    chunker text not null,
    embedder text not null,
    -- What the scores of its chunks are multiplied by.
    weight double precision not null,
    chunks integer not null,
    indexed_at timestamptz not null default now(),
    primary key (tenant, document_id),
    unique (tenant, path)
  );

  create table documents.chunk (
    tenant text not null,
    document_id uuid not null,
    ordinal integer not null,
    heading text not null,
    body text not null,
    first_line integer not null,
    last_line integer not null,
    -- The words: of the path with weight A, of the heading with B, of the body with D.
    search tsvector not null,
    -- How many words those are, repetitions included.
    words integer not null,
    embedding documents.embedding not null,
    primary key (tenant, document_id, ordinal),
    foreign key (tenant, document_id) references documents.document on delete cascade
  );
  create index chunk_search on documents.chunk using gin (search);
end
$$;
