"""Generated: the probe service, the built-in job types for canaries, benchmarks and fault tests."""
