"""What the library costs and how right it is, measured and printed: ``python -m benchmarks``."""
