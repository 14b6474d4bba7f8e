# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_sortie_global_optspecs
    string join \n h/help V/version
end

function __fish_sortie_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_sortie_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_sortie_using_subcommand
    set -l cmd (__fish_sortie_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c sortie -n "__fish_sortie_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sortie -n "__fish_sortie_needs_command" -s V -l version -d 'Print version'
complete -c sortie -n "__fish_sortie_needs_command" -f -a "run" -d 'Start a run and follow it to its end'
complete -c sortie -n "__fish_sortie_needs_command" -f -a "resume" -d 'Decide the tool calls that wait, then follow the run'
complete -c sortie -n "__fish_sortie_needs_command" -f -a "attach" -d 'Follow a run that is already going, or has just ended'
complete -c sortie -n "__fish_sortie_needs_command" -f -a "cancel" -d 'Stop a run, and wait until it has stopped'
complete -c sortie -n "__fish_sortie_needs_command" -f -a "pending" -d 'Show the tool calls that wait for approval'
complete -c sortie -n "__fish_sortie_needs_command" -f -a "ping" -d 'Ask whether the server is there and accepts the token'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l prompt-file -d 'Read the task from this file; - is stdin' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l session -d 'Send the task to this session, as its next message [default: a new session]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l profile -d 'The profile; the new session\'s title is "autopilot: NAME"' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l title -d 'The new session\'s title [default: autopilot: PROFILE]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -s w -l workdir -d 'The directory, on the server, for the agent to work in [default: the server\'s]' -r -f -a "(__fish_complete_directories)"
complete -c sortie -n "__fish_sortie_using_subcommand run" -l model -d 'The model, by the name that the server has for it [default: the server\'s]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l system-prompt-file -d 'Read the system prompt from this file, at most 32768 characters; - is stdin [default: the server\'s]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l max-turns -d 'How many turns the run may take at most, 1 to 256 [default: the server\'s]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l context -d 'Give the agent a text beside the task (repeatable)' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l context-file -d 'Like --context, with the text from a file (repeatable); - is stdin' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l timeout -d 'Longest time for the whole command; a run that is not done by then is cancelled' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l idle-timeout -d 'Longest time without an event from the run, which is then cancelled [default: no limit]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l heartbeat -d 'Say on stderr that the run is still going, each time that nothing was said for so long' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l on-approval -d 'What happens to a tool call that nothing else decides [default: accept for run, pause for resume and attach]' -r -f -a "accept\t'Let it run'
pause\t'Leave it waiting and exit 10'
reject\t'Refuse it; the run goes on'"
complete -c sortie -n "__fish_sortie_using_subcommand run" -s t -l allow-tool -d 'Let this tool run, and reject all that are not allowed (repeatable); replaces the operator\'s policy' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l deny-tool -d 'Never let this tool run (repeatable); replaces the operator\'s policy' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l approve-with -d 'Let this program decide each call by its exit code: 0 accept, 1 reject, 10 pause; replaces the operator\'s policy' -r -f -a "(__fish_complete_command)"
complete -c sortie -n "__fish_sortie_using_subcommand run" -s o -l output -d 'What goes to stdout' -r -f -a "text\t'The text of all turns, as it comes'
final\t'The text of the last turn, at the end'
json\t'The result record, at the end'
stream-json\t'A line of JSON for each event, then the result record'"
complete -c sortie -n "__fish_sortie_using_subcommand run" -l result-file -d 'Write the result record to this file too, at the end and all at once' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l record -d 'Record the run\'s events in this file, for --rehearse and for bug reports' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l server -d 'The agent server\'s URL [default: http://127.0.0.1:4096]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l token-file -d 'A file that holds the token and nothing else [env: SORTIE_TOKEN holds it, SORTIE_TOKEN_FILE names the file]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l cacert -d 'Trust the certificates in this PEM file [default: the system\'s]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l connect-timeout -d 'Longest time to look up the server\'s name, and to connect' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l retry-timeout -d 'Longest time without contact with the server before giving up' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l rehearse -d 'Rehearse, at no cost: completed, failed, paused, stalled, lost, or a file that --record wrote' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l sandbox -d 'Run the tools in the server\'s sandbox, if it has one'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l detach -d 'Start the run, print the session\'s id and exit 0, without following the run'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l no-cancel -d 'On a time-out or a signal, leave the run going on the server'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l pause-on-approval -d 'Short for --on-approval pause'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l enable-slack-tools -d 'Do not reject Slack tools outright; the rest of the policy decides'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l enable-subagents -d 'Do not reject tools that start subagents outright; the rest of the policy decides'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l fail-on-tool-error -d 'Exit 1 when a tool call failed, even if the run completed'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l allow-http -d 'Let the token go over plain http to another machine'
complete -c sortie -n "__fish_sortie_using_subcommand run" -s q -l quiet -d 'Say nothing on stderr but errors, and that a run is paused'
complete -c sortie -n "__fish_sortie_using_subcommand run" -s v -l verbose -d 'Log every call on stderr; -vv the HTTP library\'s view too [env: SORTIE_LOG]'
complete -c sortie -n "__fish_sortie_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l approve -d 'Let this call run, by its id as pending shows it (repeatable)' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l reject -d 'Reject this call, by its id as pending shows it (repeatable)' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l timeout -d 'Longest time for the whole command; a run that is not done by then is cancelled' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l idle-timeout -d 'Longest time without an event from the run, which is then cancelled [default: no limit]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l heartbeat -d 'Say on stderr that the run is still going, each time that nothing was said for so long' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l on-approval -d 'What happens to a tool call that nothing else decides [default: accept for run, pause for resume and attach]' -r -f -a "accept\t'Let it run'
pause\t'Leave it waiting and exit 10'
reject\t'Refuse it; the run goes on'"
complete -c sortie -n "__fish_sortie_using_subcommand resume" -s t -l allow-tool -d 'Let this tool run, and reject all that are not allowed (repeatable); replaces the operator\'s policy' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l deny-tool -d 'Never let this tool run (repeatable); replaces the operator\'s policy' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l approve-with -d 'Let this program decide each call by its exit code: 0 accept, 1 reject, 10 pause; replaces the operator\'s policy' -r -f -a "(__fish_complete_command)"
complete -c sortie -n "__fish_sortie_using_subcommand resume" -s o -l output -d 'What goes to stdout' -r -f -a "text\t'The text of all turns, as it comes'
final\t'The text of the last turn, at the end'
json\t'The result record, at the end'
stream-json\t'A line of JSON for each event, then the result record'"
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l result-file -d 'Write the result record to this file too, at the end and all at once' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l record -d 'Record the run\'s events in this file, for --rehearse and for bug reports' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l server -d 'The agent server\'s URL [default: http://127.0.0.1:4096]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l token-file -d 'A file that holds the token and nothing else [env: SORTIE_TOKEN holds it, SORTIE_TOKEN_FILE names the file]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l cacert -d 'Trust the certificates in this PEM file [default: the system\'s]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l connect-timeout -d 'Longest time to look up the server\'s name, and to connect' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l retry-timeout -d 'Longest time without contact with the server before giving up' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l rehearse -d 'Rehearse, at no cost: completed, failed, paused, stalled, lost, or a file that --record wrote' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l approve-all -d 'Let all calls run that wait now, except those given to --reject'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l reject-all -d 'Reject all calls that wait now, except those given to --approve'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l no-cancel -d 'On a time-out or a signal, leave the run going on the server'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l pause-on-approval -d 'Short for --on-approval pause'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l enable-slack-tools -d 'Do not reject Slack tools outright; the rest of the policy decides'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l enable-subagents -d 'Do not reject tools that start subagents outright; the rest of the policy decides'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l fail-on-tool-error -d 'Exit 1 when a tool call failed, even if the run completed'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l allow-http -d 'Let the token go over plain http to another machine'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -s q -l quiet -d 'Say nothing on stderr but errors, and that a run is paused'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -s v -l verbose -d 'Log every call on stderr; -vv the HTTP library\'s view too [env: SORTIE_LOG]'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l run -d 'Follow this run, and no other [default: the session\'s last]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l timeout -d 'Longest time for the whole command; a run that is not done by then is cancelled' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l idle-timeout -d 'Longest time without an event from the run, which is then cancelled [default: no limit]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l heartbeat -d 'Say on stderr that the run is still going, each time that nothing was said for so long' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l on-approval -d 'What happens to a tool call that nothing else decides [default: accept for run, pause for resume and attach]' -r -f -a "accept\t'Let it run'
pause\t'Leave it waiting and exit 10'
reject\t'Refuse it; the run goes on'"
complete -c sortie -n "__fish_sortie_using_subcommand attach" -s t -l allow-tool -d 'Let this tool run, and reject all that are not allowed (repeatable); replaces the operator\'s policy' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l deny-tool -d 'Never let this tool run (repeatable); replaces the operator\'s policy' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l approve-with -d 'Let this program decide each call by its exit code: 0 accept, 1 reject, 10 pause; replaces the operator\'s policy' -r -f -a "(__fish_complete_command)"
complete -c sortie -n "__fish_sortie_using_subcommand attach" -s o -l output -d 'What goes to stdout' -r -f -a "text\t'The text of all turns, as it comes'
final\t'The text of the last turn, at the end'
json\t'The result record, at the end'
stream-json\t'A line of JSON for each event, then the result record'"
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l result-file -d 'Write the result record to this file too, at the end and all at once' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l record -d 'Record the run\'s events in this file, for --rehearse and for bug reports' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l server -d 'The agent server\'s URL [default: http://127.0.0.1:4096]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l token-file -d 'A file that holds the token and nothing else [env: SORTIE_TOKEN holds it, SORTIE_TOKEN_FILE names the file]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l cacert -d 'Trust the certificates in this PEM file [default: the system\'s]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l connect-timeout -d 'Longest time to look up the server\'s name, and to connect' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l retry-timeout -d 'Longest time without contact with the server before giving up' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l rehearse -d 'Rehearse, at no cost: completed, failed, paused, stalled, lost, or a file that --record wrote' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l no-cancel -d 'On a time-out or a signal, leave the run going on the server'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l pause-on-approval -d 'Short for --on-approval pause'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l enable-slack-tools -d 'Do not reject Slack tools outright; the rest of the policy decides'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l enable-subagents -d 'Do not reject tools that start subagents outright; the rest of the policy decides'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l fail-on-tool-error -d 'Exit 1 when a tool call failed, even if the run completed'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l allow-http -d 'Let the token go over plain http to another machine'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -s q -l quiet -d 'Say nothing on stderr but errors, and that a run is paused'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -s v -l verbose -d 'Log every call on stderr; -vv the HTTP library\'s view too [env: SORTIE_LOG]'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l timeout -d 'Longest time to wait until the run has stopped' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l server -d 'The agent server\'s URL [default: http://127.0.0.1:4096]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l token-file -d 'A file that holds the token and nothing else [env: SORTIE_TOKEN holds it, SORTIE_TOKEN_FILE names the file]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l cacert -d 'Trust the certificates in this PEM file [default: the system\'s]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l connect-timeout -d 'Longest time to look up the server\'s name, and to connect' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l retry-timeout -d 'Longest time without contact with the server before giving up' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l rehearse -d 'Rehearse, at no cost: completed, failed, paused, stalled, lost, or a file that --record wrote' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l allow-http -d 'Let the token go over plain http to another machine'
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -s q -l quiet -d 'Say nothing on stderr but errors, and that a run is paused'
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -s v -l verbose -d 'Log every call on stderr; -vv the HTTP library\'s view too [env: SORTIE_LOG]'
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sortie -n "__fish_sortie_using_subcommand pending" -s o -l output -d 'What goes to stdout' -r -f -a "text\t'A line for each call'
json\t'One JSON object for all calls'"
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l server -d 'The agent server\'s URL [default: http://127.0.0.1:4096]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l token-file -d 'A file that holds the token and nothing else [env: SORTIE_TOKEN holds it, SORTIE_TOKEN_FILE names the file]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l cacert -d 'Trust the certificates in this PEM file [default: the system\'s]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l connect-timeout -d 'Longest time to look up the server\'s name, and to connect' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l retry-timeout -d 'Longest time without contact with the server before giving up' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l rehearse -d 'Rehearse, at no cost: completed, failed, paused, stalled, lost, or a file that --record wrote' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l allow-http -d 'Let the token go over plain http to another machine'
complete -c sortie -n "__fish_sortie_using_subcommand pending" -s q -l quiet -d 'Say nothing on stderr but errors, and that a run is paused'
complete -c sortie -n "__fish_sortie_using_subcommand pending" -s v -l verbose -d 'Log every call on stderr; -vv the HTTP library\'s view too [env: SORTIE_LOG]'
complete -c sortie -n "__fish_sortie_using_subcommand pending" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l wait -d 'Try for so long until the server is there [default: try once]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l server -d 'The agent server\'s URL [default: http://127.0.0.1:4096]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l token-file -d 'A file that holds the token and nothing else [env: SORTIE_TOKEN holds it, SORTIE_TOKEN_FILE names the file]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l cacert -d 'Trust the certificates in this PEM file [default: the system\'s]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l connect-timeout -d 'Longest time to look up the server\'s name, and to connect' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l retry-timeout -d 'Longest time without contact with the server before giving up' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l rehearse -d 'Rehearse, at no cost: completed, failed, paused, stalled, lost, or a file that --record wrote' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l allow-http -d 'Let the token go over plain http to another machine'
complete -c sortie -n "__fish_sortie_using_subcommand ping" -s q -l quiet -d 'Say nothing on stderr but errors, and that a run is paused'
complete -c sortie -n "__fish_sortie_using_subcommand ping" -s v -l verbose -d 'Log every call on stderr; -vv the HTTP library\'s view too [env: SORTIE_LOG]'
complete -c sortie -n "__fish_sortie_using_subcommand ping" -s h -l help -d 'Print help (see more with \'--help\')'
