#!/usr/bin/env bash
# Trains on one machine: one rank a GPU, all of them; one rank where there is none.
#     bash one_node.sh DATASET RUN [options of avbench train]
#     RANKS=2 bash one_node.sh DATASET RUN ...        (that many ranks, on CPUs too)
# Started again, it goes on with RUN. A rank that dies or hangs is started again, with all others, RESTARTS times.
# Ends with 0 when the run is finished, 75 when it was interrupted (Ctrl-C, SIGTERM, SIGUSR1) and saved, 3 when all its
# runs diverged, else 1.
set -euo pipefail
if (($# < 2)); then
    echo "usage: bash $0 DATASET RUN [options of avbench train]" >&2
    exit 2
fi
dataset=$1 run=$2
shift 2

ranks=${RANKS:-$(python -c 'import torch; print(torch.cuda.device_count() or 1)')}
# Ranks share the cores, and threads that wait for each other on shared cores are slower than one.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Without this, ranks that were started again find the dead ones' addresses in torchrun's store.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# Where all runs diverged no start helps: ranks end with 0, or torchrun would start them again, and the file tells.
export AVBENCH_DIVERGED_STATUS=0
rm -f "$run/interrupted.json" # so that it speaks of this start
torchrun --standalone --nproc-per-node="$ranks" --max-restarts="${RESTARTS:-3}" \
    -m avbench train "$dataset" --out "$run" --auto-resume "$@" &
torchrun=$!
# torchrun passes these on to the ranks. Ctrl-C reaches it without us.
trap 'kill -TERM "$torchrun"' TERM USR1
trap : INT

# A signal ends `wait` early, so wait until there is nothing to wait for; the last one gives the status.
while kill -0 "$torchrun" 2>/dev/null; do wait "$torchrun" || true; done
wait "$torchrun" && status=0 || status=$?
if [[ -e $run/diverged.json ]]; then exit 3; fi
# torchrun ends with 1 however its ranks ended; the file says that they stopped in good order.
if [[ -e $run/interrupted.json ]]; then exit 75; fi
exit "$status"
