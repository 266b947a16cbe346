"""Entry point for `ray job submit --working-dir . -- python jobs/compare.py URI URI [--html FILE]`: runs side by side."""

import sys

from trace_ray.cli.app import main

if __name__ == "__main__":
    sys.argv.insert(1, "compare")
    main()
