//! The programs that send signals to the commands they run. Each sends more than one, or sends them to a whole group.

use crate::support::PATIENCE;
use crate::support::agent::{Agent, RunHandle, call};
use crate::support::process::{Running, result_file};
use crate::{closing_line, descendants, each, ended_well, is_root, is_there, wait_for_file};
use rustix::process::{Signal, kill_process};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A run in mid-tool, started by a script that has sortie's command line in `"$@"`.
fn start(script: &str) -> (Agent, Running, RunHandle) {
    let agent = Agent::start();
    let command = agent.sortie(["run", "-o", "json", "--result-file", "result.json", "go"]);
    let running = command.in_shell(script).spawn();
    let run = agent.next_run();
    run.propose([call("a", "view").held()]);
    agent.wait_for_streams(1);
    (agent, running, run)
}

/// The run is cancelled and the record in the result file says so, whatever became of the program that ran sortie.
#[track_caller]
fn was_cancelled(home: &Path, run: &RunHandle) {
    let record = result_file(&home.join("result.json"), 1);
    assert_eq!(record["reason"], "interrupted", "{record:#}");
    assert_eq!(record["cancel_confirmed"], true, "{record:#}");
    assert!(run.is_over());
}

/// Keeps the processors busy until it is dropped.
struct Load(Vec<Child>);

