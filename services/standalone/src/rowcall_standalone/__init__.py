"""Gateway and workers in one process: the only package that may import both."""
