"""Who may talk to whom: pods of this project among themselves; out by DNS, TLS and to what runs beside them."""

from __future__ import annotations

from clusters.manifests.objects import OURS, Yaml, an_object

LINK_LOCAL = "169.254.0.0/16"
"""Where clouds answer about a node, its role among it: shut, but for what an overlay opens by address and port."""
NODE_LOCAL_DNS = "169.254.20.10/32"
BESIDE = {"endpoints that judge": 8000, "MinIO": 9000, "MLflow": 5000}
"""Ports of services in the same Kubernetes cluster, in whatever namespace."""


def network_policy() -> Yaml:
    """Returns the policy for head and workers; the submitter's pod has none."""
    ours = {"podSelector": {"matchLabels": dict(OURS)}}
    # Whatever namespace it was installed into.
    operator = {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
    }
    # KubeRay labels the pod of a RayJob's submitter with the Job's own labels only.
    submitter = {"podSelector": {"matchExpressions": [{"key": "job-name", "operator": "Exists"}]}}
    scraper = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}}
    anywhere = {"ipBlock": {"cidr": "0.0.0.0/0", "except": [LINK_LOCAL]}}
    spec = {
        "podSelector": ours["podSelector"],
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [ours]},
            {"from": [operator, submitter], "ports": [_port(8265), _port(52365)]},
            {"from": [scraper], "ports": [_port(8080), _port(44217), _port(44227)]},
        ],
        "egress": [
            {"to": [ours]},
            {
                "to": [{"namespaceSelector": {}}, {"ipBlock": {"cidr": NODE_LOCAL_DNS}}],
                "ports": [_port(53, "UDP"), _port(53)],
            },
            {"to": [anywhere], "ports": [_port(443), _port(6443)]},  # 6443: an API server without a balancer before it
            {"to": [{"namespaceSelector": {}}], "ports": [_port(port) for port in BESIDE.values()]},
        ],
    }
    return an_object("networking.k8s.io/v1", "NetworkPolicy", "trace-ray", spec=spec)


def _port(number: int, protocol: str = "TCP") -> Yaml:
    return {"protocol": protocol, "port": number}
