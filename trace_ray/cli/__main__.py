"""`python -m trace_ray.cli`."""

import os

from trace_ray.cli import main

os.environ.setdefault("PYTHONUNBUFFERED", "1")
main()
