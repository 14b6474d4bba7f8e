//! Each signal, and pairs of them close together, at every moment of a run.

use crate::support::agent::{Agent, Gate, Route, RunHandle, call};
use crate::support::process::{Output, Running, Sortie};
use crate::{each, ended_well, wait_for_file};
use rustix::net::{AddressFamily, SocketType, bind, connect, getsockname, listen, socket};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

const SIGNALS: [Signal; 9] = [
    Signal::INT,
    Signal::TERM,
    Signal::HUP,
    Signal::QUIT,
    Signal::ALARM,
    Signal::VTALARM,
    Signal::XCPU,
    Signal::USR1,
    Signal::USR2,
];

/// How far apart the signals of a pair are, in microseconds.
const GAPS: [u64; 4] = [200, 2_000, 10_000, 200_000];

/// One signal, or two.
#[derive(Clone, Copy, Debug)]
struct Signals {
    first: Signal,
    second: Option<(Duration, Signal)>,
}

impl Signals {
    /// Each signal alone, and with itself and the next one at each gap.
    fn all() -> Vec<Self> {
        let mut all: Vec<_> = SIGNALS.map(|first| Self { first, second: None }).into();
        for gap in GAPS.map(Duration::from_micros) {
            for (index, first) in SIGNALS.into_iter().enumerate() {
                for second in [first, SIGNALS[(index + 1) % SIGNALS.len()]] {
                    all.push(Self { first, second: Some((gap, second)) });
                }
            }
        }
        all
    }

    fn send(self, running: &Running) {
        running.signal(self.first);
        if let Some((gap, second)) = self.second {
            running.signal_after(gap, second);
        }
    }
}

fn command(agent: &Agent) -> Sortie {
    agent.sortie(["run", "-o", "json", "--result-file", "result.json", "go"])
}

#[track_caller]
fn interrupted(output: &Output, signals: Signals) -> Value {
    let record = ended_well(output, 1);
    assert_eq!(record["reason"], "interrupted", "{signals:?}: {}", output.stderr);
    let said = output.stderr.lines().filter(|line| line.starts_with("sortie: SIG")).count();
    assert_eq!(said, 1, "{signals:?}: one line about the signal: {}", output.stderr);
    record
}

#[track_caller]
fn cancelled(output: &Output, signals: Signals, run: &RunHandle) {
    let record = interrupted(output, signals);
    assert_eq!(record["cancel_confirmed"], true, "{signals:?}: {}", output.stderr);
    assert!(run.is_over(), "{signals:?}: {}", output.stderr);
}

/// An address whose queue of connections is full: a connect to it waits.
struct Busy {
    address: SocketAddr,
    _sockets: Vec<OwnedFd>,
}

impl Busy {
    fn new() -> Self {
        let new = || socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let listener = new();
        bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        listen(&listener, 0).unwrap();
        let address = SocketAddr::try_from(getsockname(&listener).unwrap()).unwrap();
        let mut sockets = vec![listener];
        // The first of them is taken into the queue.
        for _ in 0..2 {
            let client = new();
            rustix::io::ioctl_fionbio(&client, true).unwrap();
            let _ = connect(&client, &address);
            sockets.push(client);
        }
        Self { address, _sockets: sockets }
    }
}

#[test]
fn before_the_connect() {
    let busy = Busy::new();
    each(Signals::all(), |signals| {
        let command = Sortie::new(["run", "-o", "json", "--result-file", "result.json", "go"]);
        let running = command.env("SORTIE_SERVER", format!("http://{}", busy.address)).spawn();
        running.wait_for_stderr("creating a session");
        signals.send(&running);
        let output = running.wait().within(Duration::from_secs(15));
        let record = interrupted(&output, signals);
        assert_eq!(record["cancel_confirmed"], Value::Null, "{signals:?}");
        assert_eq!(record["session_id"], Value::Null, "{signals:?}");
    });
}

#[test]
fn in_the_post() {
    each(Signals::all(), |signals| {
        let agent = Agent::start();
        let gate = agent.next(Route::Send).hold_answer();
        let running = command(&agent).spawn();
        let run = agent.next_run();
        run.propose([call("a", "view").held()]);
        gate.wait_until_reached();
        signals.send(&running);
        cancelled(&running.wait(), signals, &run);
    });
}

#[test]
fn in_the_stream() {
    each(Signals::all(), |signals| {
        let agent = Agent::start();
        let running = command(&agent).spawn();
        let run = agent.next_run();
        run.propose([call("a", "view").held()]);
        agent.wait_for_streams(1);
        signals.send(&running);
        cancelled(&running.wait(), signals, &run);
        agent.only_request(Route::Cancel);
    });
}

/// A run whose first decision is on its way.
fn in_decision(agent: &Agent) -> (Running, RunHandle, Gate) {
    let gate = agent.next(Route::Decide).hold();
    let running = command(agent).spawn();
    let run = agent.next_run();
    run.propose([call("a", "create")]);
    gate.wait_until_reached();
    (running, run, gate)
}

