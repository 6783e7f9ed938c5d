"""Benchmarks of the operators beside torchvision: ``python -m benchmarks --help``."""
