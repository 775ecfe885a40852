"""The catalogue: which gRPC methods are job types, and their policy, read from descriptor images."""
