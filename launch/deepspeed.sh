#!/usr/bin/env bash
# Trains by DeepSpeed, started by its own launcher: one rank a GPU, on this machine or on all of a hostfile.
#     bash deepspeed.sh DATASET RUN [options of avbench train]
#     HOSTFILE=hostfile bash deepspeed.sh DATASET RUN ...        (several machines: needs ssh without a password and pdsh)
#     RANKS=2 bash deepspeed.sh DATASET RUN ...                  (that many ranks on each machine, on CPUs too)
# ZERO=0, 1 or 2 picks zero0.json, zero1.json or zero2.json beside this file (1); --deepspeed-config FILE is your own.
# A rank that dies ends all; start it again, and it goes on with RUN. Ends with 0 when the run is finished, 75 when it
# was interrupted (Ctrl-C, SIGTERM, SIGUSR1) and saved, 3 when all its runs diverged.
set -euo pipefail
if (($# < 2)); then
    echo "usage: bash $0 DATASET RUN [options of avbench train]" >&2
    exit 2
fi
dataset=$1 run=$2
shift 2
if [[ ${HOSTFILE-} && ! -f $HOSTFILE ]]; then
    # The launcher would warn, and train on this machine alone.
    echo "$0: $HOSTFILE: no such hostfile" >&2
    exit 2
fi

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

rm -f "$run/interrupted.json" # so that it speaks of this start
# Given no hostfile, the launcher would look for /job/hostfile. avbench has no --local_rank: it reads LOCAL_RANK.
deepspeed --hostfile="${HOSTFILE:-none}" ${HOSTFILE:+--force_multi} ${RANKS:+--num_accelerators="$RANKS"} \
    --master_port="${PORT:-29500}" \
    --no_local_rank --module avbench train "$dataset" --out "$run" --auto-resume \
    --engine deepspeed --deepspeed-config "$(dirname "$0")/zero${ZERO:-1}.json" "$@" &
launcher=$!
# Over several machines the launcher passes signals on; on one it does not, but the process that it starts does.
if [[ ${HOSTFILE-} ]]; then
    trap 'kill -TERM "$launcher"' TERM USR1
else
    trap 'pkill -TERM --parent "$launcher"' TERM USR1
fi
trap : INT

# A signal ends `wait` early, so wait until there is nothing to wait for; the last one gives the status.
while kill -0 "$launcher" 2>/dev/null; do wait "$launcher" || true; done
wait "$launcher" && exit 0 || status=$?
if [[ -e $run/diverged.json ]]; then exit 3; fi
if [[ -e $run/interrupted.json ]]; then exit 75; fi
exit "$status"
