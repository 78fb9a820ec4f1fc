"""The parts of benchmarks/specialists.py."""