#[test]
fn in_a_decision() {
    each(Signals::all(), |signals| {
        let agent = Agent::start();
        let (running, run, _gate) = in_decision(&agent);
        signals.send(&running);
        cancelled(&running.wait(), signals, &run);
        assert_eq!(run.decisions(), [], "{signals:?}");
    });
}

#[test]
fn in_a_policy_program() {
    each(Signals::all(), |signals| {
        let agent = Agent::start();
        let program = "echo asked >&2; sleep 1000";
        let running = command(&agent).args(["--approve-with", program]).spawn();
        let run = agent.next_run();
        run.propose([call("a", "create")]);
        running.wait_for_stderr("asked");
        signals.send(&running);
        cancelled(&running.wait(), signals, &run);
        assert_eq!(run.decisions(), [], "{signals:?}");
    });
}

#[test]
fn in_the_cancel() {
    each(Signals::all(), |signals| {
        let agent = Agent::start();
        let gate = agent.next(Route::Cancel).hold();
        // The cause is another one: the signals find the cancel on its way.
        let running = command(&agent).args(["--idle-timeout", "500ms"]).spawn();
        let run = agent.next_run();
        run.propose([call("a", "view").held()]);
        gate.wait_until_reached();
        signals.send(&running);
        gate.open();
        let output = running.wait();
        let record = ended_well(&output, 1);
        assert_eq!(record["reason"], "idle_timeout", "{signals:?}");
        assert_eq!(record["cancel_confirmed"], true, "{signals:?}: {}", output.stderr);
        assert!(run.is_over(), "{signals:?}");
    });
}

#[test]
fn while_writing_the_record() {
    each(Signals::all(), |signals| {
        let agent = Agent::start();
        agent.script(|run| {
            // More than a pipe holds.
            run.text(&"All work and no play. ".repeat(10_000));
            run.complete();
        });
        let mut running = command(&agent).with_unread_stdout().spawn();
        // The result file is written before stdout.
        wait_for_file(&running.home().join("result.json"));
        running.signal(signals.first);
        // Half a second after a signal, a reader that takes nothing is not waited for any more.
        running.read_stdout();
        if let Some((gap, second)) = signals.second {
            running.signal_after(gap, second);
        }
        let record = ended_well(&running.wait(), 0);
        assert_eq!(record["stop_reason"], "completed", "{signals:?}");
        assert!(agent.requests(Route::Cancel).is_empty(), "{signals:?}");
    });
}

#[test]
fn a_later_signal_in_each_phase_comes_to_the_same_end() {
    let later = Duration::from_millis(2_200);
    each([Signal::INT, Signal::TERM, Signal::USR1], |second| {
        for hold in [true, false] {
            let agent = Agent::start();
            let gate = agent.next(Route::Cancel).hold();
            let running = command(&agent).spawn();
            let run = agent.next_run();
            run.propose([call("a", "view").held()]);
            agent.wait_for_streams(1);
            running.signal(Signal::TERM);
            gate.wait_until_reached();
            if !hold {
                gate.open();
            }
            running.signal_after(later, second);
            let output = running.wait().within(Duration::from_secs(20));
            let record = ended_well(&output, 1);
            assert_eq!(record["reason"], "interrupted");
            assert_eq!(record["cancel_confirmed"], json!(!hold), "{}", output.stderr);
        }
    });
}

#[test]
fn a_process_that_is_stuck_after_a_signal_says_so_and_ends() {
    let agent = Agent::start();
    agent.script(|run| {
        run.text(&"All work and no play. ".repeat(100_000));
        run.complete();
    });
    let mut running = command(&agent).with_unread_stdout().spawn();
    wait_for_file(&running.home().join("result.json"));
    running.signal(Signal::USR1);
    // A reader that takes a little now and then: the record would take a minute.
    let mut stdout = running.take_stdout();
    while let Ok(1..) = stdout.read(&mut [0; 4096]) {
        thread::sleep(Duration::from_millis(50));
    }
    let output = running.wait().code(1).within(Duration::from_secs(25));
    // On a busy machine this reader may stop for half a second, which is told from a slow one.
    let said = ["sortie is stuck", "nobody reads it"];
    assert!(said.iter().any(|what| output.stderr.contains(what)), "{output:#?}");
}

#[test]
fn a_process_that_is_frozen_after_a_signal_ends_in_the_same_way() {
    // Time in which it was stopped is not time in which it was stuck.
    let agent = Agent::start();
    let gate = agent.next(Route::Cancel).hold();
    let running = command(&agent).spawn();
    let run = agent.next_run();
    run.propose([call("a", "view").held()]);
    agent.wait_for_streams(1);
    running.signal(Signal::TERM);
    gate.wait_until_reached();
    running.signal(Signal::STOP);
    running.signal_after(Duration::from_secs(12), Signal::CONT);
    gate.open();
    let output = running.wait();
    assert_eq!(ended_well(&output, 1)["reason"], "interrupted");
    assert!(!output.stderr.contains("stuck"), "{}", output.stderr);
    assert!(run.is_over());
}
