"""What tells the Prometheus operator what to scrape, with the labels by which it is found."""

from __future__ import annotations

from clusters.manifests.objects import OURS, Yaml, an_object

RELEASE = {"release": "prometheus"}
"""kube-prometheus-stack takes up only monitors with the label of its Helm release; an overlay sets another."""
PORTS = {"worker": ["metrics"], "head": ["metrics", "as-metrics", "dash-metrics"]}
"""Of the head also the autoscaler's and the dashboard's own."""


def pod_monitors() -> list[Yaml]:
    """Returns one for workers and one for heads: a port that a pod lacks would be scraped in vain."""
    return [_monitor(kind, ports) for kind, ports in PORTS.items()]


def _monitor(kind: str, ports: list[str]) -> Yaml:
    cluster = {"sourceLabels": ["__meta_kubernetes_pod_label_ray_io_cluster"], "targetLabel": "ray_io_cluster"}
    spec = {
        "selector": {"matchLabels": OURS | {"ray.io/node-type": kind}},
        "podMetricsEndpoints": [{"port": port, "interval": "15s", "relabelings": [dict(cluster)]} for port in ports],
    }
    monitor = an_object("monitoring.coreos.com/v1", "PodMonitor", f"trace-ray-{kind}", spec=spec)
    monitor["metadata"]["labels"] |= RELEASE
    return monitor
