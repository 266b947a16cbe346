"""Entry point for `ray job submit --working-dir . -- python jobs/evaluate.py -c FILE --run URI`: this stage alone."""

import sys

from trace_ray.cli.app import main

if __name__ == "__main__":
    sys.argv.insert(1, "evaluate")
    main()
