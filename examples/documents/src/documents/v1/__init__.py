"""Generated: the contract of the documents example."""
