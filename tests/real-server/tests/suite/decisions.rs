//! Who decides a tool call, and what the model learns of it.

use real_server::{Model, Options, RealServer, ToolApprovalPolicy};
use serde_json::Value;
use std::{fs, os::unix::fs::PermissionsExt};
use tempfile::TempDir;

use crate::{NO_TOOLS, REJECTED, field, waiting};

/// A server whose operator set this policy, with a model that calls what the prompt names.
fn server_with(policy: ToolApprovalPolicy) -> RealServer {
    let options = Options { policy, ..Options::default() };
    RealServer::start_with(options, &Model::obedient())
}

/// A policy program: a shell script of its own directory, whose path is `command`.
struct Program {
    directory: TempDir,
    command: String,
}

impl Program {
    fn new(script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy");
        fs::write(&path, format!("#!/bin/sh\ncd \"${{0%/*}}\"\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let command = path.to_str().unwrap().to_owned();
        Self { directory, command }
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap()
    }
}

#[test]
fn a_call_that_the_server_approves_by_itself_never_pauses() {
    let server = RealServer::start(&Model::obedient());
    let run = server.sortie(["run", "--on-approval", "pause", "a=view b=view / c=view"]);
    run.run().says("done\n");
    let requests = server.requests();
    assert!(!requests.iter().any(|line| line.ends_with("/decisions")), "{requests:#?}");
}

#[test]
fn a_server_that_approves_everything_is_left_to_it() {
    let server = server_with(ToolApprovalPolicy::All);
    let run = server.sortie(["run", "--on-approval", "pause", "a=view b=create / c=remove"]);
    run.run().says("done\n");
    let requests = server.requests();
    assert!(!requests.iter().any(|line| line.ends_with("/decisions")), "{requests:#?}");
}

#[test]
fn a_server_that_asks_about_everything_is_answered() {
    let server = server_with(ToolApprovalPolicy::None);
    server.sortie(["run", "a=view b=create c=remove / d=view"]).run().says("done\n");
    for call in ["a", "b", "c", "d"] {
        assert_eq!(server.tool_result(call), NO_TOOLS, "{call}");
    }
}

#[test]
fn what_the_operator_denies_stays_denied() {
    let server = server_with(ToolApprovalPolicy::from_allowlist(&["view".to_owned()]));
    let run = server.sortie(["run", "-o", "json", "a=view b=create c=view"]).run();
    let record = run.exits(0).record();
    assert_eq!(record["tool_calls"]["rejected"], 1, "{record:#}");
    assert_eq!(server.tool_result("a"), NO_TOOLS);
    assert_eq!(server.tool_result("b"), REJECTED);
    assert_eq!(server.tool_result("c"), NO_TOOLS);
}

#[test]
fn calls_are_rejected_on_request() {
    let server = RealServer::start(&Model::obedient());
    let run = server.sortie(["run", "--on-approval", "reject", "-o", "json", "a=view b=create / c=remove"]);
    let record = run.run().exits(0).record();
    assert_eq!(record["tool_calls"]["proposed"], 3, "{record:#}");
    assert_eq!(record["tool_calls"]["rejected"], 2, "{record:#}");
    assert_eq!(server.tool_result("a"), NO_TOOLS);
    assert_ne!(server.tool_result("b"), NO_TOOLS);
    assert_ne!(server.tool_result("c"), NO_TOOLS);
}

#[test]
fn a_denied_tool_is_rejected_with_a_reason_that_the_model_learns() {
    let server = RealServer::start(&Model::obedient());
    let run = server.sortie(["run", "-o", "json", "--on-approval", "accept", "--deny-tool", "create"]);
    let record = run.and(["a=view b=create c=remove"]).run().exits(0).record();
    assert_eq!(record["tool_calls"]["accepted"], 2, "{record:#}");
    assert_eq!(record["tool_calls"]["rejected"], 1, "{record:#}");
    assert_eq!(server.tool_result("a"), NO_TOOLS);
    assert_eq!(server.tool_result("c"), NO_TOOLS);
    let told = server.tool_result("b");
    assert!(told != NO_TOOLS && told != REJECTED && !told.is_empty(), "told: {told}");
}

#[test]
fn a_restriction_alone_does_not_open_what_the_operator_denies() {
    let server = server_with(ToolApprovalPolicy::from_allowlist(&["view".to_owned()]));
    let run = server.sortie(["run", "-o", "json", "--deny-tool", "remove", "a=create"]).run();
    let record = run.fails("usage");
    assert!(field(&record, "error").contains("--on-approval"), "{record:#}");
    assert!(server.requests().is_empty(), "{:#?}", server.requests());
    server.sortie(["run", "-o", "json", "-t", "view", "--deny-tool", "view", "a=view"]).run().fails("usage");
}

#[test]
fn a_name_that_no_call_had_is_told() {
    let server = RealServer::start(&Model::obedient());
    let run = server.sortie(["run", "-t", "view", "-t", "run_comand", "a=view"]).run();
    assert!(run.stderr.contains("no call was named run_comand"), "{}", run.stderr);
    assert!(!run.stderr.contains("no call was named view"), "{}", run.stderr);
    run.says("done\n");
}

#[test]
fn a_pause_on_a_server_that_approves_everything_is_told_at_the_start() {
    let server = server_with(ToolApprovalPolicy::All);
    let run = server.sortie(["run", "--pause-on-approval", "a=create"]).run();
    assert!(run.stderr.contains("nothing will pause"), "{}", run.stderr);
    run.says("done\n");
}

#[test]
fn the_record_tells_who_decided_what_and_why() {
    let server = RealServer::start(&Model::obedient());
    let program = Program::new("grep -q stakpak__remove && { echo 'not on a Friday'; exit 1; }; exit 0");
    let run = server.sortie(["run", "-o", "json", "--approve-with", &program.command, "a=create b=remove"]).run();
    assert!(run.stderr.contains("not on a Friday"), "{}", run.stderr);
    let record = run.exits(0).record();
    let decisions = &record["decisions"];
    assert_eq!(decisions[0]["tool_call_id"], "a", "{record:#}");
    assert_eq!(decisions[0]["verdict"], "accept", "{record:#}");
    assert_eq!(decisions[1]["verdict"], "reject", "{record:#}");
    assert_eq!(decisions[1]["by"], "program", "{record:#}");
    assert!(field(&decisions[1], "reason").contains("not on a Friday"), "{record:#}");
}

#[test]
fn a_tool_that_is_not_on_the_list_is_rejected_and_the_rest_goes_on() {
    let server = RealServer::start(&Model::obedient());
    for batch in ["a=view b=create", "b=create a=view", "a=view b=create c=remove / d=view"] {
        let run = server.sortie(["run", "-o", "json", "-t", "view", batch]).run();
        let record = run.exits(0).record();
        assert_eq!(record["text"], "done", "{batch}: {record:#}");
        assert_eq!(server.tool_result("a"), NO_TOOLS, "{batch}");
        assert_ne!(server.tool_result("b"), NO_TOOLS, "{batch}");
    }
}

#[test]
fn a_tool_that_is_not_on_the_list_pauses_where_asked_to() {
    let server = RealServer::start(&Model::obedient());
    let run =
        server.sortie(["run", "-o", "json", "-t", "view", "--on-approval", "pause", "a=view b=create c=view"]);
    let record = run.run().exits(10).record();
    assert_eq!(waiting(&record)[0], "b", "{record:#}");
    assert_eq!(server.run_status(field(&record, "session_id"))["run_id"], record["run_id"]);
}

#[test]
fn subagents_run_only_where_enabled() {
    let server = RealServer::start(&Model::obedient());
    let prompt = "a=dynamic_subagent_task b=slack_send_message";
    let all = ["run", "-o", "json", "-t", "dynamic_subagent_task", "-t", "slack_send_message"];
    let record = server.sortie(all).and([prompt]).run().exits(0).record();
    assert_eq!(record["tool_calls"]["rejected"], 2, "{record:#}");
    let enabled = server.sortie(all).and(["--enable-subagents", "--enable-slack-tools", prompt]);
    let record = enabled.run().exits(0).record();
    assert_eq!(record["tool_calls"]["accepted"], 2, "{record:#}");
}

#[test]
fn a_policy_program_accepts() {
    let server = RealServer::start(&Model::obedient());
    let program = Program::new("cat > seen");
    let run = server.sortie(["run", "-o", "json", "--approve-with", &program.command, "a=create"]);
    let record = run.run().exits(0).record();
    assert_eq!(record["text"], "done");
    assert_eq!(server.tool_result("a"), NO_TOOLS);
    let seen: Value = serde_json::from_str(&program.file("seen")).unwrap();
    assert_eq!(seen["session_id"], record["session_id"]);
    assert_eq!(seen["run_id"], record["run_id"]);
    assert_eq!(seen["tool_call"]["id"], "a");
    assert_eq!(seen["tool_call"]["name"], "stakpak__create");
    assert_eq!(seen["tool_call"]["arguments"]["path"], "/a");
}

#[test]
fn a_policy_program_rejects_with_a_reason_that_the_model_learns() {
    let server = RealServer::start(&Model::obedient());
    let program = Program::new("grep -q stakpak__remove && { echo 'not on a Friday'; exit 1; }; exit 0");
    let run = server.sortie(["run", "--approve-with", &program.command, "a=remove b=create c=remove"]);
    run.run().says("done\n");
    assert_eq!(server.tool_result("a"), "Tool call rejected: not on a Friday");
    assert_eq!(server.tool_result("b"), NO_TOOLS);
    assert_eq!(server.tool_result("c"), "Tool call rejected: not on a Friday");
}

#[test]
fn a_policy_program_that_pauses_or_breaks_approves_nothing() {
    let server = RealServer::start(&Model::obedient());
    for script in ["exit 10", "exit 2", "kill -9 $$"] {
        let program = Program::new(script);
        let run = server.sortie(["run", "-o", "json", "--approve-with", &program.command, "a=create"]);
        let record = run.run().exits(10).record();
        assert_eq!(waiting(&record), ["a"], "{script}: {record:#}");
    }
    let missing = server.sortie(["run", "--approve-with", "/nonexistent/policy", "a=create"]);
    assert_ne!(missing.run().code, 0);
    let told = server.requests().into_iter().filter(|line| line.ends_with("/decisions"));
    assert_eq!(told.count(), 0);
}

#[test]
fn a_policy_program_that_hangs_is_ended_with_the_deadline() {
    let server = RealServer::start(&Model::obedient());
    let program = Program::new("echo $$ > pid; sleep 300 & echo $! > child; wait");
    let run =
        server.sortie(["run", "-o", "json", "--timeout", "6s", "--approve-with", &program.command, "a=create"]);
    let record = run.run().fails("timeout");
    assert_eq!(record["cancel_confirmed"], true, "{record:#}");
    server.wait_until_idle(field(&record, "session_id"));
    for process in ["pid", "child"] {
        let path = format!("/proc/{}/stat", program.file(process).trim());
        real_server::eventually("the program to be gone", || {
            // A process that ended and that nobody waited for yet is a zombie, which is gone enough.
            let stat = fs::read_to_string(&path).unwrap_or_else(|_| ") Z".to_owned());
            stat.contains(") Z").then_some(())
        });
    }
}

#[test]
fn a_tool_that_failed_fails_the_run_on_request() {
    let server = RealServer::start(&Model::obedient());
    let run = server.sortie(["run", "-o", "json", "--fail-on-tool-error", "a=view"]).run();
    let record = run.fails("tool_error");
    assert_eq!(record["stop_reason"], "completed");
    assert_eq!(record["text"], "done");
    assert_eq!(record["tool_calls"]["failed"], 1);
    let run = server.sortie(["run", "--fail-on-tool-error", "go"]).run();
    run.says("done\n");
}
