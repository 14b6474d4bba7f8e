#!/bin/sh
# Has the agent do the nightly task, says in one line how it went, and exits as sortie does.
set -u # but not -e: the exit code is what we came for
dir=${STATE_DIRECTORY:-/var/lib/sortie}
answer=$dir/nightly.txt
record=$dir/nightly.json

run() {
  rm -f "$record"
  sortie run --timeout "${TIMEOUT:-30m}" --pause-on-approval --result-file "$record" \
    "Check the disks, then tidy the logs" > "$answer"
}

run
code=$?
if [ "$code" -eq 1 ] && [ "$(jq .retryable "$record")" = true ]; then
  sleep "${RETRY_AFTER:-300}"
  run
  code=$?
fi

case $code in
  0) echo "nightly: done, see $answer" ;;
  10) echo "nightly: somebody must approve: $(jq -r .resume_hint "$record")" ;;
  *) echo "nightly: failed ($code): $(jq -r .reason "$record")" ;;
esac
exit "$code"
