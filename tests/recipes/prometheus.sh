#!/bin/sh
# Turns a result record into metrics for the node exporter's textfile collector.
#     prometheus.sh RECORD.json NAME.prom
# NAME.prom is replaced as a whole, so that the collector never reads half of a file.
set -eu
new=$(mktemp "$2.XXXXXX")
trap 'rm -f "$new"' EXIT
jq -r '
  def metric($name; $help; $value):
    "# HELP sortie_\($name) \($help)", "# TYPE sortie_\($name) gauge", "sortie_\($name) \($value)";
  metric("exit_code"; "How the last run ended: 0 completed, 1 failed, 10 paused."; .exit_code),
  metric("duration_seconds"; "How long sortie ran."; .duration_ms / 1000),
  metric("turns"; "Turns of the run."; .turns),
  metric("tokens"; "Tokens that the run used."; .usage.total_tokens // 0),
  metric("tool_calls_failed"; "Tool calls of the run that failed."; .tool_calls.failed),
  metric("started_at_seconds"; "When sortie was started, in seconds since 1970.";
    .started_at | sub("\\.[0-9]+"; "") | fromdate)' "$1" > "$new"
chmod 644 "$new"
mv "$new" "$2"
