
using namespace System.Management.Automation
using namespace System.Management.Automation.Language

Register-ArgumentCompleter -Native -CommandName 'sortie' -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)

    $commandElements = $commandAst.CommandElements
    $command = @(
        'sortie'
        for ($i = 1; $i -lt $commandElements.Count; $i++) {
            $element = $commandElements[$i]
            if ($element -isnot [StringConstantExpressionAst] -or
                $element.StringConstantType -ne [StringConstantType]::BareWord -or
                $element.Value.StartsWith('-') -or
                $element.Value -eq $wordToComplete) {
                break
        }
        $element.Value
    }) -join ';'

    $completions = @(switch ($command) {
        'sortie' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('-V', '-V ', [CompletionResultType]::ParameterName, 'Print version')
            [CompletionResult]::new('--version', '--version', [CompletionResultType]::ParameterName, 'Print version')
            [CompletionResult]::new('run', 'run', [CompletionResultType]::ParameterValue, 'Start a run and follow it to its end')
            [CompletionResult]::new('resume', 'resume', [CompletionResultType]::ParameterValue, 'Decide the tool calls that wait, then follow the run')
            [CompletionResult]::new('attach', 'attach', [CompletionResultType]::ParameterValue, 'Follow a run that is already going, or has just ended')
            [CompletionResult]::new('cancel', 'cancel', [CompletionResultType]::ParameterValue, 'Stop a run, and wait until it has stopped')
            [CompletionResult]::new('pending', 'pending', [CompletionResultType]::ParameterValue, 'Show the tool calls that wait for approval')
            [CompletionResult]::new('ping', 'ping', [CompletionResultType]::ParameterValue, 'Ask whether the server is there and accepts the token')
            break
        }
        'sortie;run' {
            [CompletionResult]::new('--prompt-file', '--prompt-file', [CompletionResultType]::ParameterName, 'Read the task from this file; - is stdin')
            [CompletionResult]::new('--session', '--session', [CompletionResultType]::ParameterName, 'Send the task to this session, as its next message [default: a new session]')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'The profile; the new session''s title is "autopilot: NAME"')
            [CompletionResult]::new('--title', '--title', [CompletionResultType]::ParameterName, 'The new session''s title [default: autopilot: PROFILE]')
            [CompletionResult]::new('-w', '-w', [CompletionResultType]::ParameterName, 'The directory, on the server, for the agent to work in [default: the server''s]')
            [CompletionResult]::new('--workdir', '--workdir', [CompletionResultType]::ParameterName, 'The directory, on the server, for the agent to work in [default: the server''s]')
            [CompletionResult]::new('--model', '--model', [CompletionResultType]::ParameterName, 'The model, by the name that the server has for it [default: the server''s]')
            [CompletionResult]::new('--system-prompt-file', '--system-prompt-file', [CompletionResultType]::ParameterName, 'Read the system prompt from this file, at most 32768 characters; - is stdin [default: the server''s]')
            [CompletionResult]::new('--max-turns', '--max-turns', [CompletionResultType]::ParameterName, 'How many turns the run may take at most, 1 to 256 [default: the server''s]')
            [CompletionResult]::new('--context', '--context', [CompletionResultType]::ParameterName, 'Give the agent a text beside the task (repeatable)')
            [CompletionResult]::new('--context-file', '--context-file', [CompletionResultType]::ParameterName, 'Like --context, with the text from a file (repeatable); - is stdin')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'Longest time for the whole command; a run that is not done by then is cancelled')
            [CompletionResult]::new('--idle-timeout', '--idle-timeout', [CompletionResultType]::ParameterName, 'Longest time without an event from the run, which is then cancelled [default: no limit]')
            [CompletionResult]::new('--heartbeat', '--heartbeat', [CompletionResultType]::ParameterName, 'Say on stderr that the run is still going, each time that nothing was said for so long')
            [CompletionResult]::new('--on-approval', '--on-approval', [CompletionResultType]::ParameterName, 'What happens to a tool call that nothing else decides [default: accept for run, pause for resume and attach]')
            [CompletionResult]::new('-t', '-t', [CompletionResultType]::ParameterName, 'Let this tool run, and reject all that are not allowed (repeatable); replaces the operator''s policy')
            [CompletionResult]::new('--allow-tool', '--allow-tool', [CompletionResultType]::ParameterName, 'Let this tool run, and reject all that are not allowed (repeatable); replaces the operator''s policy')
            [CompletionResult]::new('--deny-tool', '--deny-tool', [CompletionResultType]::ParameterName, 'Never let this tool run (repeatable); replaces the operator''s policy')
            [CompletionResult]::new('--approve-with', '--approve-with', [CompletionResultType]::ParameterName, 'Let this program decide each call by its exit code: 0 accept, 1 reject, 10 pause; replaces the operator''s policy')
            [CompletionResult]::new('-o', '-o', [CompletionResultType]::ParameterName, 'What goes to stdout')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'What goes to stdout')
            [CompletionResult]::new('--result-file', '--result-file', [CompletionResultType]::ParameterName, 'Write the result record to this file too, at the end and all at once')
            [CompletionResult]::new('--record', '--record', [CompletionResultType]::ParameterName, 'Record the run''s events in this file, for --rehearse and for bug reports')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'The agent server''s URL [default: http://127.0.0.1:4096]')
            [CompletionResult]::new('--token-file', '--token-file', [CompletionResultType]::ParameterName, 'A file that holds the token and nothing else [env: SORTIE_TOKEN holds it, SORTIE_TOKEN_FILE names the file]')
            [CompletionResult]::new('--cacert', '--cacert', [CompletionResultType]::ParameterName, 'Trust the certificates in this PEM file [default: the system''s]')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'Longest time to look up the server''s name, and to connect')
            [CompletionResult]::new('--retry-timeout', '--retry-timeout', [CompletionResultType]::ParameterName, 'Longest time without contact with the server before giving up')
            [CompletionResult]::new('--rehearse', '--rehearse', [CompletionResultType]::ParameterName, 'Rehearse, at no cost: completed, failed, paused, stalled, lost, or a file that --record wrote')
            [CompletionResult]::new('--sandbox', '--sandbox', [CompletionResultType]::ParameterName, 'Run the tools in the server''s sandbox, if it has one')
            [CompletionResult]::new('--detach', '--detach', [CompletionResultType]::ParameterName, 'Start the run, print the session''s id and exit 0, without following the run')
            [CompletionResult]::new('--no-cancel', '--no-cancel', [CompletionResultType]::ParameterName, 'On a time-out or a signal, leave the run going on the server')
            [CompletionResult]::new('--pause-on-approval', '--pause-on-approval', [CompletionResultType]::ParameterName, 'Short for --on-approval pause')
            [CompletionResult]::new('--enable-slack-tools', '--enable-slack-tools', [CompletionResultType]::ParameterName, 'Do not reject Slack tools outright; the rest of the policy decides')
            [CompletionResult]::new('--enable-subagents', '--enable-subagents', [CompletionResultType]::ParameterName, 'Do not reject tools that start subagents outright; the rest of the policy decides')
            [CompletionResult]::new('--fail-on-tool-error', '--fail-on-tool-error', [CompletionResultType]::ParameterName, 'Exit 1 when a tool call failed, even if the run completed')
            [CompletionResult]::new('--allow-http', '--allow-http', [CompletionResultType]::ParameterName, 'Let the token go over plain http to another machine')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors, and that a run is paused')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors, and that a run is paused')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Log every call on stderr; -vv the HTTP library''s view too [env: SORTIE_LOG]')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Log every call on stderr; -vv the HTTP library''s view too [env: SORTIE_LOG]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'sortie;resume' {
            [CompletionResult]::new('--approve', '--approve', [CompletionResultType]::ParameterName, 'Let this call run, by its id as pending shows it (repeatable)')
            [CompletionResult]::new('--reject', '--reject', [CompletionResultType]::ParameterName, 'Reject this call, by its id as pending shows it (repeatable)')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'Longest time for the whole command; a run that is not done by then is cancelled')
            [CompletionResult]::new('--idle-timeout', '--idle-timeout', [CompletionResultType]::ParameterName, 'Longest time without an event from the run, which is then cancelled [default: no limit]')
            [CompletionResult]::new('--heartbeat', '--heartbeat', [CompletionResultType]::ParameterName, 'Say on stderr that the run is still going, each time that nothing was said for so long')
            [CompletionResult]::new('--on-approval', '--on-approval', [CompletionResultType]::ParameterName, 'What happens to a tool call that nothing else decides [default: accept for run, pause for resume and attach]')
            [CompletionResult]::new('-t', '-t', [CompletionResultType]::ParameterName, 'Let this tool run, and reject all that are not allowed (repeatable); replaces the operator''s policy')
            [CompletionResult]::new('--allow-tool', '--allow-tool', [CompletionResultType]::ParameterName, 'Let this tool run, and reject all that are not allowed (repeatable); replaces the operator''s policy')
            [CompletionResult]::new('--deny-tool', '--deny-tool', [CompletionResultType]::ParameterName, 'Never let this tool run (repeatable); replaces the operator''s policy')
            [CompletionResult]::new('--approve-with', '--approve-with', [CompletionResultType]::ParameterName, 'Let this program decide each call by its exit code: 0 accept, 1 reject, 10 pause; replaces the operator''s policy')
            [CompletionResult]::new('-o', '-o', [CompletionResultType]::ParameterName, 'What goes to stdout')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'What goes to stdout')
            [CompletionResult]::new('--result-file', '--result-file', [CompletionResultType]::ParameterName, 'Write the result record to this file too, at the end and all at once')
            [CompletionResult]::new('--record', '--record', [CompletionResultType]::ParameterName, 'Record the run''s events in this file, for --rehearse and for bug reports')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'The agent server''s URL [default: http://127.0.0.1:4096]')
            [CompletionResult]::new('--token-file', '--token-file', [CompletionResultType]::ParameterName, 'A file that holds the token and nothing else [env: SORTIE_TOKEN holds it, SORTIE_TOKEN_FILE names the file]')
            [CompletionResult]::new('--cacert', '--cacert', [CompletionResultType]::ParameterName, 'Trust the certificates in this PEM file [default: the system''s]')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'Longest time to look up the server''s name, and to connect')
            [CompletionResult]::new('--retry-timeout', '--retry-timeout', [CompletionResultType]::ParameterName, 'Longest time without contact with the server before giving up')
            [CompletionResult]::new('--rehearse', '--rehearse', [CompletionResultType]::ParameterName, 'Rehearse, at no cost: completed, failed, paused, stalled, lost, or a file that --record wrote')
            [CompletionResult]::new('--approve-all', '--approve-all', [CompletionResultType]::ParameterName, 'Let all calls run that wait now, except those given to --reject')
            [CompletionResult]::new('--reject-all', '--reject-all', [CompletionResultType]::ParameterName, 'Reject all calls that wait now, except those given to --approve')
            [CompletionResult]::new('--no-cancel', '--no-cancel', [CompletionResultType]::ParameterName, 'On a time-out or a signal, leave the run going on the server')
            [CompletionResult]::new('--pause-on-approval', '--pause-on-approval', [CompletionResultType]::ParameterName, 'Short for --on-approval pause')
            [CompletionResult]::new('--enable-slack-tools', '--enable-slack-tools', [CompletionResultType]::ParameterName, 'Do not reject Slack tools outright; the rest of the policy decides')
            [CompletionResult]::new('--enable-subagents', '--enable-subagents', [CompletionResultType]::ParameterName, 'Do not reject tools that start subagents outright; the rest of the policy decides')
            [CompletionResult]::new('--fail-on-tool-error', '--fail-on-tool-error', [CompletionResultType]::ParameterName, 'Exit 1 when a tool call failed, even if the run completed')
            [CompletionResult]::new('--allow-http', '--allow-http', [CompletionResultType]::ParameterName, 'Let the token go over plain http to another machine')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors, and that a run is paused')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors, and that a run is paused')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Log every call on stderr; -vv the HTTP library''s view too [env: SORTIE_LOG]')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Log every call on stderr; -vv the HTTP library''s view too [env: SORTIE_LOG]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'sortie;attach' {
            [CompletionResult]::new('--run', '--run', [CompletionResultType]::ParameterName, 'Follow this run, and no other [default: the session''s last]')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'Longest time for the whole command; a run that is not done by then is cancelled')
            [CompletionResult]::new('--idle-timeout', '--idle-timeout', [CompletionResultType]::ParameterName, 'Longest time without an event from the run, which is then cancelled [default: no limit]')
            [CompletionResult]::new('--heartbeat', '--heartbeat', [CompletionResultType]::ParameterName, 'Say on stderr that the run is still going, each time that nothing was said for so long')
            [CompletionResult]::new('--on-approval', '--on-approval', [CompletionResultType]::ParameterName, 'What happens to a tool call that nothing else decides [default: accept for run, pause for resume and attach]')
            [CompletionResult]::new('-t', '-t', [CompletionResultType]::ParameterName, 'Let this tool run, and reject all that are not allowed (repeatable); replaces the operator''s policy')
            [CompletionResult]::new('--allow-tool', '--allow-tool', [CompletionResultType]::ParameterName, 'Let this tool run, and reject all that are not allowed (repeatable); replaces the operator''s policy')
            [CompletionResult]::new('--deny-tool', '--deny-tool', [CompletionResultType]::ParameterName, 'Never let this tool run (repeatable); replaces the operator''s policy')
            [CompletionResult]::new('--approve-with', '--approve-with', [CompletionResultType]::ParameterName, 'Let this program decide each call by its exit code: 0 accept, 1 reject, 10 pause; replaces the operator''s policy')
            [CompletionResult]::new('-o', '-o', [CompletionResultType]::ParameterName, 'What goes to stdout')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'What goes to stdout')
            [CompletionResult]::new('--result-file', '--result-file', [CompletionResultType]::ParameterName, 'Write the result record to this file too, at the end and all at once')
            [CompletionResult]::new('--record', '--record', [CompletionResultType]::ParameterName, 'Record the run''s events in this file, for --rehearse and for bug reports')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'The agent server''s URL [default: http://127.0.0.1:4096]')
            [CompletionResult]::new('--token-file', '--token-file', [CompletionResultType]::ParameterName, 'A file that holds the token and nothing else [env: SORTIE_TOKEN holds it, SORTIE_TOKEN_FILE names the file]')
            [CompletionResult]::new('--cacert', '--cacert', [CompletionResultType]::ParameterName, 'Trust the certificates in this PEM file [default: the system''s]')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'Longest time to look up the server''s name, and to connect')
            [CompletionResult]::new('--retry-timeout', '--retry-timeout', [CompletionResultType]::ParameterName, 'Longest time without contact with the server before giving up')
            [CompletionResult]::new('--rehearse', '--rehearse', [CompletionResultType]::ParameterName, 'Rehearse, at no cost: completed, failed, paused, stalled, lost, or a file that --record wrote')
            [CompletionResult]::new('--no-cancel', '--no-cancel', [CompletionResultType]::ParameterName, 'On a time-out or a signal, leave the run going on the server')
            [CompletionResult]::new('--pause-on-approval', '--pause-on-approval', [CompletionResultType]::ParameterName, 'Short for --on-approval pause')
            [CompletionResult]::new('--enable-slack-tools', '--enable-slack-tools', [CompletionResultType]::ParameterName, 'Do not reject Slack tools outright; the rest of the policy decides')
            [CompletionResult]::new('--enable-subagents', '--enable-subagents', [CompletionResultType]::ParameterName, 'Do not reject tools that start subagents outright; the rest of the policy decides')
            [CompletionResult]::new('--fail-on-tool-error', '--fail-on-tool-error', [CompletionResultType]::ParameterName, 'Exit 1 when a tool call failed, even if the run completed')
            [CompletionResult]::new('--allow-http', '--allow-http', [CompletionResultType]::ParameterName, 'Let the token go over plain http to another machine')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors, and that a run is paused')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors, and that a run is paused')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Log every call on stderr; -vv the HTTP library''s view too [env: SORTIE_LOG]')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Log every call on stderr; -vv the HTTP library''s view too [env: SORTIE_LOG]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'sortie;cancel' {
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'Longest time to wait until the run has stopped')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'The agent server''s URL [default: http://127.0.0.1:4096]')
            [CompletionResult]::new('--token-file', '--token-file', [CompletionResultType]::ParameterName, 'A file that holds the token and nothing else [env: SORTIE_TOKEN holds it, SORTIE_TOKEN_FILE names the file]')
            [CompletionResult]::new('--cacert', '--cacert', [CompletionResultType]::ParameterName, 'Trust the certificates in this PEM file [default: the system''s]')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'Longest time to look up the server''s name, and to connect')
            [CompletionResult]::new('--retry-timeout', '--retry-timeout', [CompletionResultType]::ParameterName, 'Longest time without contact with the server before giving up')
            [CompletionResult]::new('--rehearse', '--rehearse', [CompletionResultType]::ParameterName, 'Rehearse, at no cost: completed, failed, paused, stalled, lost, or a file that --record wrote')
            [CompletionResult]::new('--allow-http', '--allow-http', [CompletionResultType]::ParameterName, 'Let the token go over plain http to another machine')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors, and that a run is paused')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors, and that a run is paused')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Log every call on stderr; -vv the HTTP library''s view too [env: SORTIE_LOG]')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Log every call on stderr; -vv the HTTP library''s view too [env: SORTIE_LOG]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'sortie;pending' {
            [CompletionResult]::new('-o', '-o', [CompletionResultType]::ParameterName, 'What goes to stdout')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'What goes to stdout')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'The agent server''s URL [default: http://127.0.0.1:4096]')
            [CompletionResult]::new('--token-file', '--token-file', [CompletionResultType]::ParameterName, 'A file that holds the token and nothing else [env: SORTIE_TOKEN holds it, SORTIE_TOKEN_FILE names the file]')
            [CompletionResult]::new('--cacert', '--cacert', [CompletionResultType]::ParameterName, 'Trust the certificates in this PEM file [default: the system''s]')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'Longest time to look up the server''s name, and to connect')
            [CompletionResult]::new('--retry-timeout', '--retry-timeout', [CompletionResultType]::ParameterName, 'Longest time without contact with the server before giving up')
            [CompletionResult]::new('--rehearse', '--rehearse', [CompletionResultType]::ParameterName, 'Rehearse, at no cost: completed, failed, paused, stalled, lost, or a file that --record wrote')
            [CompletionResult]::new('--allow-http', '--allow-http', [CompletionResultType]::ParameterName, 'Let the token go over plain http to another machine')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors, and that a run is paused')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors, and that a run is paused')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Log every call on stderr; -vv the HTTP library''s view too [env: SORTIE_LOG]')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Log every call on stderr; -vv the HTTP library''s view too [env: SORTIE_LOG]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'sortie;ping' {
            [CompletionResult]::new('--wait', '--wait', [CompletionResultType]::ParameterName, 'Try for so long until the server is there [default: try once]')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'The agent server''s URL [default: http://127.0.0.1:4096]')
            [CompletionResult]::new('--token-file', '--token-file', [CompletionResultType]::ParameterName, 'A file that holds the token and nothing else [env: SORTIE_TOKEN holds it, SORTIE_TOKEN_FILE names the file]')
            [CompletionResult]::new('--cacert', '--cacert', [CompletionResultType]::ParameterName, 'Trust the certificates in this PEM file [default: the system''s]')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'Longest time to look up the server''s name, and to connect')
            [CompletionResult]::new('--retry-timeout', '--retry-timeout', [CompletionResultType]::ParameterName, 'Longest time without contact with the server before giving up')
            [CompletionResult]::new('--rehearse', '--rehearse', [CompletionResultType]::ParameterName, 'Rehearse, at no cost: completed, failed, paused, stalled, lost, or a file that --record wrote')
            [CompletionResult]::new('--allow-http', '--allow-http', [CompletionResultType]::ParameterName, 'Let the token go over plain http to another machine')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors, and that a run is paused')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors, and that a run is paused')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Log every call on stderr; -vv the HTTP library''s view too [env: SORTIE_LOG]')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Log every call on stderr; -vv the HTTP library''s view too [env: SORTIE_LOG]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
    })

    $completions.Where{ $_.CompletionText -like "$wordToComplete*" } |
        Sort-Object -Property ListItemText
}
