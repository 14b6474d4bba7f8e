//! `--approve-with`: a policy as a program. Whatever is not a clear yes or no pauses, and nothing of it outlives us.

use crate::support::PATIENCE;
use crate::support::agent::{Agent, Call, Decision, Effect, Policy, Route, RunHandle, TOKEN, call};
use crate::support::process::{Running, Sortie};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

fn command(agent: &Agent, program: &str) -> Sortie {
    agent.sortie(["run", "-o", "json", "--approve-with", program, "go"])
}

/// A run whose calls this program decides.
fn start(agent: &Agent, program: &str, calls: impl IntoIterator<Item = Call>) -> (Running, RunHandle) {
    let running = command(agent, program).spawn();
    let run = agent.next_run();
    run.propose(calls);
    (running, run)
}

/// What became of the one call `a`, each on a server of its own, all at the same time.
#[track_caller]
fn each(
    programs: &[&'static str],
    calls: impl Fn() -> Vec<Call>,
    look: impl Fn(&str, Vec<(String, Decision, Effect)>),
) {
    let started: Vec<_> = programs
        .iter()
        .map(|program| {
            let agent = Agent::start();
            let (running, run) = start(&agent, program, calls());
            (*program, agent, running, run)
        })
        .collect();
    for (program, agent, running, run) in started {
        run.wait_until_thinking();
        run.complete();
        running.wait().code(0).within(Duration::from_secs(25));
        look(program, run.decisions());
        drop(agent);
    }
}

fn one() -> Vec<Call> {
    vec![call("a", "create")]
}

fn applied(id: &str, decision: Decision) -> (String, Decision, Effect) {
    (id.to_owned(), decision, Effect::Applied)
}

/// The reason that the model is told of the one rejection.
#[track_caller]
fn reason(decisions: &[(String, Decision, Effect)]) -> &str {
    match decisions {
        [(id, Decision::Custom(reason), Effect::Applied)] if id == "a" => reason,
        other => panic!("not one rejection with a reason: {other:?}"),
    }
}

/// A pipe with a name, to wait for a program and to make it wait.
struct Fifo(PathBuf);

impl Fifo {
    fn new(command: &Sortie, name: &str) -> Self {
        let path = command.path(name);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        Self(path)
    }

    /// Waits until a program reads from it; what is handed out makes it wait until it is dropped.
    #[track_caller]
    fn hold(&self) -> File {
        let path = self.0.clone();
        let opened = in_background(move || File::options().write(true).open(path).unwrap());
        opened.recv_timeout(PATIENCE).expect("a program that reads from the pipe")
    }

    /// What programs write into it, line by line, until the last of them that has it open is gone.
    fn lines(&self) -> Receiver<String> {
        let path = self.0.clone();
        let (sender, lines) = channel();
        thread::spawn(move || {
            let file = File::open(path).unwrap();
            BufReader::new(file).lines().map_while(Result::ok).all(|line| sender.send(line).is_ok())
        });
        lines
    }
}

fn in_background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (sender, receiver) = channel();
    thread::spawn(move || sender.send(work()));
    receiver
}

/// The pids that a program told of in one line.
#[track_caller]
fn pids(lines: &Receiver<String>) -> Vec<Pid> {
    let line = lines.recv_timeout(PATIENCE).expect("a line with pids");
    line.split(' ').map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect()
}

/// Asserts that these processes are gone, or are about to: a signal takes a moment.
#[track_caller]
fn are_gone(pids: &[Pid]) {
    let end = Instant::now() + PATIENCE;
    for pid in pids {
        while is_alive(*pid) {
            assert!(Instant::now() < end, "the process {pid:?} is still there");
            thread::yield_now();
        }
    }
}

/// One that only waits to be reaped by whoever adopted it is dead.
fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.as_raw_nonzero().to_string()).join("stat"));
    let is_zombie =
        stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X'])));
    test_kill_process(pid).is_ok() && !is_zombie
}

/// It tells of itself and of a child, and never ends; both hold the pipe.
const SLOW: &str = "exec 3>alive; sleep 1000 & echo \"$$ $!\" >&3; wait";

