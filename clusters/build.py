"""Writes clusters/kuberay/*.yaml: RayCluster and RayJob share one description of pods, so neither drifts.

python clusters/build.py           # after a change here; tests compare
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

RAY_VERSION = "2.60.0"
IMAGE = "registry.example.com/trace-ray:0.1.0"
APP = "/app"
"""Where the image holds the project."""

NAMESPACE = "trace-ray"
GRACE_SECONDS, DRAIN_SECONDS = 120, 100
"""AWS gives a spot instance two minutes; the drain's deadline leaves the pod time to end."""

Yaml = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Group:
    """One kind of worker pod.

    Args:
        pool: what it is for, a label of the node and of Ray's node; cpus, memory_gib and gpus of one pod.
        least, most: pods of the group; spot: on capacity that may be taken away.
        shm_gib: shared memory: Ray's object store, by default 30 % of the memory, and NCCL live there. Where the store
            does not fit, Ray puts it on disk.
    """

    name: str
    pool: str
    cpus: int
    memory_gib: int
    gpus: int = 0
    least: int = 0
    most: int = 1
    spot: bool = False
    shm_gib: int = 12


CPU_GROUPS = (Group(name="cpu", pool="cpu", cpus=4, memory_gib=16, least=2, most=4, shm_gib=6),)
GPU_GROUPS = (
    Group(name="cpu", pool="cpu", cpus=8, memory_gib=32, least=1, most=8),
    Group(name="judge-spot", pool="judge", cpus=7, memory_gib=56, gpus=1, most=16, spot=True, shm_gib=16),
    Group(name="judge-on-demand", pool="judge", cpus=7, memory_gib=56, gpus=1, most=4, shm_gib=16),
    Group(name="trainer-spot", pool="trainer", cpus=44, memory_gib=360, gpus=4, most=4, spot=True, shm_gib=96),
    Group(name="trainer-on-demand", pool="trainer", cpus=44, memory_gib=360, gpus=4, most=2, shm_gib=96),
)
HEAD = Group(name="head", pool="head", cpus=4, memory_gib=16, least=1, most=1, shm_gib=6)


def files() -> dict[str, list[Yaml]]:
    """Returns {file name: its documents}."""
    return {
        "common.yaml": common(),
        "monitoring.yaml": [pod_monitor()],
        "cpu-cluster.yaml": [ray_cluster("trace-ray-cpu", CPU_GROUPS)],
        "cpu-job.yaml": [ray_job("trace-ray-cpu-run", CPU_GROUPS, "conf/examples/kuberay_cpu.yaml")],
        "gpu-cluster.yaml": [ray_cluster("trace-ray-gpu", GPU_GROUPS)],
        "gpu-job.yaml": [ray_job("trace-ray-gpu-run", GPU_GROUPS, "conf/examples/kuberay_gpu.yaml")],
    }


def cluster_spec(groups: tuple[Group, ...]) -> Yaml:
    """Returns the spec of a RayCluster with a head that runs no task."""
    return {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token", "secretName": "trace-ray-token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": 120,
            "resources": _resources(cpus=1, memory_gib=1),
            "securityContext": _confined(),
        },
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            # No task and no actor on the head: it only runs the control plane and the small driver.
            "rayStartParams": {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0"},
            "labels": {"trace-ray/pool": "head"},
            "template": _pod(HEAD, "ray-head"),
        },
        "workerGroupSpecs": [_worker_group(group) for group in groups],
    }


def ray_cluster(name: str, groups: tuple[Group, ...]) -> Yaml:
    """Returns a cluster that stays, for `ray job submit`."""
    return _object("ray.io/v1", "RayCluster", name, cluster_spec(groups))


def ray_job(name: str, groups: tuple[Group, ...], config: str) -> Yaml:
    """Returns a run on a cluster of its own, which ends with it; a retry resumes from the run's folder."""
    spec = {
        "entrypoint": f"python {APP}/jobs/run.py -c {APP}/{config} --run s3://example-bucket/runs/{name}",
        "submissionMode": "K8sJobMode",
        "backoffLimit": 3,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "activeDeadlineSeconds": 14 * 86400,  # of a run that hangs; 100 M pairs take five days (SCALING.md)
        "submitterPodTemplate": {"spec": _submitter()},
        "rayClusterSpec": cluster_spec(groups),
    }
    return _object("ray.io/v1", "RayJob", name, spec)


