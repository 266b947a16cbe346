"""The kinds of pods: what one has, and how many of them there may be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Group:
    """One kind of pod.

    Args:
        pool: what it is for, a label of the node and of Ray's node; cpus, memory_gib and gpus of one pod.
        least, most: pods of the group; spot: on capacity that may be taken away.
        shm_gib: shared memory: Ray's object store, by default 30 % of the memory, and NCCL live there. Where the store
            does not fit, Ray puts it on disk.
        disk_gib: of the node's disk for /tmp, where Ray spills and a job's files are unpacked.
        home_gib: of the node's disk for caches of compiled kernels.
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
    disk_gib: int = 60
    home_gib: int = 10

    @property
    def market(self) -> str:
        """How the node is paid for, in the words of Ray's label ray.io/market-type."""
        return "spot" if self.spot else "on-demand"

    @property
    def ephemeral_gib(self) -> int:
        """What the pod asks of its node's disk: its volumes, its logs and what is written beside them."""
        return self.disk_gib + self.home_gib + 5


HEAD = Group(name="head", pool="head", cpus=4, memory_gib=16, least=1, shm_gib=6, disk_gib=20, home_gib=2)
CPU_GROUPS = (
    Group(name="cpu", pool="cpu", cpus=4, memory_gib=16, least=2, most=4, shm_gib=6, disk_gib=10, home_gib=2),
)
# A judge's pod fits a g6e.2xlarge (64 GiB), a trainer's a g6e.12xlarge: of its 384 GiB some 352 are left to pods.
GPU_GROUPS = (
    Group(name="cpu", pool="cpu", cpus=7, memory_gib=26, least=1, most=8, shm_gib=10),
    Group(name="judge-spot", pool="judge", cpus=7, memory_gib=52, gpus=1, most=16, spot=True, shm_gib=18),
    Group(name="judge-on-demand", pool="judge", cpus=7, memory_gib=52, gpus=1, most=4, shm_gib=18),
    Group(
        name="trainer-spot",
        pool="trainer",
        cpus=44,
        memory_gib=320,
        gpus=4,
        most=4,
        spot=True,
        shm_gib=96,
        disk_gib=100,
    ),
    Group(name="trainer-on-demand", pool="trainer", cpus=44, memory_gib=320, gpus=4, most=2, shm_gib=96, disk_gib=100),
)
