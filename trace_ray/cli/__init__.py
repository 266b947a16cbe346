"""The command line; ``main`` is what `trace-ray` calls."""

from trace_ray.cli.app import main

__all__ = ["main"]
