//! Command scopes: lists that the server itself applies to what a command line does.

use real_server::{Event, Model, Options, RealServer, Reply, Request, Tools};
use serde_json::{Value, json};
use std::thread;

use crate::{
    field,
    plain::{decide, session, up_to},
    waiting,
};

/// A list of the kind that the manual shows.
const LIST: [&str; 6] = ["-t", "view", "-t", "run_command::git::status", "-t", "run_command::ls"];

/// What such a list lets run without a question, and what the server asks about.
const RUNS: [&str; 19] = [
    "git status",
    "git status --short",
    "git  status",
    "git 'status'",
    "ls",
    "ls -la /x",
    "git status | ls",
    "git status && ls",
    "(git status)",
    "ls $(git status)",
    "for f in *; do ls; done",
    "git status # rm x",
    "ls '$(rm x)'",
    // What the server's parser does not count as a command: a scope is no fence.
    "ls > file",
    "> file; ls",
    "PATH=/x git status",
    "export PATH=/x; ls",
    "ls <<EOF;rm x\na\nEOF",
    "ls \"${x:=`rm x`}\"",
];
const ASKS: [&str; 36] = [
    "git status && rm -rf x",
    "git status; rm -rf x",
    "git status | cat",
    "git status || rm x",
    "git status & rm x",
    "git status |& rm x",
    "git status\nrm x",
    "ls $(rm x)",
    "ls `rm x`",
    "ls \"$(rm x)\"",
    "ls <(rm x)",
    "ls > $(rm x)",
    "ls <<< \"$(rm x)\"",
    "X=$(rm x) ls",
    "if ls; then rm x; fi",
    "ls() { rm x; }; ls",
    "alias ls=rm; ls",
    "env git status",
    "sudo git status",
    "command git status",
    "time git status",
    "eval git status",
    "sh -c 'git status'",
    "xargs ls",
    "/usr/bin/git status",
    "\"git\" status",
    "\\git status",
    "$X status",
    "git $X",
    "git -C /x status",
    "git --no-pager status",
    "git",
    "git log",
    "lsof",
    "cd /x && ls",
    "",
];

/// A server whose model calls, in one batch, the tools that a prompt lists as JSON: `[["id", "tool", arguments], …]`.
fn server(tools: &Tools) -> RealServer {
    let model = Model::answering(|request: &Request| {
        if request.turns_before() > 0 {
            return Reply::text("done");
        }
        let calls: Vec<(String, String, Value)> = serde_json::from_str(&request.prompt()).unwrap();
        calls.iter().fold(Reply::empty(), |reply, (id, tool, arguments)| reply.and_call(id, tool, arguments))
    });
    RealServer::start_with(Options { tools: Some(tools.clone()), ..Options::default() }, &model)
}

fn prompt(calls: &[(&str, &str, &str)]) -> String {
    let calls = calls.iter().map(|(id, tool, command)| json!([id, tool, { "command": command }]));
    Value::Array(calls.collect()).to_string()
}

fn ran(tools: &Tools, command: &str) -> bool {
    tools.calls().iter().any(|(_, arguments)| arguments["command"] == command)
}

/// Sends a prompt with a list of the server's own, past `sortie`, and returns the stream from its start.
fn send_list(
    server: &RealServer,
    list: &[&str],
    prompt: &str,
) -> (String, String, impl Iterator<Item = Event> + use<>) {
    let session = session(server);
    let message = json!({
        "message": { "role": "user", "content": prompt },
        "overrides": { "auto_approve": list },
    });
    let (status, body) = server.post(&format!("/v1/sessions/{session}/messages"), &message);
    assert_eq!(status, 200, "{body}");
    let mut events = server.events(&session, Some(0));
    up_to("waiting_for_tool_approval", &mut events);
    (session, field(&body, "run_id").to_owned(), events)
}

/// Asserts that the server runs this call by itself under this list, or that it asks about it.
fn check(server: &RealServer, list: &[&str], (tool, arguments): (&str, Value), runs: bool) {
    let prompt = json!([["a", tool, arguments]]).to_string();
    let (session, run, mut events) = send_list(server, list, &prompt);
    if !runs {
        // A rejection would end the run without a word if the call had been approved.
        decide(server, &session, &run, &json!({ "a": { "action": "reject" } }));
    }
    let next = events.next().unwrap();
    let expected = if runs { "tool_execution_started" } else { "tool_rejected" };
    assert_eq!(next.name, expected, "{list:?}: {tool} {arguments}");
}

