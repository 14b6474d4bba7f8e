#!/bin/sh
# Has each task done, four at a time, and tells how each ended. Exits 1 when any failed, else 10
# when any is paused, else 0.
#     parallel.sh NEW-DIRECTORY tasks/*.md
set -u
[ $# -ge 2 ] && mkdir "$1" || exit 1
export out="$1"
shift

# The directory gets NAME.txt, the answer; NAME.err, the progress; NAME.json, the record.
# shellcheck disable=SC2016 # the inner shells expand it
one='name=$out/$(basename "$1" .md)
  sortie run --timeout "${TIMEOUT:-30m}" --pause-on-approval --prompt-file "$1" \
    --result-file "$name.json" > "$name.txt" 2> "$name.err"'
if command -v parallel > /dev/null; then
  parallel --will-cite --quote --jobs 4 --joblog "$out/joblog" sh -c "$one" sh {} ::: "$@"
else
  printf '%s\0' "$@" | xargs -0 -P 4 -n 1 sh -c "$one" sh
fi

jq -r '"\(input_filename): \(.outcome) \(.error // .resume_hint // "")"' "$out"/*.json
exit "$(cat "$out"/*.json | jq -s --argjson tasks $# '
  map(.exit_code) | if length < $tasks or any(. == 1) then 1 else max end')"
