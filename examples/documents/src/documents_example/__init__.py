"""The documents example: a job package that ingests text files and answers questions over them.

One role a module, each behind an interface of its own:

    servicer    the gRPC methods: what a worker (or any grpc.aio server) serves
    reader      bytes to text
    chunker     text to chunks that know their lines
    embedder    text to vectors: `hashed` by default, `e5` as an extra
    index       chunks by tenant, found by words and by vectors: `postgres_index`
    model       a question and passages to an answer: `extractive`
    settings    what the environment says

Nothing of Rowcall imports this package: a worker is told `--servicer documents_example.servicer:register`, a gateway
gets the image `documents.binpb`.
"""
