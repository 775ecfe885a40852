"""The queue: jobs as rows, submitted by gateways, claimed and settled by workers."""
