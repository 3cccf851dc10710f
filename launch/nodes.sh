#!/usr/bin/env bash
# Trains on several machines, without a scheduler: the same command on each of them, within ten minutes.
#     bash nodes.sh FIRST NODES DATASET RUN [options of avbench train]
# FIRST: address of one of them, as the others reach it; there the ranks meet. NODES: how many machines.
# DATASET and RUN are on a file system that all see. One rank a GPU (one where there is none) or RANKS, on each machine.
# A rank that dies or hangs is started again, with all others on all machines, RESTARTS times. Started again on all
# machines, it goes on with RUN. Ends with 0 when the run is finished, 75 when it was interrupted and saved, 3 when all
# its runs diverged, else 1.
set -euo pipefail
if (($# < 4)); then
    echo "usage: bash $0 FIRST NODES DATASET RUN [options of avbench train]" >&2
    exit 2
fi
first=$1 nodes=$2 dataset=$3 run=$4
shift 4
port=${PORT:-29400}

# From which address and interface this machine reaches FIRST, and whether it is FIRST. A host's own name says less: it
# often stands for loopback, where other machines cannot reach it.
reach=$(
    python - "$first" "$port" <<'END'
import socket, sys
import psutil

family, kind, _, _, there = socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), type=socket.SOCK_DGRAM)[0]
with socket.socket(family, kind) as link:  # nothing is sent
    link.connect(there)
    here = link.getsockname()[0]
if here.startswith("127.") or here == "::1":
    sys.exit(f"{sys.argv[1]} is {there[0]} on this machine; give the address by which the others reach it")
(interface,) = [name for name, held in psutil.net_if_addrs().items() if any(item.address == here for item in held)]
print(here, interface, int(here == there[0]))
END
)
read -r address interface is_first <<<"$reach"
# By this interface ranks find each other (NCCL's InfiniBand traffic is not bound by it).
export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$interface}
export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-$interface}

ranks=${RANKS:-$(python -c 'import torch; print(torch.cuda.device_count() or 1)')}
# Ranks share the cores, and threads that wait for each other on shared cores are slower than one.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Without this, ranks that were started again find the dead ones' addresses in torchrun's store.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# Where all runs diverged no start helps: ranks end with 0, or torchrun would start them again, and the file tells.
export AVBENCH_DIVERGED_STATUS=0
rm -f "$run/interrupted.json" # so that it speaks of this start
torchrun --nnodes="$nodes" --nproc-per-node="$ranks" --max-restarts="${RESTARTS:-3}" \
    --rdzv-backend=c10d --rdzv-endpoint="$first:$port" --rdzv-id="avbench-$first-$port" --rdzv-conf="is_host=$is_first" \
    --local-addr="$address" -m avbench train "$dataset" --out "$run" --auto-resume "$@" &
torchrun=$!
# torchrun passes these on to the ranks here, which stop together with all others. Ctrl-C reaches it without us.
trap 'kill -TERM "$torchrun"' TERM USR1
trap : INT
# Where the signal came on another machine, torchrun takes the stop of its ranks for a crash, and would wait here for
# the one that has left.
{
    until [[ -e $run/interrupted.json ]]; do sleep 5; done
    sleep 10
    kill -TERM "$torchrun"
} &>/dev/null &
watch=$!
trap 'kill "$watch" 2>/dev/null || true' EXIT

# A signal ends `wait` early, so wait until there is nothing to wait for; the last one gives the status.
while kill -0 "$torchrun" 2>/dev/null; do wait "$torchrun" || true; done
wait "$torchrun" && status=0 || status=$?
if [[ -e $run/diverged.json ]]; then exit 3; fi
# torchrun ends with 1 however its ranks ended; the file says that they stopped in good order.
if [[ -e $run/interrupted.json ]]; then exit 75; fi
exit "$status"