#[test]
fn the_server_applies_a_list_like_this() {
    let server = server(&Tools::willing());
    let list = ["view", "run_command::git::status", "run_command::ls"];
    for (commands, runs) in [(&RUNS[..], true), (&ASKS, false)] {
        for command in commands {
            check(&server, &list, ("run_command", json!({ "command": command })), runs);
        }
    }
    let command = |tool, command: &str| (tool, json!({ "command": command }));
    for tool in ["run_command_task", "run_remote_command", "run_remote_command_task"] {
        check(&server, &list, command(tool, "ls"), true);
        check(&server, &list, command(tool, "rm x"), false);
        check(&server, &["run_command"], command(tool, "rm x"), true);
        check(&server, &["run_command_task"], command(tool, "rm x"), tool == "run_command_task");
    }
    check(&server, &list, ("view", json!({ "path": "/x" })), true);
    check(&server, &list, ("create", json!({ "path": "/x" })), false);
    check(&server, &list, ("run_command", json!({ "cmd": "ls" })), false);
    for (entry, line, runs) in [
        ("run_command::git", "git push", true),
        ("run_command::git::log::--oneline", "git log --oneline -5", true),
        ("run_command::git::log::--oneline", "git log -5 --oneline", false),
        ("run_command::git::s*", "git stash", true),
        ("run_command::git::re:^(status|log)$", "git log", true),
        ("run_command::git::re:^(status|log)$", "git push", false),
        ("run_command::ls::/srv/*", "ls /srv/../etc /etc", true),
        ("run_command::*", "ls", false),
        ("run_command::git::", "git push", false),
        ("run_command::/usr/bin/git", "/usr/bin/git push", true),
        ("run_command::env", "env rm x", true),
        ("run_command::bash", "bash -c 'rm x'", false),
        ("run_command::bash", "bash -lc 'rm x'", true),
        // The server takes the first `__` for the end of a tool server's name.
        ("stakpak__run_command::git", "git push", true),
        ("run_command::ls::a__b", "ls a__b", false),
        ("run_command::a__run_command", "rm x", true),
    ] {
        check(&server, &[entry], command("run_command", line), runs);
    }
    for (entry, tool, runs) in [
        ("stakpak__view", "view", true),
        ("View", "view", false),
        ("vie*", "view", false),
        ("*", "view", false),
        ("all", "view", false),
        ("", "view", false),
        ("dynamic_subagent_task", "dynamic_subagent_task", true),
        ("slack_send_message", "slack_send_message", true),
    ] {
        check(&server, &[entry], (tool, json!({})), runs);
    }
}

#[test]
fn a_scope_matches_what_the_manual_says() {
    let tools = Tools::willing();
    let server = server(&tools);
    thread::scope(|scope| {
        for commands in [RUNS.as_slice(), ASKS.as_slice()].concat().chunks(6) {
            let server = &server;
            let commands = commands.to_vec();
            scope.spawn(move || {
                for command in commands {
                    let prompt = prompt(&[("a", "run_command", command)]);
                    let run = server.sortie(["run", "-o", "json"]).and(LIST).and([&*prompt]).run();
                    let record = run.exits(0).record();
                    let rejected = u64::from(ASKS.contains(&command));
                    assert_eq!(record["tool_calls"]["rejected"], rejected, "{command:?}: {record:#}");
                }
            });
        }
    });
    for command in RUNS {
        assert!(ran(&tools, command), "did not run: {command:?}");
    }
    for command in ASKS {
        assert!(!ran(&tools, command), "ran: {command:?}");
    }
}

#[test]
fn every_order_of_a_batch_that_a_list_approves_in_part_is_decided() {
    let tools = Tools::willing();
    let server = server(&tools);
    let orders: [&[&str]; 8] = [
        &["ls", "rm"],
        &["rm", "ls"],
        &["ls", "rm", "ls"],
        &["rm", "ls", "rm"],
        &["ls", "ls", "rm"],
        &["rm", "rm", "ls"],
        &["ls", "rm", "rm"],
        &["rm", "ls", "ls"],
    ];
    thread::scope(|scope| {
        for (number, order) in orders.iter().enumerate() {
            let server = &server;
            scope.spawn(move || {
                for pausing in [false, true] {
                    let commands: Vec<String> = order
                        .iter()
                        .enumerate()
                        .map(|(at, name)| format!("{name} {number}{pausing}{at}"))
                        .collect();
                    let ids: Vec<String> = (0..order.len()).map(|at| format!("c{at}")).collect();
                    let calls: Vec<(&str, &str, &str)> =
                        ids.iter().zip(&commands).map(|(id, command)| (&**id, "run_command", &**command)).collect();
                    let prompt = prompt(&calls);
                    let run = server.sortie(["run", "-o", "json"]).and(LIST);
                    let rejected = order.iter().filter(|name| **name == "rm").count();
                    if pausing {
                        let record = run.and(["--pause-on-approval", &*prompt]).run().exits(10).record();
                        let first = order.iter().position(|name| *name == "rm").unwrap();
                        assert_eq!(waiting(&record)[0], ids[first], "{order:?}: {record:#}");
                        let session = field(&record, "session_id");
                        let resume = server.sortie(["resume", "-o", "json", "--reject-all", session]).run();
                        let record = resume.exits(0).record();
                        assert_eq!(record["text"], "done", "{order:?}: {record:#}");
                    } else {
                        let record = run.and([&*prompt]).run().exits(0).record();
                        assert_eq!(record["tool_calls"]["rejected"], rejected, "{order:?}: {record:#}");
                    }
                }
            });
        }
    });
    let calls = tools.calls();
    let commands = calls.iter().filter_map(|(_, arguments)| arguments["command"].as_str());
    assert!(commands.clone().all(|command| command.starts_with("ls ")), "{calls:#?}");
    let ls = orders.iter().flat_map(|order| order.iter()).filter(|name| **name == "ls").count();
    assert_eq!(commands.count(), 2 * ls);
}

