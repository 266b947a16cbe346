"""A Grafana dashboard of the project's metrics, and of those of Ray's that tell why a run stands."""

from __future__ import annotations

from typing import Any

Panel = dict[str, Any]
PANELS: tuple[tuple[str, str, str, str], ...] = (
    ("Pairs judged a second", "ops", "sum by (category) (rate(ray_trace_ray_pairs_judged_total[5m]))", "{{category}}"),
    ("Judged tokens a second", "ops", "sum(rate(ray_trace_ray_judge_tokens_total[5m]))", "tokens"),
    (
        "Prefix cache hits",
        "percentunit",
        "sum(rate(ray_trace_ray_judge_prefix_hits_total[5m])) / sum(rate(ray_trace_ray_judge_prefix_queries_total[5m]))",
        "share",
    ),
    ("Rows refused", "short", "sum by (stage, reason) (ray_trace_ray_rejects_total)", "{{stage}}: {{reason}}"),
    ("Pairs scored a second", "ops", "sum by (category) (rate(ray_trace_ray_pairs_scored_total[5m]))", "{{category}}"),
    ("Trained tokens a second", "ops", "max(ray_trace_ray_training_tokens_per_second)", "tokens"),
    ("Training step", "short", "max(ray_trace_ray_training_step)", "step"),
    ("Trained tokens", "short", "sum(ray_trace_ray_training_tokens_total)", "tokens"),
    ("Answers a second", "ops", "sum by (model) (rate(ray_trace_ray_answers_total[5m]))", "{{model}}"),
    ("Done again a second", "ops", "sum by (kind) (rate(ray_trace_ray_retries_total[5m]))", "{{kind}}"),
    ("GPUs at work", "percent", "avg by (ray_io_cluster) (ray_node_gpus_utilization)", "{{ray_io_cluster}}"),
    ("Nodes awaited", "short", "sum by (NodeType) (autoscaler_pending_nodes)", "{{NodeType}}"),
)
"""Title, unit, PromQL, legend."""
WIDTH, HEIGHT, A_ROW = 12, 8, 2


def dashboard() -> dict[str, Any]:
    """Returns what Grafana imports; it asks which Prometheus to read."""
    source = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
    return {
        "__inputs": [
            {
                "name": "DS_PROMETHEUS",
                "label": "Prometheus",
                "type": "datasource",
                "pluginId": "prometheus",
                "pluginName": "Prometheus",
            }
        ],
        "title": "trace-ray",
        "uid": "trace-ray",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "panels": [_panel(number, *panel, source) for number, panel in enumerate(PANELS)],
    }


def _panel(number: int, title: str, unit: str, query: str, legend: str, source: dict[str, str]) -> Panel:
    row, column = divmod(number, A_ROW)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [{"refId": "A", "expr": query, "legendFormat": legend, "datasource": source}],
    }
