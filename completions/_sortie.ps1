
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
            [CompletionResult]::new('ping', 'ping', [CompletionResultType]::ParameterValue, 'Ask whether the server is there and takes our token')
            break
        }
        'sortie;run' {
            [CompletionResult]::new('--prompt-file', '--prompt-file', [CompletionResultType]::ParameterName, 'Take the task from this file; - is stdin')
            [CompletionResult]::new('--session', '--session', [CompletionResultType]::ParameterName, 'Send a new message in an old session')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'The profile that the session''s title names: autopilot: NAME')
            [CompletionResult]::new('--title', '--title', [CompletionResultType]::ParameterName, 'The session''s title, instead of autopilot: PROFILE')
            [CompletionResult]::new('-w', '-w', [CompletionResultType]::ParameterName, 'The directory on the server that the agent works in [default: the server''s]')
            [CompletionResult]::new('--workdir', '--workdir', [CompletionResultType]::ParameterName, 'The directory on the server that the agent works in [default: the server''s]')
            [CompletionResult]::new('--model', '--model', [CompletionResultType]::ParameterName, 'The model [default: the server''s]')
            [CompletionResult]::new('--system-prompt-file', '--system-prompt-file', [CompletionResultType]::ParameterName, 'Take the system prompt from this file (32768 characters at most); - is stdin')
            [CompletionResult]::new('--max-turns', '--max-turns', [CompletionResultType]::ParameterName, 'The most turns that the run may take, 1 to 256 [default: the server''s]')
            [CompletionResult]::new('--context', '--context', [CompletionResultType]::ParameterName, 'Context for the task (repeatable); NAME:high=TEXT or NAME:normal=TEXT sets its priority')
            [CompletionResult]::new('--context-file', '--context-file', [CompletionResultType]::ParameterName, 'Context from a file (repeatable); - is stdin; NAME:high=PATH or NAME:normal=PATH sets its priority')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'Longest time for the whole command; a run that is not done by then is cancelled')
            [CompletionResult]::new('--idle-timeout', '--idle-timeout', [CompletionResultType]::ParameterName, 'Longest time without an event from the run [default: no limit]')
            [CompletionResult]::new('--heartbeat', '--heartbeat', [CompletionResultType]::ParameterName, 'Say on stderr that it still runs, after so much silence')
            [CompletionResult]::new('--on-approval', '--on-approval', [CompletionResultType]::ParameterName, 'What happens to a tool call that nothing else decides [default: accept for run, pause for resume and attach]')
            [CompletionResult]::new('-t', '-t', [CompletionResultType]::ParameterName, 'Let this tool run; a tool on no list is then rejected, or pauses the run with --on-approval pause (repeatable)')
            [CompletionResult]::new('--allow-tool', '--allow-tool', [CompletionResultType]::ParameterName, 'Let this tool run; a tool on no list is then rejected, or pauses the run with --on-approval pause (repeatable)')
            [CompletionResult]::new('--deny-tool', '--deny-tool', [CompletionResultType]::ParameterName, 'Never let this tool run (repeatable); takes the place of the operator''s policy')
            [CompletionResult]::new('--approve-with', '--approve-with', [CompletionResultType]::ParameterName, 'A program that decides each call: exit 0 accept, 1 reject (its stdout is the reason), 10 pause')
            [CompletionResult]::new('-o', '-o', [CompletionResultType]::ParameterName, 'What goes to stdout')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'What goes to stdout')
            [CompletionResult]::new('--result-file', '--result-file', [CompletionResultType]::ParameterName, 'Write the result record to this file, at the end and all at once')
            [CompletionResult]::new('--record', '--record', [CompletionResultType]::ParameterName, 'Record the run''s events in this file, for --rehearse and for bug reports')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'The agent server''s URL [default: http://127.0.0.1:4096]')
            [CompletionResult]::new('--token-file', '--token-file', [CompletionResultType]::ParameterName, 'A file that holds the token and nothing else')
            [CompletionResult]::new('--cacert', '--cacert', [CompletionResultType]::ParameterName, 'Trust the certificates in this PEM file, and no others')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'Longest time for the look-up of the server''s name, and for the connect')
            [CompletionResult]::new('--retry-timeout', '--retry-timeout', [CompletionResultType]::ParameterName, 'Longest time without contact with the server before giving up')
            [CompletionResult]::new('--rehearse', '--rehearse', [CompletionResultType]::ParameterName, 'Play a recorded run on a practice server inside this process: no server, no key, no cost')
            [CompletionResult]::new('--sandbox', '--sandbox', [CompletionResultType]::ParameterName, 'Run the tools in the server''s sandbox, if it has one')
            [CompletionResult]::new('--detach', '--detach', [CompletionResultType]::ParameterName, 'Start the run, print the session''s id, and exit 0')
            [CompletionResult]::new('--no-cancel', '--no-cancel', [CompletionResultType]::ParameterName, 'Leave the run going on the server on a time-out or a signal')
            [CompletionResult]::new('--pause-on-approval', '--pause-on-approval', [CompletionResultType]::ParameterName, 'Short for --on-approval pause')
            [CompletionResult]::new('--enable-slack-tools', '--enable-slack-tools', [CompletionResultType]::ParameterName, 'Leave Slack tools to the rest of the policy instead of rejecting them')
            [CompletionResult]::new('--enable-subagents', '--enable-subagents', [CompletionResultType]::ParameterName, 'Leave tools that start subagents to the rest of the policy instead of rejecting them')
            [CompletionResult]::new('--fail-on-tool-error', '--fail-on-tool-error', [CompletionResultType]::ParameterName, 'Exit 1 when the run completed but a tool call failed')
            [CompletionResult]::new('--allow-http', '--allow-http', [CompletionResultType]::ParameterName, 'Send the token over plain http to another machine')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Log what happens on stderr; twice for more')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Log what happens on stderr; twice for more')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'sortie;resume' {
            [CompletionResult]::new('--approve', '--approve', [CompletionResultType]::ParameterName, 'Let this call run (repeatable)')
            [CompletionResult]::new('--reject', '--reject', [CompletionResultType]::ParameterName, 'Refuse this call (repeatable)')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'Longest time for the whole command; a run that is not done by then is cancelled')
            [CompletionResult]::new('--idle-timeout', '--idle-timeout', [CompletionResultType]::ParameterName, 'Longest time without an event from the run [default: no limit]')
            [CompletionResult]::new('--heartbeat', '--heartbeat', [CompletionResultType]::ParameterName, 'Say on stderr that it still runs, after so much silence')
            [CompletionResult]::new('--on-approval', '--on-approval', [CompletionResultType]::ParameterName, 'What happens to a tool call that nothing else decides [default: accept for run, pause for resume and attach]')
            [CompletionResult]::new('-t', '-t', [CompletionResultType]::ParameterName, 'Let this tool run; a tool on no list is then rejected, or pauses the run with --on-approval pause (repeatable)')
            [CompletionResult]::new('--allow-tool', '--allow-tool', [CompletionResultType]::ParameterName, 'Let this tool run; a tool on no list is then rejected, or pauses the run with --on-approval pause (repeatable)')
            [CompletionResult]::new('--deny-tool', '--deny-tool', [CompletionResultType]::ParameterName, 'Never let this tool run (repeatable); takes the place of the operator''s policy')
            [CompletionResult]::new('--approve-with', '--approve-with', [CompletionResultType]::ParameterName, 'A program that decides each call: exit 0 accept, 1 reject (its stdout is the reason), 10 pause')
            [CompletionResult]::new('-o', '-o', [CompletionResultType]::ParameterName, 'What goes to stdout')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'What goes to stdout')
            [CompletionResult]::new('--result-file', '--result-file', [CompletionResultType]::ParameterName, 'Write the result record to this file, at the end and all at once')
            [CompletionResult]::new('--record', '--record', [CompletionResultType]::ParameterName, 'Record the run''s events in this file, for --rehearse and for bug reports')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'The agent server''s URL [default: http://127.0.0.1:4096]')
            [CompletionResult]::new('--token-file', '--token-file', [CompletionResultType]::ParameterName, 'A file that holds the token and nothing else')
            [CompletionResult]::new('--cacert', '--cacert', [CompletionResultType]::ParameterName, 'Trust the certificates in this PEM file, and no others')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'Longest time for the look-up of the server''s name, and for the connect')
            [CompletionResult]::new('--retry-timeout', '--retry-timeout', [CompletionResultType]::ParameterName, 'Longest time without contact with the server before giving up')
            [CompletionResult]::new('--rehearse', '--rehearse', [CompletionResultType]::ParameterName, 'Play a recorded run on a practice server inside this process: no server, no key, no cost')
            [CompletionResult]::new('--approve-all', '--approve-all', [CompletionResultType]::ParameterName, 'Let all calls run that wait now, but for those given to --reject')
            [CompletionResult]::new('--reject-all', '--reject-all', [CompletionResultType]::ParameterName, 'Refuse all calls that wait now, but for those given to --approve')
            [CompletionResult]::new('--no-cancel', '--no-cancel', [CompletionResultType]::ParameterName, 'Leave the run going on the server on a time-out or a signal')
            [CompletionResult]::new('--pause-on-approval', '--pause-on-approval', [CompletionResultType]::ParameterName, 'Short for --on-approval pause')
            [CompletionResult]::new('--enable-slack-tools', '--enable-slack-tools', [CompletionResultType]::ParameterName, 'Leave Slack tools to the rest of the policy instead of rejecting them')
            [CompletionResult]::new('--enable-subagents', '--enable-subagents', [CompletionResultType]::ParameterName, 'Leave tools that start subagents to the rest of the policy instead of rejecting them')
            [CompletionResult]::new('--fail-on-tool-error', '--fail-on-tool-error', [CompletionResultType]::ParameterName, 'Exit 1 when the run completed but a tool call failed')
            [CompletionResult]::new('--allow-http', '--allow-http', [CompletionResultType]::ParameterName, 'Send the token over plain http to another machine')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Log what happens on stderr; twice for more')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Log what happens on stderr; twice for more')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'sortie;attach' {
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'Longest time for the whole command; a run that is not done by then is cancelled')
            [CompletionResult]::new('--idle-timeout', '--idle-timeout', [CompletionResultType]::ParameterName, 'Longest time without an event from the run [default: no limit]')
            [CompletionResult]::new('--heartbeat', '--heartbeat', [CompletionResultType]::ParameterName, 'Say on stderr that it still runs, after so much silence')
            [CompletionResult]::new('--on-approval', '--on-approval', [CompletionResultType]::ParameterName, 'What happens to a tool call that nothing else decides [default: accept for run, pause for resume and attach]')
            [CompletionResult]::new('-t', '-t', [CompletionResultType]::ParameterName, 'Let this tool run; a tool on no list is then rejected, or pauses the run with --on-approval pause (repeatable)')
            [CompletionResult]::new('--allow-tool', '--allow-tool', [CompletionResultType]::ParameterName, 'Let this tool run; a tool on no list is then rejected, or pauses the run with --on-approval pause (repeatable)')
            [CompletionResult]::new('--deny-tool', '--deny-tool', [CompletionResultType]::ParameterName, 'Never let this tool run (repeatable); takes the place of the operator''s policy')
            [CompletionResult]::new('--approve-with', '--approve-with', [CompletionResultType]::ParameterName, 'A program that decides each call: exit 0 accept, 1 reject (its stdout is the reason), 10 pause')
            [CompletionResult]::new('-o', '-o', [CompletionResultType]::ParameterName, 'What goes to stdout')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'What goes to stdout')
            [CompletionResult]::new('--result-file', '--result-file', [CompletionResultType]::ParameterName, 'Write the result record to this file, at the end and all at once')
            [CompletionResult]::new('--record', '--record', [CompletionResultType]::ParameterName, 'Record the run''s events in this file, for --rehearse and for bug reports')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'The agent server''s URL [default: http://127.0.0.1:4096]')
            [CompletionResult]::new('--token-file', '--token-file', [CompletionResultType]::ParameterName, 'A file that holds the token and nothing else')
            [CompletionResult]::new('--cacert', '--cacert', [CompletionResultType]::ParameterName, 'Trust the certificates in this PEM file, and no others')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'Longest time for the look-up of the server''s name, and for the connect')
            [CompletionResult]::new('--retry-timeout', '--retry-timeout', [CompletionResultType]::ParameterName, 'Longest time without contact with the server before giving up')
            [CompletionResult]::new('--rehearse', '--rehearse', [CompletionResultType]::ParameterName, 'Play a recorded run on a practice server inside this process: no server, no key, no cost')
            [CompletionResult]::new('--no-cancel', '--no-cancel', [CompletionResultType]::ParameterName, 'Leave the run going on the server on a time-out or a signal')
            [CompletionResult]::new('--pause-on-approval', '--pause-on-approval', [CompletionResultType]::ParameterName, 'Short for --on-approval pause')
            [CompletionResult]::new('--enable-slack-tools', '--enable-slack-tools', [CompletionResultType]::ParameterName, 'Leave Slack tools to the rest of the policy instead of rejecting them')
            [CompletionResult]::new('--enable-subagents', '--enable-subagents', [CompletionResultType]::ParameterName, 'Leave tools that start subagents to the rest of the policy instead of rejecting them')
            [CompletionResult]::new('--fail-on-tool-error', '--fail-on-tool-error', [CompletionResultType]::ParameterName, 'Exit 1 when the run completed but a tool call failed')
            [CompletionResult]::new('--allow-http', '--allow-http', [CompletionResultType]::ParameterName, 'Send the token over plain http to another machine')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Log what happens on stderr; twice for more')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Log what happens on stderr; twice for more')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'sortie;cancel' {
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'Longest time to wait until it has stopped')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'The agent server''s URL [default: http://127.0.0.1:4096]')
            [CompletionResult]::new('--token-file', '--token-file', [CompletionResultType]::ParameterName, 'A file that holds the token and nothing else')
            [CompletionResult]::new('--cacert', '--cacert', [CompletionResultType]::ParameterName, 'Trust the certificates in this PEM file, and no others')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'Longest time for the look-up of the server''s name, and for the connect')
            [CompletionResult]::new('--retry-timeout', '--retry-timeout', [CompletionResultType]::ParameterName, 'Longest time without contact with the server before giving up')
            [CompletionResult]::new('--rehearse', '--rehearse', [CompletionResultType]::ParameterName, 'Play a recorded run on a practice server inside this process: no server, no key, no cost')
            [CompletionResult]::new('--allow-http', '--allow-http', [CompletionResultType]::ParameterName, 'Send the token over plain http to another machine')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Log what happens on stderr; twice for more')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Log what happens on stderr; twice for more')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'sortie;pending' {
            [CompletionResult]::new('-o', '-o', [CompletionResultType]::ParameterName, 'What goes to stdout')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'What goes to stdout')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'The agent server''s URL [default: http://127.0.0.1:4096]')
            [CompletionResult]::new('--token-file', '--token-file', [CompletionResultType]::ParameterName, 'A file that holds the token and nothing else')
            [CompletionResult]::new('--cacert', '--cacert', [CompletionResultType]::ParameterName, 'Trust the certificates in this PEM file, and no others')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'Longest time for the look-up of the server''s name, and for the connect')
            [CompletionResult]::new('--retry-timeout', '--retry-timeout', [CompletionResultType]::ParameterName, 'Longest time without contact with the server before giving up')
            [CompletionResult]::new('--rehearse', '--rehearse', [CompletionResultType]::ParameterName, 'Play a recorded run on a practice server inside this process: no server, no key, no cost')
            [CompletionResult]::new('--allow-http', '--allow-http', [CompletionResultType]::ParameterName, 'Send the token over plain http to another machine')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Log what happens on stderr; twice for more')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Log what happens on stderr; twice for more')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'sortie;ping' {
            [CompletionResult]::new('--wait', '--wait', [CompletionResultType]::ParameterName, 'Try again for so long until it is there')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'The agent server''s URL [default: http://127.0.0.1:4096]')
            [CompletionResult]::new('--token-file', '--token-file', [CompletionResultType]::ParameterName, 'A file that holds the token and nothing else')
            [CompletionResult]::new('--cacert', '--cacert', [CompletionResultType]::ParameterName, 'Trust the certificates in this PEM file, and no others')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'Longest time for the look-up of the server''s name, and for the connect')
            [CompletionResult]::new('--retry-timeout', '--retry-timeout', [CompletionResultType]::ParameterName, 'Longest time without contact with the server before giving up')
            [CompletionResult]::new('--rehearse', '--rehearse', [CompletionResultType]::ParameterName, 'Play a recorded run on a practice server inside this process: no server, no key, no cost')
            [CompletionResult]::new('--allow-http', '--allow-http', [CompletionResultType]::ParameterName, 'Send the token over plain http to another machine')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing on stderr but errors')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Log what happens on stderr; twice for more')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Log what happens on stderr; twice for more')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
    })

    $completions.Where{ $_.CompletionText -like "$wordToComplete*" } |
        Sort-Object -Property ListItemText
}
