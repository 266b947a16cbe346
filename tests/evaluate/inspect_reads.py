"""What Inspect reads of exported logs, printed: model, status, samples, figures; and the size of its data frame.

Run in an environment with inspect-ai, pandas and pyarrow, which need not have trace-ray:

    python inspect_reads.py LOGS

Inspect 0.3.285 read the demo's two logs of 128 samples each: accuracy 0.75 and 1.0, a data frame of 256 rows.
"""

import sys

from inspect_ai.analysis import samples_df
from inspect_ai.log import list_eval_logs, read_eval_log

for info in list_eval_logs(sys.argv[1]):
    log = read_eval_log(info)
    figures = {name: metric.value for name, metric in log.results.scores[0].metrics.items()}
    print(log.eval.model, log.status, len(log.samples), figures)
print("data frame:", samples_df(sys.argv[1]).shape)
