"""One description of pods, for head, workers and the one that submits."""

from __future__ import annotations

from clusters.manifests.groups import Group
from clusters.manifests.objects import OURS, Yaml

IMAGE = "trace-ray"
"""A name for Kustomize's ``images`` to replace, with a tag or a digest."""
RUN_CONFIG = "/etc/trace-ray"
"""Where a run's yaml lies, from the ConfigMap trace-ray-run that an overlay makes: no image is built for a setting."""
GRACE_SECONDS, DRAIN_SECONDS = 120, 100
"""AWS gives a spot instance two minutes; the drain's deadline leaves the pod time to end."""
API_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a folder
"""Mounted into the autoscaler's container alone, see ``ray_objects``."""

KEYS = {"HF_TOKEN": "hf_token", "OPENAI_API_KEY": "openai_api_key", "WANDB_API_KEY": "wandb_api_key"}
"""Environment variable -> key of the Secret trace-ray-keys, which need not exist."""


def ray_pod(group: Group, *, head: bool) -> Yaml:
    """Returns the template of a pod in which Ray runs."""
    main = {
        "name": "ray-head" if head else "ray-worker",
        "image": IMAGE,
        # With a tag that was used again a node would go on with what it pulled before; of a digest only the name is asked.
        "imagePullPolicy": "Always",
        "env": _environment(head=head),
        "ports": _ports(head=head),
        "resources": resources(
            cpus=group.cpus, memory_gib=group.memory_gib, gpus=group.gpus, disk_gib=group.ephemeral_gib
        ),
        "securityContext": confined(),
        "volumeMounts": _mounts(head=head),
        "readinessProbe": _probe(head=head, period=10, timeout=5, failures=6),
        # A loaded head answers late; what is dead for long is dead, what is slow is not to be killed for it.
        "livenessProbe": _probe(head=head, period=30, timeout=20, failures=40 if head else 20),
    }
    if not head:
        main["lifecycle"] = {"preStop": {"exec": {"command": ["/opt/trace-ray/drain.sh", str(DRAIN_SECONDS)]}}}
    return {
        "metadata": {
            "labels": OURS | {"trace-ray/pool": group.pool},
            # What consolidates nodes leaves a working pod alone: Karpenter, and the cluster autoscaler of GKE and AKS.
            "annotations": {
                "karpenter.sh/do-not-disrupt": "true",
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            },
        },
        "spec": {
            "serviceAccountName": "trace-ray-head" if head else "trace-ray-worker",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "priorityClassName": "trace-ray-head" if head else "trace-ray-worker",
            "imagePullSecrets": [{"name": "trace-ray-registry"}],
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "nodeSelector": node_labels(group),
            "tolerations": tolerations(group),
            "securityContext": unprivileged(),
            "containers": [main],
            "volumes": _volumes(group, head=head),
        },
    }


def submitter() -> Yaml:
    """Returns the pod that submits the job and follows its log; the driver itself runs on the head."""
    head = Group(name="submitter", pool="head", cpus=1, memory_gib=1)
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "imagePullSecrets": [{"name": "trace-ray-registry"}],
        "nodeSelector": node_labels(head),
        "tolerations": tolerations(head),
        "securityContext": unprivileged(),
        "containers": [
            {
                "name": "ray-job-submitter",
                "image": IMAGE,
                "imagePullPolicy": "Always",
                "resources": resources(cpus=1, memory_gib=1, disk_gib=2),
                "securityContext": confined(),
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "home", "mountPath": "/home/ray"}],
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "home", "emptyDir": {}}],
    }


def node_labels(group: Group) -> dict[str, str]:
    """Returns the labels of the nodes that a group's pods want; every cloud's node pools can be given them."""
    return {"trace-ray/pool": group.pool, "trace-ray/market": group.market}


def tolerations(group: Group) -> list[Yaml]:
    """Returns what lets the pods, and no others, onto those nodes."""
    found = [{"key": "trace-ray/pool", "operator": "Equal", "value": group.pool, "effect": "NoSchedule"}]
    if group.gpus:
        found.append({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"})
    if group.spot:
        found.append({"key": "trace-ray/spot", "operator": "Exists", "effect": "NoSchedule"})
    return found


def resources(*, cpus: int, memory_gib: int, gpus: int = 0, disk_gib: int) -> Yaml:
    """Returns requests equal to limits: Ray schedules by what it was told it has."""
    amounts = {"cpu": str(cpus), "memory": f"{memory_gib}Gi", "ephemeral-storage": f"{disk_gib}Gi"}
    if gpus:
        amounts["nvidia.com/gpu"] = str(gpus)
    return {"requests": dict(amounts), "limits": dict(amounts)}


def unprivileged() -> Yaml:
    """Returns a pod's security context: nobody special."""
    return {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "fsGroup": 1000,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def confined() -> Yaml:
    """Returns a container's security context: no right beyond running."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _environment(*, head: bool) -> list[Yaml]:
    plain = {
        "HOME": "/home/ray",
        "TRACE_RAY_CACHE": "/cache/trace-ray",
        "HF_HOME": "/cache/huggingface",
        "VLLM_CACHE_ROOT": "/home/ray/vllm",
        "AWS_STS_REGIONAL_ENDPOINTS": "regional",
    }
    if head:  # where the driver runs
        plain["TRACE_RAY_MISTAKES"] = "stop"
    secrets = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": "trace-ray-keys", "key": key, "optional": True}}}
        for name, key in KEYS.items()
    ]
    return [*({"name": name, "value": value} for name, value in plain.items()), *secrets]


def _mounts(*, head: bool) -> list[Yaml]:
    places = {"shm": "/dev/shm", "tmp": "/tmp", "home": "/home/ray", "cache": "/cache"}
    mounts: list[Yaml] = [{"name": name, "mountPath": path} for name, path in places.items()]
    return mounts + ([{"name": "run", "mountPath": RUN_CONFIG, "readOnly": True}] if head else [])


def _volumes(group: Group, *, head: bool) -> list[Yaml]:
    volumes: list[Yaml] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{group.shm_gib}Gi"}},
        {"name": "tmp", "emptyDir": {"sizeLimit": f"{group.disk_gib}Gi"}},
        {"name": "home", "emptyDir": {"sizeLimit": f"{group.home_gib}Gi"}},
        {"name": "cache", "persistentVolumeClaim": {"claimName": "trace-ray-cache"}},
    ]
    if head:
        volumes.append({"name": "run", "configMap": {"name": "trace-ray-run", "optional": True}})
        volumes.append({"name": "api-token", "projected": {"sources": _api_token()}})
    return volumes


def _api_token() -> list[Yaml]:
    """What Kubernetes would mount into every container of the pod, were it let."""
    namespace = {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}
    return [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]


def _ports(*, head: bool) -> list[Yaml]:
    ports = {"metrics": 8080}
    if head:
        ports |= {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "as-metrics": 44217, "dash-metrics": 44227}
    return [{"name": name, "containerPort": port} for name, port in ports.items()]


def _probe(*, head: bool, period: int, timeout: int, failures: int) -> Yaml:
    # The same on head and worker; without curl or wget in the image, and without the token: no work is behind it.
    urls = ["http://127.0.0.1:52365/api/local_raylet_healthz"]
    if head:
        urls.append("http://127.0.0.1:8265/api/gcs_healthz")
    code = "import urllib.request as r; " + "; ".join(f"r.urlopen({url!r}, timeout={timeout - 1})" for url in urls)
    command = ["python", "-I", "-S", "-c", code]
    times = {
        "initialDelaySeconds": 10,
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
    }
    return {"exec": {"command": command}, **times}