def _worker_group(group: Group) -> Yaml:
    return {
        "groupName": group.name,
        "minReplicas": group.least,
        "maxReplicas": group.most,
        "replicas": group.least,
        # Spot first; what it cannot give comes from the on-demand group of the same pool.
        "priority": 10 if group.spot else 0,
        "labels": {"trace-ray/pool": group.pool, "ray.io/market-type": "spot" if group.spot else "on-demand"},
        "rayStartParams": {"num-cpus": str(group.cpus), "num-gpus": str(group.gpus)},
        "template": _pod(group, "ray-worker"),
    }


def _pod(group: Group, container: str) -> Yaml:
    head = container == "ray-head"
    tolerations = [{"key": "trace-ray/pool", "operator": "Equal", "value": group.pool, "effect": "NoSchedule"}]
    if group.gpus:
        tolerations.append({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"})
    if group.spot:
        tolerations.append({"key": "trace-ray/spot", "operator": "Exists", "effect": "NoSchedule"})
    main = {
        "name": container,
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": name, "value": value} for name, value in _environment().items()],
        "ports": _head_ports() if head else [{"name": "metrics", "containerPort": 8080}],
        "resources": _resources(cpus=group.cpus, memory_gib=group.memory_gib, gpus=group.gpus),
        "securityContext": _confined(),
        "volumeMounts": _mounts(),
        "readinessProbe": _probe(head=head, seconds=10),
        "livenessProbe": _probe(head=head, seconds=30),
    }
    if not head:
        main["lifecycle"] = {"preStop": {"exec": {"command": ["/opt/trace-ray/drain.sh", str(DRAIN_SECONDS)]}}}
    return {
        "metadata": {
            "labels": {"app.kubernetes.io/name": "trace-ray", "trace-ray/pool": group.pool},
            "annotations": {"karpenter.sh/do-not-disrupt": "true"} if head else {},
        },
        "spec": {
            "serviceAccountName": "trace-ray-head" if head else "trace-ray-worker",
            # Only the head's autoscaler talks to the API server.
            "automountServiceAccountToken": head,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "nodeSelector": {
                "karpenter.sh/capacity-type": "spot" if group.spot else "on-demand",
                "trace-ray/pool": group.pool,
            },
            "tolerations": tolerations,
            "securityContext": _unprivileged(),
            "containers": [main],
            "volumes": [
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{group.shm_gib}Gi"}},
                {"name": "tmp", "emptyDir": {"sizeLimit": "100Gi"}},
                {"name": "home", "emptyDir": {"sizeLimit": "10Gi"}},
                {"name": "cache", "persistentVolumeClaim": {"claimName": "trace-ray-cache"}},
            ],
        },
    }


def _submitter() -> Yaml:
    """The pod that submits the job and follows its log; the driver itself runs on the head."""
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "nodeSelector": {"karpenter.sh/capacity-type": "on-demand", "trace-ray/pool": "head"},
        "tolerations": [{"key": "trace-ray/pool", "operator": "Equal", "value": "head", "effect": "NoSchedule"}],
        "securityContext": _unprivileged(),
        "containers": [
            {
                "name": "ray-job-submitter",
                "image": IMAGE,
                "resources": _resources(cpus=1, memory_gib=1),
                "securityContext": _confined(),
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "home", "mountPath": "/home/ray"}],
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "home", "emptyDir": {}}],
    }


def _environment() -> dict[str, str]:
    return {
        "HOME": "/home/ray",
        "TRACE_RAY_CACHE": "/cache/trace-ray",
        "HF_HOME": "/cache/huggingface",
        "VLLM_CACHE_ROOT": "/home/ray/vllm",
        "RAY_enable_autoscaler_v2": "1",
        "AWS_STS_REGIONAL_ENDPOINTS": "regional",
    }


def _mounts() -> list[Yaml]:
    places = {"shm": "/dev/shm", "tmp": "/tmp", "home": "/home/ray", "cache": "/cache"}
    return [{"name": name, "mountPath": path} for name, path in places.items()]


def _head_ports() -> list[Yaml]:
    ports = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080}
    return [{"name": name, "containerPort": port} for name, port in ports.items()]