#[test]
fn what_a_list_asks_about_waits_and_runs_once_it_is_approved() {
    let tools = Tools::willing();
    let server = server(&tools);
    let prompt =
        prompt(&[("a", "run_command", "git status"), ("b", "run_command", "git push"), ("c", "create", "")]);
    let run = server.sortie(["run", "-o", "json", "--pause-on-approval"]).and(LIST).and([&*prompt]).run();
    let record = run.exits(10).record();
    assert_eq!(waiting(&record), ["b", "c"], "{record:#}");
    assert!(ran(&tools, "git status") && !ran(&tools, "git push"));
    let resume = ["resume", "--approve", "b", "--reject", "c", field(&record, "session_id")];
    server.sortie(resume).run().says("done\n");
    assert!(ran(&tools, "git push") && !tools.calls().iter().any(|(tool, _)| tool == "create"));
}

#[test]
fn a_scope_of_run_command_covers_the_other_shell_tools() {
    let tools = Tools::willing();
    let server = server(&tools);
    let others = ["run_command_task", "run_remote_command", "run_remote_command_task"];
    let calls: Vec<_> = others.iter().flat_map(|tool| [(*tool, *tool, "ls"), ("rm", *tool, "rm x")]).collect();
    for call in calls {
        let prompt = prompt(&[call]);
        server.sortie(["run"]).and(LIST).and([&*prompt]).run().says("done\n");
    }
    assert_eq!(tools.calls().len(), others.len());
    assert!(!ran(&tools, "rm x"));
}

#[test]
fn a_plain_name_covers_no_other_tool() {
    let tools = Tools::willing();
    let server = server(&tools);
    let prompt = prompt(&[("a", "run_command", "ls"), ("b", "run_command_task", "ls"), ("c", "view", "")]);
    server.sortie(["run", "-t", "run_command", &prompt]).run().says("done\n");
    let names: Vec<String> = tools.calls().into_iter().map(|(tool, _)| tool).collect();
    assert_eq!(names, ["run_command"]);
}

#[test]
fn a_list_with_a_scope_lets_subagents_run_only_where_enabled() {
    let tools = Tools::willing();
    let server = server(&tools);
    let prompt = prompt(&[("a", "dynamic_subagent_task", ""), ("b", "slack_send_message", ""), ("c", "view", "")]);
    let list = ["-t", "dynamic_subagent_task", "-t", "slack_send_message"];
    let run = || server.sortie(["run"]).and(LIST).and(list);
    run().and([&*prompt]).run().says("done\n");
    assert_eq!(tools.calls().len(), 1);
    run().and(["--enable-subagents", "--enable-slack-tools", &*prompt]).run().says("done\n");
    assert_eq!(tools.calls().len(), 4);
}

#[test]
fn a_detached_run_takes_its_list_with_it() {
    let tools = Tools::willing();
    let server = server(&tools);
    let prompt = prompt(&[("a", "run_command", "ls"), ("b", "run_command", "rm x")]);
    for list in [&LIST[..], &["-t", "view"]] {
        let detached = server.sortie(["run", "--detach"]).and(list.iter().copied()).and([&*prompt]).run().exits(0);
        let session = detached.stdout.trim();
        let record = server.sortie(["attach", "-o", "json", session]).run().exits(10).record();
        assert_eq!(waiting(&record).last(), Some(&"b"), "{record:#}");
        server.sortie(["cancel", session]).run().exits(0);
    }
    assert_eq!(tools.calls().len(), 1, "{:#?}", tools.calls());
}

#[test]
fn a_scope_where_it_cannot_hold_is_a_usage_error() {
    let tools = Tools::willing();
    let server = server(&tools);
    let refused: [&[&str]; 4] = [
        &["run", "-t", "run_command::a__run_command", "[]"],
        &["run", "-t", "run_command::ls", "--deny-tool", "view", "[]"],
        &["run", "-t", "run_command::ls", "--approve-with", "true", "[]"],
        &["resume", "-t", "run_command::ls", "00000000-0000-4000-8000-000000000000"],
    ];
    for arguments in refused {
        let run = server.sortie(arguments.iter().copied()).run().exits(1);
        assert!(run.stderr.contains("(usage)"), "{arguments:?}: {run:#?}");
    }
    assert!(server.requests().is_empty(), "{:#?}", server.requests());
}
