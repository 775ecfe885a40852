"""The gateway: takes gRPC calls, writes queue rows, answers when a worker has settled them."""
