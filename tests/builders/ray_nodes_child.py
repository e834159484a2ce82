"""A cluster of Ray on this machine, in a process of its own: a head without processors, and two nodes that have some.

    python -m tests.builders.ray_nodes_child DIRECTORY

Prints its address. A line ``kill`` ends the newest node as a power cut does, ``add`` starts one; it prints ``done``. It
ends with its input.
"""

import os
import sys

# Of a node that was killed nothing answers any more: that is noticed in two seconds instead of half a minute.
HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 10_000,
    "health_check_failure_threshold": 3,
}
STORE_BYTES = 200 << 20  # each node would claim its part of the whole machine's memory


def main(directory: str) -> None:
    os.environ["RAY_TMPDIR"] = directory
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES, "_system_config": HEALTH}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=4, object_store_memory=STORE_BYTES) for _ in range(2)]
    print(cluster.address, flush=True)  # noqa: T201
    for line in sys.stdin:
        if line == "kill\n":
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        else:
            nodes.append(cluster.add_node(num_cpus=4, object_store_memory=STORE_BYTES))
        print("done", flush=True)  # noqa: T201
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
