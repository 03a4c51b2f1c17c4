"""Speeds of links and disks, each with its source, for `lvf.planning.scaling`."""

from __future__ import annotations

from dataclasses import dataclass

DISK_BYTES_PER_SECOND = 1e9
"""Of one process that writes or reads one file on a shared file system: assumed."""
NODE_DISK_BYTES_PER_SECOND = 2e9
"""Of all ranks of a node that write at once: the least of three levels ("good") that NVIDIA asks of
a DGX SuperPOD's file system (RA-11333-001 V11, table 6), as is the following."""
SHARED_DISK_BYTES_PER_SECOND = 7e9
"""Of all nodes together: of one scalable unit, which has 32."""
DEVICES_PER_NODE = 8
START_SECONDS = 10.0
"""From the command to the first batch, reading the model apart: measured on two CPU cores at
embedded scale."""
COLLECTIVE_SECONDS = 8.4e-6
"""A collective's latency beside that of its hops: NCCL's own model, src/graph/tuning.cc, ring with
the simple protocol, as are the following."""
DEVICE_HOP_SECONDS = 3.4e-6
NODE_HOP_SECONDS = 9.6e-6


def num_nodes(num_devices: int) -> int:
    """Nodes of eight devices that so many devices take."""
    return -(-num_devices // DEVICES_PER_NODE)


def parts_bytes_per_second(num_devices: int) -> float:
    """What ranks write together, or read, where each has a part of a checkpoint."""
    return min(num_nodes(num_devices) * NODE_DISK_BYTES_PER_SECOND, SHARED_DISK_BYTES_PER_SECOND)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Nodes of eight devices; a collective's rings pass every device, and enter each node once."""

    memory_bytes: float
    """Of a device."""
    device_bytes_per_second: float
    """What a ring moves through a device within a node."""
    node_bytes_per_second: float
    """What all network cards of a node move in one direction."""

    def latency_seconds(self, num_devices: int, passes: int = 1) -> float:
        """Of one collective that goes round the ring `passes` times."""
        nodes = num_nodes(num_devices)
        hops = (num_devices - nodes) * DEVICE_HOP_SECONDS + (nodes - 1) * NODE_HOP_SECONDS
        return COLLECTIVE_SECONDS + passes * hops

    def bus_bytes_per_second(self, num_devices: int) -> float:
        """What a ring over so many devices moves through each of them."""
        if num_nodes(num_devices) == 1:
            return self.device_bytes_per_second
        return min(self.device_bytes_per_second, self.node_bytes_per_second)


H100 = Cluster(
    memory_bytes=80e9,
    # 450 GB/s each way (NVIDIA's data sheet: 900 both ways), of which NCCL reaches 370 as its
    # maintainer says: NVIDIA/nccl-tests, issue 212.
    device_bytes_per_second=370e9,
    # A DGX H100 has a network card of 400 Gb/s for each GPU, of which NCCL reaches 46 to 48 GB/s:
    # NVIDIA/nccl-tests, issue 290.
    node_bytes_per_second=8 * 47e9,
)
A100_1600G = Cluster(
    memory_bytes=40e9,
    # NCCL's own bound for an A100, src/graph/tuning.cc; 300 GB/s each way by the data sheet.
    device_bytes_per_second=235e9,
    # llm-foundry's benchmarks: 1600 Gb/s a node (RoCE), reduced as the H100's.
    node_bytes_per_second=1600e9 / 8 * 47 / 50,
)
CLUSTERS = {"H100": H100}
"""By `scale.device`; a device that is not listed counts as having memory and links without end."""
DOLLARS_PER_HOUR = 3.0
"""Of an H100: assumed, within the list prices of early 2026 (2.49 to 3.99)."""