#[test]
fn exit_0_accepts_and_exit_1_rejects() {
    each(&["exit 0", "echo yes, do; exit 0"], one, |program, decisions| {
        assert_eq!(decisions, [applied("a", Decision::Accept)], "{program}");
    });
    each(&["exit 1", "echo; exit 1"], one, |program, decisions| {
        assert_eq!(decisions, [applied("a", Decision::Reject)], "{program}");
    });
}

#[test]
fn a_rejections_reason_reaches_the_model() {
    // The server drops the content of a plain rejection (protocol trap 9): it goes as the call's result.
    each(&["echo 'not on Fridays'; exit 1"], one, |_, decisions| {
        assert!(reason(&decisions).ends_with("not on Fridays"), "{decisions:?}");
    });
    each(&[r"printf '\n  first, é\nsecond\n\n'; echo aside >&2; exit 1"], one, |_, decisions| {
        assert!(reason(&decisions).ends_with("first, é\nsecond"), "{decisions:?}");
    });
    each(&[r"printf 'caf\351 closed'; exit 1"], one, |_, decisions| {
        assert!(reason(&decisions).ends_with("closed"), "{decisions:?}");
    });
}

#[test]
fn the_reason_is_in_the_session_messages() {
    let agent = Agent::start();
    let (running, run) = start(&agent, "echo 'not on Fridays'; exit 1", one());
    run.text("Then not.");
    run.complete();
    let record = running.wait().code(0).stderr_has("rejects call a: not on Fridays").record();
    let body = agent.only_request(Route::Decide).json();
    assert_eq!(body["decisions"]["a"]["action"], "custom_result");
    assert!(body["decisions"]["a"]["content"].as_str().unwrap().contains("not on Fridays"), "{body}");
    assert_eq!(record["tool_calls"], json!({ "proposed": 1, "accepted": 0, "rejected": 1, "failed": 0 }));
}

#[test]
fn exit_10_and_every_other_end_of_the_program_pause() {
    let verdicts = [
        ("exit 10", ""),
        ("exit 2", "exit status: 2"),
        ("exit 3", "exit status: 3"),
        ("exit 11", "exit status: 11"),
        ("exit 255", "exit status: 255"),
        ("kill -KILL $$", "signal: 9"),
        ("kill -TERM $$", "signal: 15"),
        ("kill -SEGV $$", "signal: 11"),
        ("./no-such-program", "exit status: 127"),
        ("no-such-program-anywhere", "exit status: 127"),
        ("/", "exit status: 126"),
        ("( ", "exit status: 2"),
    ];
    let started = verdicts.map(|(program, why)| {
        let agent = Agent::start();
        let (running, run) = start(&agent, program, [call("a", "create"), call("b", "view")]);
        (program, why, agent, running, run)
    });
    for (program, why, agent, running, run) in started {
        let output = running.wait().code(10).stderr_has(why);
        if !why.is_empty() {
            assert!(output.stderr.contains("--approve-with"), "{program} is explained: {output:#?}");
        }
        let calls = &output.record()["pause_reason"]["pending_tool_calls"];
        assert_eq!((&calls[0]["id"], &calls[1]["id"]), (&json!("a"), &json!("b")), "{program}");
        assert_eq!(run.decisions(), [], "{program}");
        assert!(!run.is_cancelled() && !run.is_over(), "{program}");
        drop(agent);
    }
}

#[test]
fn the_program_gets_one_json_object_for_each_call() {
    let agent = Agent::start();
    let arguments = json!({ "path": "/tmp/é \"x\"", "content": "one\ntwo\u{1b}", "deep": [1, null, { "k": 2.5 }] });
    let calls = [call("a", "create").with(arguments.clone()), call("b", "view").with(json!({}))];
    let (running, run) = start(&agent, "cat >> questions; echo >> questions", calls);
    run.complete();
    let output = running.wait().code(0);
    let asked = fs::read_to_string(output.home().join("questions")).unwrap();
    let asked: Vec<Value> =
        asked.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect();
    let (session, run_id) = (run.session.to_string(), run.id.to_string());
    let question = |id: &str, name: &str, arguments: &Value| {
        let call = json!({ "id": id, "name": name, "arguments": arguments });
        json!({ "session_id": session, "run_id": run_id, "tool_call": call })
    };
    let expected = [question("a", "stakpak__create", &arguments), question("b", "stakpak__view", &json!({}))];
    assert_eq!(asked, expected);
}