def _probe(*, head: bool, seconds: int) -> Yaml:
    # The same on head and worker; without curl or wget in the image, and without the token: no work is behind it.
    urls = ["http://127.0.0.1:52365/api/local_raylet_healthz"]
    if head:
        urls.append("http://127.0.0.1:8265/api/gcs_healthz")
    code = "import urllib.request as r; " + "; ".join(f"r.urlopen({url!r}, timeout=4)" for url in urls)
    command = ["python", "-I", "-S", "-c", code]
    times = {"initialDelaySeconds": 10, "periodSeconds": seconds, "timeoutSeconds": 5, "failureThreshold": 6}
    return {"exec": {"command": command}, **times}


def _resources(*, cpus: int, memory_gib: int, gpus: int = 0) -> Yaml:
    # Requests equal limits: Ray schedules by what it was told it has.
    amounts: dict[str, str] = {"cpu": str(cpus), "memory": f"{memory_gib}Gi"}
    if gpus:
        amounts["nvidia.com/gpu"] = str(gpus)
    return {"requests": dict(amounts), "limits": dict(amounts)}


def _unprivileged() -> Yaml:
    return {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "fsGroup": 1000,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _confined() -> Yaml:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def common() -> list[Yaml]:
    """Returns what both clusters need: namespace, service accounts, the cache volume, the network policy."""
    role = "arn:aws:iam::111122223333:role/trace-ray-s3"
    accounts = [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": _metadata(name) | {"annotations": {"eks.amazonaws.com/role-arn": role}},
            "automountServiceAccountToken": False,
        }
        for name in ("trace-ray-head", "trace-ray-worker")
    ]
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _metadata("trace-ray-cache"),
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "efs-sc",
            "resources": {"requests": {"storage": "500Gi"}},
        },
    }
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": NAMESPACE,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    }
    return [namespace, *accounts, claim, network_policy()]


def network_policy() -> Yaml:
    """Returns who may talk to whom: pods of this cluster among themselves; out only by DNS and TLS, never to metadata."""
    ours = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "trace-ray"}}}
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kuberay-operator"}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
    }
    # KubeRay labels the pod of a RayJob's submitter with the Job's own labels only.
    submitter = {"podSelector": {"matchExpressions": [{"key": "job-name", "operator": "Exists"}]}}
    scraper = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    anywhere = {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}
    dns = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata("trace-ray"),
        "spec": {
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "trace-ray"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [ours]},
                {"from": [operator, submitter], "ports": [_port(8265), _port(52365)]},
                {"from": [scraper], "ports": [_port(8080), _port(44217)]},
            ],
            "egress": [
                {"to": [ours]},
                {"to": [dns], "ports": [_port(53, "UDP"), _port(53)]},
                {"to": [anywhere], "ports": [_port(443)]},
            ],
        },
    }


def _port(number: int, protocol: str = "TCP") -> Yaml:
    return {"protocol": protocol, "port": number}


def pod_monitor() -> Yaml:
    """Returns what tells the Prometheus operator to scrape every Ray pod."""
    spec = {
        "selector": {"matchLabels": {"app.kubernetes.io/name": "trace-ray"}},
        "podMetricsEndpoints": [{"port": "metrics", "interval": "15s"}],
    }
    return _object("monitoring.coreos.com/v1", "PodMonitor", "trace-ray", spec)


def _object(version: str, kind: str, name: str, spec: Yaml) -> Yaml:
    return {"apiVersion": version, "kind": kind, "metadata": _metadata(name), "spec": spec}


def _metadata(name: str) -> Yaml:
    return {"name": name, "namespace": NAMESPACE, "labels": {"app.kubernetes.io/part-of": "trace-ray"}}


# Writes every list and mapping out: anchors between groups would be hard to edit.
_DUMPER: Any = type("Dumper", (yaml.SafeDumper,), {"ignore_aliases": lambda _self, _data: True})


def render(documents: list[Yaml]) -> str:
    """Returns the documents as yaml, keys in the order above."""
    body = yaml.dump_all(documents, Dumper=_DUMPER, sort_keys=False, width=118)
    return f"# Made by clusters/build.py; change that and run it.\n{body}"


def main() -> None:
    folder = Path(__file__).with_name("kuberay")
    for name, documents in files().items():
        (folder / name).write_text(render(json.loads(json.dumps(documents))), encoding="utf-8")


if __name__ == "__main__":
    main()
