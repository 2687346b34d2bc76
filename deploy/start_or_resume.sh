#!/bin/sh
# Start a run in RUN_DIR, or resume the interrupted run that is there.
#
#   start_or_resume.sh RUN_DIR [options of the first fit]
#
# For jobs that a cluster restarts with the same command after a preemption or a failure. LAUNCH is the command that
# starts the program: "python" by default, "torchrun ..." for several nodes.
set -eu
if [ $# = 0 ]; then
    echo "usage: $0 RUN_DIR [options of fit]" >&2
    exit 2
fi
run=$1
shift
if [ -e "$run/checkpoints/last.ckpt" ]; then
    set -- --resume "$run"
else
    set -- --run_dir "$run" "$@"
fi
echo "fit $*"
# shellcheck disable=SC2086  # LAUNCH is a command and its options
exec ${LAUNCH:-python} -m app fit "$@"