#[test]
fn the_program_decides_every_call_and_the_server_gets_one_request() {
    let agent = Agent::with_policy(Policy::All);
    let program = r#"case $(cat) in *'"id":"b"'*) echo 'not b'; exit 1;; esac"#;
    let (running, run) = start(&agent, program, [call("a", "view"), call("b", "create"), call("c", "remove")]);
    run.complete();
    running.wait().code(0).stderr_has("replace the server's policy");
    assert_eq!(agent.only_request(Route::Send).json()["overrides"]["auto_approve"], "none");
    let decisions = agent.only_request(Route::Decide).json()["decisions"].clone();
    assert_eq!(decisions["a"], json!({ "action": "accept" }));
    assert_eq!(decisions["b"]["action"], "custom_result");
    assert_eq!(decisions["c"], json!({ "action": "accept" }));
}

#[test]
fn a_pause_by_the_program_leaves_the_earlier_calls_decided() {
    let agent = Agent::start();
    let program = r#"case $(cat) in *'"id":"b"'*) exit 10;; esac"#;
    let (running, run) =
        start(&agent, program, [call("a", "create").held(), call("b", "create"), call("c", "view")]);
    run.finish_tool("a", "written", false);
    let record = running.wait().code(10).record();
    let calls = &record["pause_reason"]["pending_tool_calls"];
    assert_eq!((&calls[0]["id"], &calls[1]["id"]), (&json!("b"), &json!("c")));
    assert_eq!(run.decisions(), [applied("a", Decision::Accept)]);
}

#[test]
fn the_program_is_not_asked_about_calls_that_the_lists_decide() {
    let agent = Agent::start();
    let command = command(&agent, "cat >> questions; exit 0");
    let flags = ["-t", "create", "-t", "dynamic_subagent_task", "--deny-tool", "remove"];
    let running = command.args(flags).spawn();
    let run = agent.next_run();
    run.propose([call("a", "create"), call("b", "remove"), call("c", "view"), call("d", "dynamic_subagent_task")]);
    run.complete();
    let output = running.wait().code(0);
    let asked = fs::read_to_string(output.home().join("questions")).unwrap();
    assert_eq!(asked.matches("tool_call").count(), 1, "{asked}");
    assert!(asked.contains("stakpak__create"), "{asked}");
    let decisions = run.decisions();
    for (id, flag) in [("b", "--deny-tool"), ("c", "--allow-tool"), ("d", "--enable-subagents")] {
        let told = decisions.iter().find(|(known, ..)| known == id);
        assert!(matches!(told, Some((_, Decision::Custom(why), _)) if why.contains(flag)), "{id}: {decisions:?}");
    }
}

#[test]
fn the_program_never_sees_the_token() {
    let agent = Agent::start();
    let running = command(&agent, "env > environment; exit 0").env("MARKER", "there").spawn();
    let run = agent.next_run();
    run.propose(one());
    run.complete();
    let output = running.wait().code(0);
    let environment = fs::read_to_string(output.home().join("environment")).unwrap();
    assert!(environment.contains("MARKER=there"), "{environment}");
    assert!(!environment.contains(TOKEN), "{environment}");
}

#[test]
fn the_programs_stderr_is_shown_and_its_stdout_is_not() {
    let agent = Agent::start();
    let program = "echo 'looking it up' >&2; echo inwardly; exit 0";
    let running = agent.sortie(["run", "--approve-with", program, "go"]).spawn();
    let run = agent.next_run();
    run.propose(one());
    run.text("Done.");
    run.complete();
    running.wait().code(0).stdout("Done.\n").stderr_has("looking it up\n").stderr_lacks("inwardly");
}

#[test]
fn the_program_need_not_read_its_stdin() {
    // More than a pipe holds.
    let large = || vec![call("a", "create").with(json!({ "content": "x".repeat(300_000) }))];
    each(&["exit 0", "exec <&-; exit 0", "cat >/dev/null; exit 0"], large, |program, decisions| {
        assert_eq!(decisions, [applied("a", Decision::Accept)], "{program}");
    });
}

