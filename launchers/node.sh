#!/usr/bin/env bash
# Start the ranks of one run on this node, through torchrun:  node.sh PYTHON RANKS ORDER
# `python -m lvf.train` with several ranks calls it; of several nodes, on which srun has started that, each
# does. What a cluster needs for ranks to find and hear each other stands here, and only here. It runs
# within a container, where there is one: no command of Slurm is to be had.
set -euo pipefail
python=$1 ranks=$2 order=$3

# Slurm signals every process of a step. torchrun would die of SIGUSR2; ignored here, it stays so
# through exec, until a rank listens to it.
trap '' USR2

if ((${SLURM_STEP_NUM_NODES:-1} > 1)); then
    # Rank 0 belongs on the first node, where the command that started the run watches its files.
    # Ports below 32768 are not given to outgoing connections; two jobs on a node have two numbers.
    # The first of a list such as gpu[001-004,007],big1 is gpu001.
    head=$(sed -E 's/\[([^],-]+)[^]]*\]/\1/g; s/,.*//' <<< "$SLURM_STEP_NODELIST")
    rendezvous=(--nnodes "$SLURM_STEP_NUM_NODES" --node-rank "$SLURM_NODEID"
        --master-addr "$head" --master-port $((20000 + SLURM_JOB_ID % 12000)))
    # A machine has many interfaces, and a host name that resolves to 127.0.0.1 makes gloo wait for
    # ever: take the one that leads to the first node (on which itself: the one with its address).
    address=$(getent ahostsv4 "$head" | awk 'NR == 1 { print $1 }')
    if command -v ip > /dev/null; then # not in every container
        network=$(ip -o -4 addr show | awk -v a="$address" 'index($4, a "/") == 1 { print $2; exit }')
        network=${network:-$(ip -o route get "$address" | sed -n 's/.* dev \([^ ]*\).*/\1/p')}
        export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$network}
        export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-$network}
    fi
else
    rendezvous=(--standalone) # a free port of this machine, so that runs side by side do not meet
fi

# torchrun would set 1; the loader and CPU kernels can use a rank's share of the cores.
cores=${SLURM_CPUS_ON_NODE:-$(nproc)}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > ranks ? cores / ranks : 1))}
# A lost rank ends the others at once with a message, instead of a wait until the time-out.
export TORCH_NCCL_ASYNC_ERROR_HANDLING=1
export PYTHONUNBUFFERED=1

exec "$python" -m torch.distributed.run "${rendezvous[@]}" --nproc-per-node "$ranks" \
    --max-restarts 0 -m lvf.launching.rank "$order"
