#!/bin/bash
#SBATCH --time=40 --signal=B:USR1@60 --cpus-per-task=1 --mem=64M --no-requeue
# Runs each task as one task of a Slurm array, four at a time, and prints how each ended.
# Exits 1 when any failed, else 10 when any is paused, else 0.
#     slurm-array.sh NEW-DIRECTORY tasks/*.md
# All nodes see the directory and the tasks. All nodes have sortie and the file with the token.
set -u

if [ -z "${SLURM_ARRAY_TASK_ID:-}" ]; then # on the machine where you submit
  [ $# -ge 2 ] && mkdir "$1" || exit 1
  out=$(realpath "$1")
  shift
  sbatch --wait --array="0-$(($# - 1))%4" --output="$out/slurm-%a.log" "$0" "$out" "$@"
  jq -r '"\(input_filename): \(.outcome) \(.error // .resume_hint // "")"' "$out"/*.json
  exit "$(cat "$out"/*.json | jq -s --argjson tasks $# '
    map(.exit_code) | if length < $tasks or any(. == 1) then 1 else max end')"
fi

out=$1 # on a node
shift $((SLURM_ARRAY_TASK_ID + 1))
name=$out/$(basename "$1" .md)
# exec: Slurm signals sortie itself, and sortie then cancels the run on the server.
exec sortie run --timeout "${TIMEOUT:-30m}" --pause-on-approval --prompt-file "$1" \
  --result-file "$name.json" > "$name.txt" 2> "$name.err"