/// A shell's own `printf`, more than a pipe holds: what kills the writer kills the program.
const TALKATIVE: &str = "i=0; while [ $i -lt 2000 ]; do printf 'word %0100d\\n' $i; i=$((i+1)); done";

#[test]
fn the_program_may_write_more_than_a_pipe_holds() {
    let talkative = TALKATIVE.to_owned();
    let programs: Vec<&'static str> = ["exit 1", "exit 0"]
        .iter()
        .map(|end| &*Box::leak(format!("{talkative}; {end}").into_boxed_str()))
        .chain(["head -c 300000 /dev/zero | tr '\\0' x; exit 1"])
        .collect();
    each(&programs[..1], one, |_, decisions| {
        assert!(reason(&decisions).contains("word 000"), "{decisions:?}");
    });
    each(&programs[1..2], one, |_, decisions| {
        assert_eq!(decisions, [applied("a", Decision::Accept)]);
    });
    each(&programs[2..], one, |_, decisions| {
        assert!(reason(&decisions).ends_with("xxxx"), "{decisions:?}");
    });
}

#[test]
fn a_child_of_the_program_that_keeps_stdout_open_does_not_block() {
    for (end, expected) in [("exit 0", None), ("echo no; exit 1", Some("no"))] {
        let agent = Agent::start();
        let command = command(&agent, &format!("sleep 1000 2>/dev/null & echo $! > alive; {end}"));
        let alive = Fifo::new(&command, "alive");
        let told = alive.lines();
        let running = command.spawn();
        let run = agent.next_run();
        run.propose(one());
        let left_behind = pids(&told);
        run.complete();
        let output = running.wait().code(0).within(Duration::from_secs(20));
        // It was the program's, not ours, once the program had exited; here it is the test's.
        for pid in left_behind {
            let _ = kill_process(pid, Signal::KILL);
        }
        drop(output);
        match expected {
            None => assert_eq!(run.decisions(), [applied("a", Decision::Accept)]),
            Some(why) => assert!(reason(&run.decisions()).ends_with(why)),
        }
    }
}

#[test]
fn a_child_of_the_program_that_keeps_writing_does_not_block() {
    let talk = "(while :; do printf . || exit; sleep 0.02; done) 2>/dev/null & echo no; exit 1";
    each(&[talk], one, |_, decisions| {
        assert!(reason(&decisions).contains("no"), "{decisions:?}");
    });
}

#[test]
fn the_deadline_kills_the_program_and_its_children() {
    let agent = Agent::start();
    let command = command(&agent, SLOW).args(["--timeout", "3s"]);
    let alive = Fifo::new(&command, "alive");
    let told = alive.lines();
    let running = command.spawn();
    let run = agent.next_run();
    run.propose(one());
    let pids = pids(&told);
    assert!(pids.iter().all(|pid| is_alive(*pid)), "{pids:?}");
    let record = running.wait().within(Duration::from_secs(15)).fails("timeout");
    assert_eq!(record["cancel_confirmed"], true);
    assert!(told.recv_timeout(PATIENCE).is_err(), "whoever held the pipe is gone");
    are_gone(&pids);
    assert!(run.is_over());
    assert_eq!(run.decisions(), []);
}

#[test]
fn a_signal_kills_the_program_and_its_children() {
    let agent = Agent::start();
    // One that does not want to end.
    let command = command(&agent, &format!("trap '' INT TERM HUP; {SLOW}"));
    let alive = Fifo::new(&command, "alive");
    let told = alive.lines();
    let running = command.spawn();
    let run = agent.next_run();
    run.propose(one());
    let pids = pids(&told);
    running.signal(Signal::TERM);
    let record = running.wait().within(Duration::from_secs(15)).fails("interrupted");
    assert_eq!(record["cancel_confirmed"], true);
    assert!(told.recv_timeout(PATIENCE).is_err(), "whoever held the pipe is gone");
    are_gone(&pids);
    assert!(run.is_over());
}

