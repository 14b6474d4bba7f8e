#!/bin/sh
# Runs each task on one of several machines, two at a time on each, and prints how each ended.
# Exits 1 when any failed, else 10 when any is paused, else 0.
#     parallel-ssh.sh NEW-DIRECTORY HOST,HOST tasks/*.md
# Each machine accepts your SSH key, and has rsync, sortie and the file with the token.
set -u
[ $# -ge 3 ] && mkdir "$1" || exit 1
out=$1 hosts=$2
shift 2
cp -- "$@" "$out" && cd "$out" || exit 1

# The directory gets NAME.txt, the answer; NAME.err, the progress; NAME.json, the record.
# When you press Ctrl-C, GNU parallel hangs up on each sortie, which cancels its run.
# shellcheck disable=SC2016 # the shells on the machines expand it
parallel --will-cite --sshlogin "$hosts" --jobs 2 --joblog joblog --workdir ... \
  --env SORTIE_SERVER --env SORTIE_TOKEN_FILE --env TIMEOUT \
  --transferfile '{}' --return '{.}.json' --return '{.}.txt' --return '{.}.err' --cleanup \
  'exec sortie run --timeout "${TIMEOUT:-30m}" --pause-on-approval --prompt-file {} \
    --result-file {.}.json > {.}.txt 2> {.}.err' ::: *.md

jq -r '"\(input_filename): \(.outcome) \(.error // .resume_hint // "")"' ./*.json
exit "$(cat ./*.json | jq -s --argjson tasks $# '
  map(.exit_code) | if length < $tasks or any(. == 1) then 1 else max end')"
