#!/bin/sh
# Starts the agent server in the foreground, and keeps its token in a file.
#     server.sh TOKEN-FILE
set -u
umask 077
stakpak up --foreground --show-token | while IFS= read -r line; do
  case $line in
    *'Auth token  Bearer '*)
      # The file is replaced as a whole, so that nobody reads half of a token. The log does not get it.
      printf '%s\n' "${line##*Bearer }" > "$1.new" && mv "$1.new" "$1"
      ;;
    *) printf '%s\n' "$line" ;;
  esac
done
