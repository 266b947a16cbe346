"""RayCluster and RayJob: they share one spec, so neither drifts."""

from __future__ import annotations

from clusters.manifests.groups import HEAD, Group
from clusters.manifests.objects import Yaml, an_object
from clusters.manifests.pods import API_TOKEN, RUN_CONFIG, confined, ray_pod, resources, submitter

RAY_VERSION = "2.60.0"
APP = "/app"
"""Where the image holds the project."""
AUTOSCALER = {
    # A pod that is not there after this is given up and asked for elsewhere: spot falls back to on-demand in a
    # quarter of an hour, by Ray's default in an hour. Longer than a node takes to come and pull the image.
    "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S": "900",
}


def cluster_spec(groups: tuple[Group, ...]) -> Yaml:
    """Returns the spec of a RayCluster with a head that runs no task."""
    return {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token", "secretName": "trace-ray-token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            # The operator sets the environment variable for it itself and refuses a cluster that sets both.
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": 120,
            "env": [{"name": name, "value": value} for name, value in AUTOSCALER.items()],
            "resources": resources(cpus=1, memory_gib=1, disk_gib=1),
            "securityContext": confined(),
            # The one container that talks to the API server.
            "volumeMounts": [{"name": "api-token", "mountPath": API_TOKEN, "readOnly": True}],
        },
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            # No task and no actor on the head: it only runs the control plane and the small driver.
            "rayStartParams": {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0"},
            "labels": {"trace-ray/pool": "head"},
            "template": ray_pod(HEAD, head=True),
        },
        "workerGroupSpecs": [_worker_group(group) for group in groups],
    }


def ray_cluster(name: str, groups: tuple[Group, ...]) -> Yaml:
    """Returns a cluster that stays, for `ray job submit`."""
    return an_object("ray.io/v1", "RayCluster", name, spec=cluster_spec(groups))


def ray_job(name: str, groups: tuple[Group, ...]) -> Yaml:
    """Returns a run on a cluster of its own, which ends with it; a retry resumes from the run's folder."""
    spec = {
        "entrypoint": f"python {APP}/jobs/run.py -c {RUN_CONFIG}/run.yaml --run s3://REPLACE-ME-BUCKET/runs/{name}",
        "submissionMode": "K8sJobMode",
        "backoffLimit": 3,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "activeDeadlineSeconds": 14 * 86400,  # the last resort; 100 M pairs take five days (SCALING.md)
        "submitterPodTemplate": {"spec": submitter()},
        "rayClusterSpec": cluster_spec(groups),
    }
    return an_object("ray.io/v1", "RayJob", name, spec=spec)


def _worker_group(group: Group) -> Yaml:
    return {
        "groupName": group.name,
        "minReplicas": group.least,
        "maxReplicas": group.most,
        "replicas": group.least,
        # Spot first; what it cannot give comes from the on-demand group of the same pool.
        "priority": 10 if group.spot else 0,
        "labels": {"trace-ray/pool": group.pool, "ray.io/market-type": group.market},
        "rayStartParams": {"num-cpus": str(group.cpus), "num-gpus": str(group.gpus)},
        "template": ray_pod(group, head=False),
    }
