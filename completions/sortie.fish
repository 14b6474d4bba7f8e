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
complete -c sortie -n "__fish_sortie_needs_command" -f -a "ping" -d 'Ask whether the server is there and takes our token'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l prompt-file -d 'Take the task from this file; - is stdin' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l session -d 'Send a new message in an old session' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l profile -d 'The profile that the session\'s title names: autopilot: NAME' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l title -d 'The session\'s title, instead of autopilot: PROFILE' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -s w -l workdir -d 'The directory on the server that the agent works in [default: the server\'s]' -r -f -a "(__fish_complete_directories)"
complete -c sortie -n "__fish_sortie_using_subcommand run" -l model -d 'The model [default: the server\'s]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l system-prompt-file -d 'Take the system prompt from this file (32768 characters at most); - is stdin' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l max-turns -d 'The most turns that the run may take, 1 to 256 [default: the server\'s]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l context -d 'Context for the task (repeatable); NAME:high=TEXT or NAME:normal=TEXT sets its priority' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l context-file -d 'Context from a file (repeatable); - is stdin; NAME:high=PATH or NAME:normal=PATH sets its priority' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l timeout -d 'Longest time for the whole command; a run that is not done by then is cancelled' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l idle-timeout -d 'Longest time without an event from the run [default: no limit]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l heartbeat -d 'Say on stderr that it still runs, after so much silence' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l on-approval -d 'What happens to a tool call that nothing else decides [default: accept for run, pause for resume and attach]' -r -f -a "accept\t'Let it run'
pause\t'Leave it waiting and exit 10'
reject\t'Refuse it; the run goes on'"
complete -c sortie -n "__fish_sortie_using_subcommand run" -s t -l allow-tool -d 'Let this tool run; a tool on no list is then rejected, or pauses the run with --on-approval pause (repeatable)' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l deny-tool -d 'Never let this tool run (repeatable); takes the place of the operator\'s policy' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l approve-with -d 'A program that decides each call: exit 0 accept, 1 reject (its stdout is the reason), 10 pause' -r -f -a "(__fish_complete_command)"
complete -c sortie -n "__fish_sortie_using_subcommand run" -s o -l output -d 'What goes to stdout' -r -f -a "text\t'The text of all turns, as it comes'
final\t'The text of the last turn, at the end'
json\t'The result record, at the end'
stream-json\t'A line of JSON for each event, then the result record'"
complete -c sortie -n "__fish_sortie_using_subcommand run" -l result-file -d 'Write the result record to this file, at the end and all at once' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l record -d 'Record the run\'s events in this file, for --rehearse and for bug reports' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l server -d 'The agent server\'s URL [default: http://127.0.0.1:4096]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l token-file -d 'A file that holds the token and nothing else' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l cacert -d 'Trust the certificates in this PEM file, and no others' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l connect-timeout -d 'Longest time for the look-up of the server\'s name, and for the connect' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l retry-timeout -d 'Longest time without contact with the server before giving up' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l rehearse -d 'Play a recorded run on a practice server inside this process: no server, no key, no cost' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l sandbox -d 'Run the tools in the server\'s sandbox, if it has one'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l detach -d 'Start the run, print the session\'s id, and exit 0'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l no-cancel -d 'Leave the run going on the server on a time-out or a signal'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l pause-on-approval -d 'Short for --on-approval pause'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l enable-slack-tools -d 'Leave Slack tools to the rest of the policy instead of rejecting them'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l enable-subagents -d 'Leave tools that start subagents to the rest of the policy instead of rejecting them'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l fail-on-tool-error -d 'Exit 1 when the run completed but a tool call failed'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l allow-http -d 'Send the token over plain http to another machine'
complete -c sortie -n "__fish_sortie_using_subcommand run" -s q -l quiet -d 'Say nothing on stderr but errors'
complete -c sortie -n "__fish_sortie_using_subcommand run" -s v -l verbose -d 'Log what happens on stderr; twice for more'
complete -c sortie -n "__fish_sortie_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l approve -d 'Let this call run (repeatable)' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l reject -d 'Refuse this call (repeatable)' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l timeout -d 'Longest time for the whole command; a run that is not done by then is cancelled' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l idle-timeout -d 'Longest time without an event from the run [default: no limit]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l heartbeat -d 'Say on stderr that it still runs, after so much silence' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l on-approval -d 'What happens to a tool call that nothing else decides [default: accept for run, pause for resume and attach]' -r -f -a "accept\t'Let it run'
pause\t'Leave it waiting and exit 10'
reject\t'Refuse it; the run goes on'"
complete -c sortie -n "__fish_sortie_using_subcommand resume" -s t -l allow-tool -d 'Let this tool run; a tool on no list is then rejected, or pauses the run with --on-approval pause (repeatable)' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l deny-tool -d 'Never let this tool run (repeatable); takes the place of the operator\'s policy' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l approve-with -d 'A program that decides each call: exit 0 accept, 1 reject (its stdout is the reason), 10 pause' -r -f -a "(__fish_complete_command)"
complete -c sortie -n "__fish_sortie_using_subcommand resume" -s o -l output -d 'What goes to stdout' -r -f -a "text\t'The text of all turns, as it comes'
final\t'The text of the last turn, at the end'
json\t'The result record, at the end'
stream-json\t'A line of JSON for each event, then the result record'"
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l result-file -d 'Write the result record to this file, at the end and all at once' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l record -d 'Record the run\'s events in this file, for --rehearse and for bug reports' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l server -d 'The agent server\'s URL [default: http://127.0.0.1:4096]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l token-file -d 'A file that holds the token and nothing else' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l cacert -d 'Trust the certificates in this PEM file, and no others' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l connect-timeout -d 'Longest time for the look-up of the server\'s name, and for the connect' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l retry-timeout -d 'Longest time without contact with the server before giving up' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l rehearse -d 'Play a recorded run on a practice server inside this process: no server, no key, no cost' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l approve-all -d 'Let all calls run that wait now, but for those given to --reject'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l reject-all -d 'Refuse all calls that wait now, but for those given to --approve'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l no-cancel -d 'Leave the run going on the server on a time-out or a signal'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l pause-on-approval -d 'Short for --on-approval pause'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l enable-slack-tools -d 'Leave Slack tools to the rest of the policy instead of rejecting them'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l enable-subagents -d 'Leave tools that start subagents to the rest of the policy instead of rejecting them'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l fail-on-tool-error -d 'Exit 1 when the run completed but a tool call failed'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l allow-http -d 'Send the token over plain http to another machine'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -s q -l quiet -d 'Say nothing on stderr but errors'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -s v -l verbose -d 'Log what happens on stderr; twice for more'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l timeout -d 'Longest time for the whole command; a run that is not done by then is cancelled' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l idle-timeout -d 'Longest time without an event from the run [default: no limit]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l heartbeat -d 'Say on stderr that it still runs, after so much silence' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l on-approval -d 'What happens to a tool call that nothing else decides [default: accept for run, pause for resume and attach]' -r -f -a "accept\t'Let it run'
pause\t'Leave it waiting and exit 10'
reject\t'Refuse it; the run goes on'"
complete -c sortie -n "__fish_sortie_using_subcommand attach" -s t -l allow-tool -d 'Let this tool run; a tool on no list is then rejected, or pauses the run with --on-approval pause (repeatable)' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l deny-tool -d 'Never let this tool run (repeatable); takes the place of the operator\'s policy' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l approve-with -d 'A program that decides each call: exit 0 accept, 1 reject (its stdout is the reason), 10 pause' -r -f -a "(__fish_complete_command)"
complete -c sortie -n "__fish_sortie_using_subcommand attach" -s o -l output -d 'What goes to stdout' -r -f -a "text\t'The text of all turns, as it comes'
final\t'The text of the last turn, at the end'
json\t'The result record, at the end'
stream-json\t'A line of JSON for each event, then the result record'"
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l result-file -d 'Write the result record to this file, at the end and all at once' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l record -d 'Record the run\'s events in this file, for --rehearse and for bug reports' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l server -d 'The agent server\'s URL [default: http://127.0.0.1:4096]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l token-file -d 'A file that holds the token and nothing else' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l cacert -d 'Trust the certificates in this PEM file, and no others' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l connect-timeout -d 'Longest time for the look-up of the server\'s name, and for the connect' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l retry-timeout -d 'Longest time without contact with the server before giving up' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l rehearse -d 'Play a recorded run on a practice server inside this process: no server, no key, no cost' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l no-cancel -d 'Leave the run going on the server on a time-out or a signal'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l pause-on-approval -d 'Short for --on-approval pause'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l enable-slack-tools -d 'Leave Slack tools to the rest of the policy instead of rejecting them'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l enable-subagents -d 'Leave tools that start subagents to the rest of the policy instead of rejecting them'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l fail-on-tool-error -d 'Exit 1 when the run completed but a tool call failed'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l allow-http -d 'Send the token over plain http to another machine'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -s q -l quiet -d 'Say nothing on stderr but errors'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -s v -l verbose -d 'Log what happens on stderr; twice for more'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l timeout -d 'Longest time to wait until it has stopped' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l server -d 'The agent server\'s URL [default: http://127.0.0.1:4096]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l token-file -d 'A file that holds the token and nothing else' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l cacert -d 'Trust the certificates in this PEM file, and no others' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l connect-timeout -d 'Longest time for the look-up of the server\'s name, and for the connect' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l retry-timeout -d 'Longest time without contact with the server before giving up' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l rehearse -d 'Play a recorded run on a practice server inside this process: no server, no key, no cost' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l allow-http -d 'Send the token over plain http to another machine'
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -s q -l quiet -d 'Say nothing on stderr but errors'
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -s v -l verbose -d 'Log what happens on stderr; twice for more'
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sortie -n "__fish_sortie_using_subcommand pending" -s o -l output -d 'What goes to stdout' -r -f -a "text\t'A line for each call'
json\t'One JSON object'"
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l server -d 'The agent server\'s URL [default: http://127.0.0.1:4096]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l token-file -d 'A file that holds the token and nothing else' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l cacert -d 'Trust the certificates in this PEM file, and no others' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l connect-timeout -d 'Longest time for the look-up of the server\'s name, and for the connect' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l retry-timeout -d 'Longest time without contact with the server before giving up' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l rehearse -d 'Play a recorded run on a practice server inside this process: no server, no key, no cost' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l allow-http -d 'Send the token over plain http to another machine'
complete -c sortie -n "__fish_sortie_using_subcommand pending" -s q -l quiet -d 'Say nothing on stderr but errors'
complete -c sortie -n "__fish_sortie_using_subcommand pending" -s v -l verbose -d 'Log what happens on stderr; twice for more'
complete -c sortie -n "__fish_sortie_using_subcommand pending" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l wait -d 'Try again for so long until it is there' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l server -d 'The agent server\'s URL [default: http://127.0.0.1:4096]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l token-file -d 'A file that holds the token and nothing else' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l cacert -d 'Trust the certificates in this PEM file, and no others' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l connect-timeout -d 'Longest time for the look-up of the server\'s name, and for the connect' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l retry-timeout -d 'Longest time without contact with the server before giving up' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l rehearse -d 'Play a recorded run on a practice server inside this process: no server, no key, no cost' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l allow-http -d 'Send the token over plain http to another machine'
complete -c sortie -n "__fish_sortie_using_subcommand ping" -s q -l quiet -d 'Say nothing on stderr but errors'
complete -c sortie -n "__fish_sortie_using_subcommand ping" -s v -l verbose -d 'Log what happens on stderr; twice for more'
complete -c sortie -n "__fish_sortie_using_subcommand ping" -s h -l help -d 'Print help (see more with \'--help\')'