impl Load {
    fn of(count: usize) -> Self {
        let busy = || Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().unwrap();
        Self((0..count).map(|_| busy()).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn timeout_under_load() {
    // It signals its child, and then its group, in which the child is.
    let _load = Load::of(4);
    each(0..24, |trial| {
        let agent = Agent::start();
        let command = agent.sortie(["run", "-o", "json", "--result-file", "result.json", "go"]);
        let running = command.in_shell(r#"timeout 3 "$@"; code=$?; [ $code = 124 ] && exit 1; exit $code"#).spawn();
        let run = agent.next_run();
        run.propose([call("a", "view").held()]);
        let output = running.wait();
        let record = ended_well(&output, 1);
        assert_eq!(record["reason"], "interrupted", "trial {trial}");
        assert_eq!(record["cancel_confirmed"], true, "trial {trial}: {}", output.stderr);
        assert!(run.is_over(), "trial {trial}");
    });
}

#[test]
fn make_passes_on_what_its_group_got_too() {
    assert!(is_there("make"), "install make");
    each([Signal::INT, Signal::TERM, Signal::HUP, Signal::TERM, Signal::INT, Signal::HUP], |signal| {
        let script = r#"printf 'go:\n\t@exec %s\n' "$*" >Makefile; exec setsid make go"#;
        let (_agent, running, run) = start(script);
        let home = running.home().to_owned();
        running.signal_group(signal);
        let output = running.wait_for_any_end(PATIENCE);
        assert!(output.stdout.contains(r#""type":"result""#), "{output:?}");
        closing_line(&output.stderr);
        was_cancelled(&home, &run);
    });
}

#[test]
fn runuser_signals_and_then_kills_after_two_seconds() {
    if !is_root() {
        println!("runuser needs root");
        return;
    }
    each(0..6, |_| {
        let (_agent, running, run) = start(r#"exec setsid runuser -u root -- "$@""#);
        let home = running.home().to_owned();
        running.signal_group(Signal::TERM);
        let output = running.wait_for_any_end(PATIENCE);
        closing_line(&output.stderr);
        was_cancelled(&home, &run);
    });
}

#[test]
fn gnu_parallel_and_ctrl_c() {
    assert!(is_there("parallel"), "install GNU parallel");
    each(0..4, |_| {
        let agent = Agent::start();
        let script = r#"
            mkdir .parallel && touch .parallel/will-cite
            exec setsid parallel -j 2 --termseq TERM,200,TERM,5000,KILL,25 "$@" --result-file {}.json {} ::: first second"#;
        let running = agent.sortie(["run", "-o", "json"]).in_shell(script).spawn();
        let runs = [agent.next_run(), agent.next_run()];
        for run in &runs {
            run.propose([call("a", "view").held()]);
        }
        agent.wait_for_streams(2);
        let home = running.home().to_owned();
        // Its jobs are in groups of their own: they get SIGTERM from it, and again 200 ms later. By itself it kills them
        // 150 ms after that, which a busy machine may not leave us.
        running.signal_group(Signal::INT);
        let _output = running.wait_for_any_end(PATIENCE);
        for (name, run) in ["first", "second"].iter().zip(&runs) {
            run.wait_until_over();
            let path = home.join(format!("{name}.json"));
            wait_for_file(&path);
            let record = result_file(&path, 1);
            assert_eq!((&record["reason"], &record["cancel_confirmed"]), (&"interrupted".into(), &true.into()));
        }
    });
}

#[test]
fn a_terminal_that_closes_under_bash() {
    // The kernel hangs up on bash and its job, and bash hangs up on its jobs.
    assert!(is_there("script") && is_there("bash"), "install script and bash");
    each(0..6, |_| {
        let agent = Agent::start();
        let command = agent.sortie(["run", "--result-file", "result.json", "go"]);
        command.file("type", "{ echo \"$*\"; exec sleep 1000; } | script -q -c 'bash --norc -i' log");
        let running = command.in_shell(r#"exec setsid sh ./type "$@""#).spawn();
        let run = agent.next_run();
        run.propose([call("a", "view").held()]);
        agent.wait_for_streams(1);
        let home = running.home().to_owned();
        // The terminal's other side is gone with it.
        running.signal_group(Signal::KILL);
        run.wait_until_over();
        wait_for_file(&home.join("result.json"));
        was_cancelled(&home, &run);
        drop(running);
    });
}

/// Signals the process and all that it has started.
fn signal_descendants(running: &Running, signal: Signal) {
    for pid in descendants(running.pid()) {
        let _ = kill_process(pid, signal);
    }
}

#[test]
fn nohup_setsid_and_xargs() {
    // nohup: a hang-up is ignored, and SIGTERM ends as ever.
    let (_agent, running, run) = start(r#"exec nohup "$@""#);
    running.signal(Signal::HUP);
    running.signal(Signal::TERM);
    let output = running.wait();
    assert!(
        output.stderr.contains("SIGTERM: cancelling") && !output.stderr.contains("SIGHUP"),
        "{}",
        output.stderr
    );
    assert_eq!(ended_well(&output, 1)["cancel_confirmed"], true);
    assert!(run.is_over());
    // setsid: no terminal to read from or to be ended by.
    let (_agent, running, run) = start(r#"exec setsid "$@""#);
    running.signal_group(Signal::INT);
    assert_eq!(ended_well(&running.wait(), 1)["cancel_confirmed"], true);
    assert!(run.is_over());
    // xargs waits for its command, which the group's signal reaches too.
    let (_agent, running, run) = start(r#"printf 'one\n' | exec setsid xargs -I{} "$@""#);
    let home = running.home().to_owned();
    signal_descendants(&running, Signal::TERM);
    let output = running.wait_for_any_end(PATIENCE);
    closing_line(&output.stderr);
    was_cancelled(&home, &run);
}

#[test]
fn a_shells_background_job_ignores_ctrl_c() {
    // SIGINT was ignored when it was started, and stays so.
    let agent = Agent::start();
    let command = agent.sortie(["run", "go"]).in_shell(r#""$@" & echo $! >pid; wait $!"#);
    let running = command.spawn();
    let run = agent.next_run();
    run.text("Still ");
    running.wait_for_stdout("Still");
    signal_descendants(&running, Signal::INT);
    run.text("here.");
    running.wait_for_stdout("here.");
    run.complete();
    running.wait().code(0).stdout("Still here.\n");
}
