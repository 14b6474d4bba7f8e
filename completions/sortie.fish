function __fish_sortie_sessions
    timeout -s KILL 0.3 sortie --quiet list 2>/dev/null | sed -n 's/^\([0-9a-f-]\{36\}\) \([a-z]*\) .*/\1\t\2/p'
end

# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_sortie_global_optspecs
    string join \n server= token-file= header-file= cacert= cert= key= allow-http connect-timeout= retry-timeout= rehearse= q/quiet v/verbose h/help V/version
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

complete -c sortie -n "__fish_sortie_needs_command" -l server -d 'Server\'s URL [default: http://127.0.0.1:4096]' -r -f
complete -c sortie -n "__fish_sortie_needs_command" -l token-file -d 'File with the token [env: SORTIE_TOKEN_FILE; SORTIE_TOKEN is the token]' -r -F
complete -c sortie -n "__fish_sortie_needs_command" -l header-file -d 'File with headers for a gateway in front of the server' -r -F
complete -c sortie -n "__fish_sortie_needs_command" -l cacert -d 'Trust the certificates in this PEM file [default: the system\'s]' -r -F
complete -c sortie -n "__fish_sortie_needs_command" -l cert -d 'Client certificate in a PEM file, for a server that asks for one' -r -F
complete -c sortie -n "__fish_sortie_needs_command" -l key -d 'Private key of the client certificate, in a PEM file [default: the file of --cert]' -r -F
complete -c sortie -n "__fish_sortie_needs_command" -l connect-timeout -d 'Longest time to look up the server\'s name, and to connect' -r -f
complete -c sortie -n "__fish_sortie_needs_command" -l retry-timeout -d 'Give up after this long without contact with the server; 0s tries once' -r -f
complete -c sortie -n "__fish_sortie_needs_command" -l rehearse -d 'Play a recorded run instead, at no cost' -r -F -a "completed failed paused stalled lost"
complete -c sortie -n "__fish_sortie_needs_command" -l allow-http -d 'Send the token over plain http to another machine, although the network can read it'
complete -c sortie -n "__fish_sortie_needs_command" -s q -l quiet -d 'Say nothing on stderr but errors, and that a run is paused'
complete -c sortie -n "__fish_sortie_needs_command" -s v -l verbose -d 'Log each HTTP call on stderr; -vv the HTTP library too [env: SORTIE_LOG]'
complete -c sortie -n "__fish_sortie_needs_command" -s h -l help -d 'Print help; --help shows all options, and explains them'
complete -c sortie -n "__fish_sortie_needs_command" -s V -l version -d 'Print version'
complete -c sortie -n "__fish_sortie_needs_command" -f -a "run" -d 'Start a run and follow it to its end'
complete -c sortie -n "__fish_sortie_needs_command" -f -a "resume" -d 'Decide the pending tool calls, then follow the run'
complete -c sortie -n "__fish_sortie_needs_command" -f -a "attach" -d 'Follow an active run, or show the session\'s last run'
complete -c sortie -n "__fish_sortie_needs_command" -f -a "cancel" -d 'Stop a run, and wait until it has stopped'
complete -c sortie -n "__fish_sortie_needs_command" -f -a "pending" -d 'Show the tool calls that wait for approval, in one session or in all'
complete -c sortie -n "__fish_sortie_needs_command" -f -a "list" -d 'Show the server\'s sessions: ID, state, last change, title'
complete -c sortie -n "__fish_sortie_needs_command" -f -a "ping" -d 'Check that the server answers and accepts the token'
complete -c sortie -n "__fish_sortie_needs_command" -f -a "help" -d 'Show the help of sortie, or of one command'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l prompt-file -d 'Read the prompt from this file; - is stdin' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l image -d 'Send this png, jpeg, gif or webp image with the prompt' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l session -d 'Send the prompt to this session [default: a new one]' -r -f -a "(__fish_sortie_sessions)"
complete -c sortie -n "__fish_sortie_using_subcommand run" -l profile -d 'Set the new session\'s title to "autopilot: NAME"' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l title -d 'The new session\'s title [default: autopilot: PROFILE]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -s w -l workdir -d 'Tell the agent to work in this directory of the server' -r -f -a "(__fish_complete_directories)"
complete -c sortie -n "__fish_sortie_using_subcommand run" -l model -d 'The model, by the server\'s name for it [default: the server\'s]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l system-prompt-file -d 'Read the system prompt from this file; - is stdin [default: the server\'s]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l context -d 'Give the agent a text beside the prompt' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l context-file -d 'Like --context, with the text from a file; - is stdin' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l on-approval -d 'Decide the calls that nothing else decides [default: accept for run, else pause]' -r -f -a "accept\t'Let it run'
pause\t'Leave it waiting and exit 10'
reject\t'Refuse it; the run goes on'"
complete -c sortie -n "__fish_sortie_using_subcommand run" -s t -l allow-tool -d 'Replace the server\'s policy, its denials included: allow only this tool' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l deny-tool -d 'Replace the server\'s policy, its denials included: reject this tool' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l approve-with -d 'Replace the server\'s policy, its denials included: ask this program' -r -f -a "(__fish_complete_command)"
complete -c sortie -n "__fish_sortie_using_subcommand run" -l timeout -d 'Cancel the run if it has not ended after this time' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l idle-timeout -d 'Cancel the run after this long without an event [default: no limit]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -s o -l output -d 'What goes to stdout' -r -f -a "text\t'The text of all turns, as it comes'
final\t'The text of the last turn, at the end'
json\t'The result record, at the end'
stream-json\t'A line of JSON for each event, then the result record'"
complete -c sortie -n "__fish_sortie_using_subcommand run" -l result-file -d 'Write the result record to this file too, at the end' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l record -d 'Record the run\'s events in this file, for --rehearse and for bug reports' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l heartbeat -d 'Print a line on stderr after this much silence, so that CI does not kill a quiet job; 0s prints none' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l max-tokens -d 'Cancel the run past N tokens; the current turn may still use tokens' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l max-tool-calls -d 'Cancel the run past N tool calls; the current turn may still use tokens' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l max-turns -d 'Let the run take at most N turns, 1 to 256 [default: the server\'s]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l server -d 'Server\'s URL [default: http://127.0.0.1:4096]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l token-file -d 'File with the token [env: SORTIE_TOKEN_FILE; SORTIE_TOKEN is the token]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l header-file -d 'File with headers for a gateway in front of the server' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l cacert -d 'Trust the certificates in this PEM file [default: the system\'s]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l cert -d 'Client certificate in a PEM file, for a server that asks for one' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l key -d 'Private key of the client certificate, in a PEM file [default: the file of --cert]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand run" -l connect-timeout -d 'Longest time to look up the server\'s name, and to connect' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l retry-timeout -d 'Give up after this long without contact with the server; 0s tries once' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand run" -l rehearse -d 'Play a recorded run instead, at no cost' -r -F -a "completed failed paused stalled lost"
complete -c sortie -n "__fish_sortie_using_subcommand run" -l sandbox -d 'Run the tools in the server\'s sandbox, if it has one'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l pause-on-approval -d 'Pause the run, and exit 10, when a tool call needs an approval'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l enable-slack-tools -d 'Allow the policy to accept Slack tools (rejected by default)'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l enable-subagents -d 'Allow the policy to accept tools that start subagents (rejected by default)'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l no-cancel -d 'Leave the run going on the server at a timeout or a signal'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l fail-on-tool-error -d 'Exit 1 when a tool call failed, even if the run completed'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l detach -d 'Print the session\'s ID and exit 0, without following the run'
complete -c sortie -n "__fish_sortie_using_subcommand run" -l allow-http -d 'Send the token over plain http to another machine, although the network can read it'
complete -c sortie -n "__fish_sortie_using_subcommand run" -s q -l quiet -d 'Say nothing on stderr but errors, and that a run is paused'
complete -c sortie -n "__fish_sortie_using_subcommand run" -s v -l verbose -d 'Log each HTTP call on stderr; -vv the HTTP library too [env: SORTIE_LOG]'
complete -c sortie -n "__fish_sortie_using_subcommand run" -s h -l help -d 'Print help; --help shows all options, and explains them'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l batch -d 'Decide this batch and no other, as pending shows it' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l approve -d 'Let this call run, by its ID as pending shows it' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l reject -d 'Reject this call, by its ID as pending shows it' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l on-approval -d 'Decide the calls that nothing else decides [default: accept for run, else pause]' -r -f -a "accept\t'Let it run'
pause\t'Leave it waiting and exit 10'
reject\t'Refuse it; the run goes on'"
complete -c sortie -n "__fish_sortie_using_subcommand resume" -s t -l allow-tool -d 'Replace the server\'s policy, its denials included: allow only this tool' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l deny-tool -d 'Replace the server\'s policy, its denials included: reject this tool' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l approve-with -d 'Replace the server\'s policy, its denials included: ask this program' -r -f -a "(__fish_complete_command)"
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l timeout -d 'Cancel the run if it has not ended after this time' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l idle-timeout -d 'Cancel the run after this long without an event [default: no limit]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -s o -l output -d 'What goes to stdout' -r -f -a "text\t'The text of all turns, as it comes'
final\t'The text of the last turn, at the end'
json\t'The result record, at the end'
stream-json\t'A line of JSON for each event, then the result record'"
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l result-file -d 'Write the result record to this file too, at the end' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l record -d 'Record the run\'s events in this file, for --rehearse and for bug reports' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l heartbeat -d 'Print a line on stderr after this much silence, so that CI does not kill a quiet job; 0s prints none' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l server -d 'Server\'s URL [default: http://127.0.0.1:4096]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l token-file -d 'File with the token [env: SORTIE_TOKEN_FILE; SORTIE_TOKEN is the token]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l header-file -d 'File with headers for a gateway in front of the server' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l cacert -d 'Trust the certificates in this PEM file [default: the system\'s]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l cert -d 'Client certificate in a PEM file, for a server that asks for one' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l key -d 'Private key of the client certificate, in a PEM file [default: the file of --cert]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l connect-timeout -d 'Longest time to look up the server\'s name, and to connect' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l retry-timeout -d 'Give up after this long without contact with the server; 0s tries once' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l rehearse -d 'Play a recorded run instead, at no cost' -r -F -a "completed failed paused stalled lost"
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l approve-all -d 'Let all calls run that wait now, seen or not, except those given to --reject'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l reject-all -d 'Reject all calls that wait now, except those given to --approve'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l pause-on-approval -d 'Pause the run, and exit 10, when a tool call needs an approval'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l enable-slack-tools -d 'Allow the policy to accept Slack tools (rejected by default)'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l enable-subagents -d 'Allow the policy to accept tools that start subagents (rejected by default)'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l no-cancel -d 'Leave the run going on the server at a timeout or a signal'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l fail-on-tool-error -d 'Exit 1 when a tool call failed, even if the run completed'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -l allow-http -d 'Send the token over plain http to another machine, although the network can read it'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -s q -l quiet -d 'Say nothing on stderr but errors, and that a run is paused'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -s v -l verbose -d 'Log each HTTP call on stderr; -vv the HTTP library too [env: SORTIE_LOG]'
complete -c sortie -n "__fish_sortie_using_subcommand resume" -s h -l help -d 'Print help; --help shows all options, and explains them'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l run -d 'Follow this run of the session and no other [default: the last one]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l on-approval -d 'Decide the calls that nothing else decides [default: accept for run, else pause]' -r -f -a "accept\t'Let it run'
pause\t'Leave it waiting and exit 10'
reject\t'Refuse it; the run goes on'"
complete -c sortie -n "__fish_sortie_using_subcommand attach" -s t -l allow-tool -d 'Replace the server\'s policy, its denials included: allow only this tool' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l deny-tool -d 'Replace the server\'s policy, its denials included: reject this tool' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l approve-with -d 'Replace the server\'s policy, its denials included: ask this program' -r -f -a "(__fish_complete_command)"
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l timeout -d 'Cancel the run if it has not ended after this time' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l idle-timeout -d 'Cancel the run after this long without an event [default: no limit]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -s o -l output -d 'What goes to stdout' -r -f -a "text\t'The text of all turns, as it comes'
final\t'The text of the last turn, at the end'
json\t'The result record, at the end'
stream-json\t'A line of JSON for each event, then the result record'"
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l result-file -d 'Write the result record to this file too, at the end' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l record -d 'Record the run\'s events in this file, for --rehearse and for bug reports' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l heartbeat -d 'Print a line on stderr after this much silence, so that CI does not kill a quiet job; 0s prints none' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l server -d 'Server\'s URL [default: http://127.0.0.1:4096]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l token-file -d 'File with the token [env: SORTIE_TOKEN_FILE; SORTIE_TOKEN is the token]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l header-file -d 'File with headers for a gateway in front of the server' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l cacert -d 'Trust the certificates in this PEM file [default: the system\'s]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l cert -d 'Client certificate in a PEM file, for a server that asks for one' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l key -d 'Private key of the client certificate, in a PEM file [default: the file of --cert]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l connect-timeout -d 'Longest time to look up the server\'s name, and to connect' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l retry-timeout -d 'Give up after this long without contact with the server; 0s tries once' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l rehearse -d 'Play a recorded run instead, at no cost' -r -F -a "completed failed paused stalled lost"
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l pause-on-approval -d 'Pause the run, and exit 10, when a tool call needs an approval'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l enable-slack-tools -d 'Allow the policy to accept Slack tools (rejected by default)'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l enable-subagents -d 'Allow the policy to accept tools that start subagents (rejected by default)'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l no-cancel -d 'Leave the run going on the server at a timeout or a signal'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l fail-on-tool-error -d 'Exit 1 when a tool call failed, even if the run completed'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -l allow-http -d 'Send the token over plain http to another machine, although the network can read it'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -s q -l quiet -d 'Say nothing on stderr but errors, and that a run is paused'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -s v -l verbose -d 'Log each HTTP call on stderr; -vv the HTTP library too [env: SORTIE_LOG]'
complete -c sortie -n "__fish_sortie_using_subcommand attach" -s h -l help -d 'Print help; --help shows all options, and explains them'
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l timeout -d 'Longest time to wait until the run has stopped' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l server -d 'Server\'s URL [default: http://127.0.0.1:4096]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l token-file -d 'File with the token [env: SORTIE_TOKEN_FILE; SORTIE_TOKEN is the token]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l header-file -d 'File with headers for a gateway in front of the server' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l cacert -d 'Trust the certificates in this PEM file [default: the system\'s]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l cert -d 'Client certificate in a PEM file, for a server that asks for one' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l key -d 'Private key of the client certificate, in a PEM file [default: the file of --cert]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l connect-timeout -d 'Longest time to look up the server\'s name, and to connect' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l retry-timeout -d 'Give up after this long without contact with the server; 0s tries once' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l rehearse -d 'Play a recorded run instead, at no cost' -r -F -a "completed failed paused stalled lost"
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -l allow-http -d 'Send the token over plain http to another machine, although the network can read it'
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -s q -l quiet -d 'Say nothing on stderr but errors, and that a run is paused'
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -s v -l verbose -d 'Log each HTTP call on stderr; -vv the HTTP library too [env: SORTIE_LOG]'
complete -c sortie -n "__fish_sortie_using_subcommand cancel" -s h -l help -d 'Print help; --help shows all options, and explains them'
complete -c sortie -n "__fish_sortie_using_subcommand pending" -s o -l output -d 'What goes to stdout' -r -f -a "text\t'Lines for people'
json\t'JSON for programs'"
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l server -d 'Server\'s URL [default: http://127.0.0.1:4096]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l token-file -d 'File with the token [env: SORTIE_TOKEN_FILE; SORTIE_TOKEN is the token]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l header-file -d 'File with headers for a gateway in front of the server' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l cacert -d 'Trust the certificates in this PEM file [default: the system\'s]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l cert -d 'Client certificate in a PEM file, for a server that asks for one' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l key -d 'Private key of the client certificate, in a PEM file [default: the file of --cert]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l connect-timeout -d 'Longest time to look up the server\'s name, and to connect' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l retry-timeout -d 'Give up after this long without contact with the server; 0s tries once' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l rehearse -d 'Play a recorded run instead, at no cost' -r -F -a "completed failed paused stalled lost"
complete -c sortie -n "__fish_sortie_using_subcommand pending" -l allow-http -d 'Send the token over plain http to another machine, although the network can read it'
complete -c sortie -n "__fish_sortie_using_subcommand pending" -s q -l quiet -d 'Say nothing on stderr but errors, and that a run is paused'
complete -c sortie -n "__fish_sortie_using_subcommand pending" -s v -l verbose -d 'Log each HTTP call on stderr; -vv the HTTP library too [env: SORTIE_LOG]'
complete -c sortie -n "__fish_sortie_using_subcommand pending" -s h -l help -d 'Print help; --help shows all options, and explains them'
complete -c sortie -n "__fish_sortie_using_subcommand list" -l state -d 'Show only the sessions in this state' -r -f -a "running\t'A run is going on'
idle\t'No run is going on'
failed\t'The last run failed'
waiting\t'A run waits for an approval; this check takes 2 s'"
complete -c sortie -n "__fish_sortie_using_subcommand list" -s o -l output -d 'What goes to stdout' -r -f -a "text\t'Lines for people'
json\t'JSON for programs'"
complete -c sortie -n "__fish_sortie_using_subcommand list" -l server -d 'Server\'s URL [default: http://127.0.0.1:4096]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand list" -l token-file -d 'File with the token [env: SORTIE_TOKEN_FILE; SORTIE_TOKEN is the token]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand list" -l header-file -d 'File with headers for a gateway in front of the server' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand list" -l cacert -d 'Trust the certificates in this PEM file [default: the system\'s]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand list" -l cert -d 'Client certificate in a PEM file, for a server that asks for one' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand list" -l key -d 'Private key of the client certificate, in a PEM file [default: the file of --cert]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand list" -l connect-timeout -d 'Longest time to look up the server\'s name, and to connect' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand list" -l retry-timeout -d 'Give up after this long without contact with the server; 0s tries once' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand list" -l rehearse -d 'Play a recorded run instead, at no cost' -r -F -a "completed failed paused stalled lost"
complete -c sortie -n "__fish_sortie_using_subcommand list" -l allow-http -d 'Send the token over plain http to another machine, although the network can read it'
complete -c sortie -n "__fish_sortie_using_subcommand list" -s q -l quiet -d 'Say nothing on stderr but errors, and that a run is paused'
complete -c sortie -n "__fish_sortie_using_subcommand list" -s v -l verbose -d 'Log each HTTP call on stderr; -vv the HTTP library too [env: SORTIE_LOG]'
complete -c sortie -n "__fish_sortie_using_subcommand list" -s h -l help -d 'Print help; --help shows all options, and explains them'
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l wait -d 'Retry for this long until the server answers [default: try once]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand ping" -s o -l output -d 'What goes to stdout; text prints nothing' -r -f -a "text\t'Lines for people'
json\t'JSON for programs'"
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l server -d 'Server\'s URL [default: http://127.0.0.1:4096]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l token-file -d 'File with the token [env: SORTIE_TOKEN_FILE; SORTIE_TOKEN is the token]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l header-file -d 'File with headers for a gateway in front of the server' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l cacert -d 'Trust the certificates in this PEM file [default: the system\'s]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l cert -d 'Client certificate in a PEM file, for a server that asks for one' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l key -d 'Private key of the client certificate, in a PEM file [default: the file of --cert]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l connect-timeout -d 'Longest time to look up the server\'s name, and to connect' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l retry-timeout -d 'Give up after this long without contact with the server; 0s tries once' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l rehearse -d 'Play a recorded run instead, at no cost' -r -F -a "completed failed paused stalled lost"
complete -c sortie -n "__fish_sortie_using_subcommand ping" -l allow-http -d 'Send the token over plain http to another machine, although the network can read it'
complete -c sortie -n "__fish_sortie_using_subcommand ping" -s q -l quiet -d 'Say nothing on stderr but errors, and that a run is paused'
complete -c sortie -n "__fish_sortie_using_subcommand ping" -s v -l verbose -d 'Log each HTTP call on stderr; -vv the HTTP library too [env: SORTIE_LOG]'
complete -c sortie -n "__fish_sortie_using_subcommand ping" -s h -l help -d 'Print help; --help shows all options, and explains them'
complete -c sortie -n "__fish_sortie_using_subcommand help" -l server -d 'Server\'s URL [default: http://127.0.0.1:4096]' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand help" -l token-file -d 'File with the token [env: SORTIE_TOKEN_FILE; SORTIE_TOKEN is the token]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand help" -l header-file -d 'File with headers for a gateway in front of the server' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand help" -l cacert -d 'Trust the certificates in this PEM file [default: the system\'s]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand help" -l cert -d 'Client certificate in a PEM file, for a server that asks for one' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand help" -l key -d 'Private key of the client certificate, in a PEM file [default: the file of --cert]' -r -F
complete -c sortie -n "__fish_sortie_using_subcommand help" -l connect-timeout -d 'Longest time to look up the server\'s name, and to connect' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand help" -l retry-timeout -d 'Give up after this long without contact with the server; 0s tries once' -r -f
complete -c sortie -n "__fish_sortie_using_subcommand help" -l rehearse -d 'Play a recorded run instead, at no cost' -r -F -a "completed failed paused stalled lost"
complete -c sortie -n "__fish_sortie_using_subcommand help" -l allow-http -d 'Send the token over plain http to another machine, although the network can read it'
complete -c sortie -n "__fish_sortie_using_subcommand help" -s q -l quiet -d 'Say nothing on stderr but errors, and that a run is paused'
complete -c sortie -n "__fish_sortie_using_subcommand help" -s v -l verbose -d 'Log each HTTP call on stderr; -vv the HTTP library too [env: SORTIE_LOG]'
complete -c sortie -n "__fish_sortie_using_subcommand help" -s h -l help -d 'Print help; --help shows all options, and explains them'
complete -c sortie -n "__fish_sortie_using_subcommand resume attach cancel pending" -f -a "(__fish_sortie_sessions)"
