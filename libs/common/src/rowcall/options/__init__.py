"""Generated: the method option that makes a gRPC method a job type."""
