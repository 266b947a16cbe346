"""Entry point for `ray job submit --working-dir . -- python jobs/run.py -c FILE --run URI`: all stages."""

import sys

from trace_ray.cli.app import main

if __name__ == "__main__":
    sys.argv.insert(1, "run")
    main()