#[test]
fn with_no_cancel_a_run_left_during_the_program_stays_pending_in_the_record() {
    let agent = Agent::start();
    let command = command(&agent, SLOW).args(["--timeout", "3s", "--no-cancel"]);
    let alive = Fifo::new(&command, "alive");
    let told = alive.lines();
    let running = command.spawn();
    let run = agent.next_run();
    run.propose([call("a", "create"), call("b", "view")]);
    let pids = pids(&told);
    let record = running.wait().within(Duration::from_secs(15)).stderr_has("still waiting").fails("timeout");
    let calls = &record["pause_reason"]["pending_tool_calls"];
    assert_eq!((&calls[0]["id"], &calls[1]["id"]), (&json!("a"), &json!("b")), "{record:#}");
    are_gone(&pids);
    assert!(!run.is_cancelled() && !run.is_over());
}

#[test]
fn a_call_decided_elsewhere_during_the_program_is_not_decided_again() {
    let agent = Agent::start();
    let command = command(&agent, r#"case $(cat) in *'"id":"a"'*) cat gate >/dev/null;; esac; exit 0"#);
    let gate = Fifo::new(&command, "gate");
    let running = command.spawn();
    let run = agent.next_run();
    run.propose([call("a", "create"), call("b", "create")]);
    let thinking = gate.hold();
    run.decide([("a", Decision::Accept)]);
    run.wait_until_waiting_at("b");
    drop(thinking);
    // A decision about a call that is over kills the run (protocol trap 2).
    run.wait_until_thinking();
    run.complete();
    running.wait().code(0);
    assert_eq!(run.decisions(), [applied("a", Decision::Accept), applied("b", Decision::Accept)]);
}

#[test]
fn a_call_started_elsewhere_during_the_program_is_not_decided_again() {
    let agent = Agent::start();
    let command = command(&agent, r#"case $(cat) in *'"id":"a"'*) cat gate >/dev/null;; esac; exit 0"#);
    let gate = Fifo::new(&command, "gate");
    let running = command.spawn();
    let run = agent.next_run();
    run.propose([call("a", "create").held(), call("b", "create").held()]);
    let thinking = gate.hold();
    run.decide([("a", Decision::Accept)]);
    run.wait_until_running("a");
    drop(thinking);
    // While `a` runs a decision about `b` would be lost (protocol trap 3), and have to be sent again.
    run.finish_tool("a", "written", false);
    run.finish_tool("b", "written", false);
    run.complete();
    running.wait().code(0);
    let decisions = run.decisions();
    assert_eq!(decisions.iter().filter(|(id, ..)| id == "a").count(), 1, "{decisions:?}");
}

#[test]
fn a_run_that_ends_during_the_program_has_its_own_end() {
    let agent = Agent::start();
    let command = command(&agent, "cat gate >/dev/null; exit 0");
    let gate = Fifo::new(&command, "gate");
    let running = command.spawn();
    let run = agent.next_run();
    run.propose(one());
    let thinking = gate.hold();
    run.end("cancelled");
    drop(thinking);
    let record = running.wait().fails("cancelled");
    assert_eq!(record["stop_reason"], "cancelled");
    assert!(!agent.requests(Route::Decide).iter().any(|request| request.json()["run_id"] != run.id.to_string()));
}

#[test]
fn the_program_decides_for_resume_and_attach_too() {
    let started = ["resume", "attach"].map(|name| {
        let agent = Agent::start();
        let run = agent.begin_run(agent.session());
        run.propose([call("a", "view"), call("b", "create")]);
        run.wait_until_waiting_at("b");
        let program = "cat >> questions; exit 0";
        let running = agent.sortie([name, &run.session.to_string(), "--approve-with", program]).spawn();
        (agent, run, running)
    });
    for (agent, run, running) in started {
        run.wait_until_thinking();
        run.propose([call("c", "create")]);
        run.complete();
        let output = running.wait().code(0);
        assert_eq!(run.decisions(), [applied("b", Decision::Accept), applied("c", Decision::Accept)]);
        // The server's own policy stands: it does not ask about `a`.
        let asked = fs::read_to_string(output.home().join("questions")).unwrap();
        assert_eq!(asked.matches("tool_call").count(), 2, "{asked}");
        drop(agent);
    }
}

#[test]
fn an_empty_program_is_refused_before_anything_is_sent() {
    let agent = Agent::out_of_bounds();
    for program in ["", "  "] {
        command(&agent, program).run().stderr_has("--approve-with").fails("usage");
    }
}
