//! It always ends: whatever does not answer, is not read, drips or hangs, each end comes within a second of its bound, and
//! within five more where a run is to be stopped.

use crate::support::agent::{Agent, Options, Planning, Route, call};
use crate::support::http::{Connection, Ending};
use crate::support::process::{Output, Running, Sortie, result_file};
use crate::support::watched::Watched;
use crate::support::wire::{Exchange, Wire, answer};
use rustix::process::Signal;
use serde_json::Value;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
/// The most that stopping a run may take.
const STOP: Duration = Duration::from_secs(5);
/// A busy machine may start a process late.
const LATE: Duration = Duration::from_secs(2);

fn start(agent: &Agent, arguments: &[&str]) -> Running {
    agent.sortie(["run", "-o", "json"]).args(arguments.iter().copied()).arg("go").spawn()
}

/// Ended by `--timeout 1s`, with a run to stop or without one.
#[track_caller]
fn timed_out(output: Output, stop: Duration) -> Value {
    assert!(output.elapsed >= SECOND, "{output:#?}");
    output.within(SECOND + SECOND + stop + LATE).fails("timeout")
}

// Servers that do not answer.

/// The calls that a run with one decision makes, in this order, and how each is kept from being answered.
const CALLS: [(Route, &str); 8] = [
    (Route::CreateSession, "unheard"),
    (Route::CreateSession, "unanswered"),
    (Route::Send, "unheard"),
    (Route::Send, "unanswered"),
    (Route::Events, "unheard"),
    (Route::Config, "unheard"),
    (Route::Decide, "unheard"),
    (Route::Decide, "unanswered"),
];

fn hold(planning: Planning<'_>, how: &str) -> crate::support::agent::Gate {
    if how == "unheard" { planning.hold() } else { planning.hold_answer() }
}

#[test]
fn a_call_that_is_not_answered_ends_with_the_deadline() {
    let runs = CALLS.map(|(route, how)| {
        let agent = Agent::start();
        agent.script(|run| run.propose([call("a", "create").held()]));
        let gate = hold(agent.next(route), how);
        let running = start(&agent, &["--timeout", "1s"]);
        gate.wait_until_reached();
        (agent, running, gate, route, how)
    });
    for (agent, running, _gate, route, how) in runs {
        let record = timed_out(running.wait(), STOP);
        if agent.runs_begun() > 0 {
            assert_eq!(record["cancel_confirmed"], true, "{route:?} {how}: {record:#}");
        }
    }
}

#[test]
fn a_call_that_is_not_answered_ends_with_a_signal() {
    let runs = CALLS.map(|(route, how)| {
        let agent = Agent::start();
        agent.script(|run| run.propose([call("a", "create").held()]));
        let gate = hold(agent.next(route), how);
        let running = start(&agent, &[]);
        gate.wait_until_reached();
        running.signal(Signal::TERM);
        (agent, running, gate, route, how, Instant::now())
    });
    for (agent, running, _gate, route, how, signalled) in runs {
        let record = running.wait().fails("interrupted");
        assert!(signalled.elapsed() < SECOND + STOP + LATE, "{route:?} {how}: {:?}", signalled.elapsed());
        if agent.runs_begun() > 0 {
            assert_eq!(record["cancel_confirmed"], true, "{route:?} {how}: {record:#}");
        }
    }
}

#[test]
fn the_states_question_that_is_not_answered_ends_with_the_deadline() {
    let agent = Agent::start();
    let gate = agent.next(Route::Session).hold();
    let running = start(&agent, &["--timeout", "2s"]);
    let run = agent.next_run();
    run.propose([call("a", "view").held()]);
    agent.wait_for_streams(1);
    agent.drop_streams(Ending::Cut);
    gate.wait_until_reached();
    let record = running.wait().within(3 * SECOND + STOP + LATE).fails("timeout");
    assert_eq!(record["cancel_confirmed"], true, "{record:#}");
}

#[test]
fn a_stop_that_is_not_answered_ends_five_seconds_later() {
    let runs = [
        (Route::Cancel, "unheard", true),
        (Route::Cancel, "unanswered", true),
        // The terminal event tells, without the state.
        (Route::Session, "unheard", true),
        (Route::Session, "unheard", false),
    ]
    .map(|(route, how, has_stream)| {
        let agent = Agent::start();
        let gate = hold(agent.every(route), how);
        let running = start(&agent, &["--timeout", "1s"]);
        agent.next_run().propose([call("a", "view").held()]);
        agent.wait_for_streams(1);
        let streams = (!has_stream).then(|| {
            let streams = agent.every(Route::Events).hold();
            agent.drop_streams(Ending::Cut);
            streams
        });
        (agent, running, route == Route::Session && has_stream, gate, streams)
    });
    for (_agent, running, is_told, _gate, _streams) in runs {
        let output = running.wait();
        let error = output.stderr.clone();
        let record = timed_out(output, STOP);
        assert_eq!(record["cancel_confirmed"], is_told, "{record:#}\n{error}");
        assert_eq!(record["retryable"], is_told, "{record:#}\n{error}");
    }
}

#[test]
fn lost_text_that_is_not_to_be_had_does_not_hold_up_the_end() {
    let agent = Agent::with(Options { events_kept: 2, ..Options::default() });
    let gate = agent.every(Route::Messages).hold();
    let running = start(&agent, &["--timeout", "2s"]);
    let run = agent.next_run();
    agent.wait_for_streams(1);
    run.text("I look.");
    let reconnect = agent.next(Route::Events).hold();
    agent.drop_streams(Ending::Cut);
    reconnect.wait_until_reached();
    run.propose([call("a", "view"), call("b", "view").held()]);
    reconnect.open();
    gate.wait_until_reached();
    let record = running.wait().within(3 * SECOND + STOP + LATE).fails("timeout");
    assert_eq!(record["cancel_confirmed"], true, "{record:#}");
}

#[test]
fn a_server_that_never_answers_is_without_contact() {
    let wire = Wire::serve(|exchange| exchange.connection.wait_for_close());
    let output = wire.sortie(["run", "-o", "json", "--retry-timeout", "2s", "--timeout", "12s", "go"]).run();
    let record = output.within(3 * SECOND + LATE).fails("connection");
    assert_eq!(record["retryable"], true);
}

#[test]
fn a_server_that_falls_silent_in_mid_run_is_without_contact() {
    let agent = Agent::start();
    let running = start(&agent, &["--retry-timeout", "2s", "--timeout", "12s"]);
    let run = agent.next_run();
    run.text("So far");
    agent.wait_for_streams(1);
    // Any answer of the server would be contact.
    let gates = [Route::Events, Route::Session, Route::Health].map(|route| agent.every(route).hold());
    agent.drop_streams(Ending::Cut);
    gates[0].wait_until_reached();
    running.wait().within(3 * SECOND + STOP + LATE).fails("connection");
    assert!(run.is_cancelled());
}

#[test]
fn a_cancelled_run_whose_stream_is_gone_is_asked_about_a_few_times_a_second() {
    let agent = Agent::start();
    let running = start(&agent, &[]);
    let run = agent.next_run();
    run.text("So far");
    agent.wait_for_streams(1);
    agent.every(Route::Events).lose_request(Ending::Cut);
    agent.drop_streams(Ending::Cut);
    running.signal(Signal::TERM);
    let record = running.wait().fails("interrupted");
    assert_eq!(record["cancel_confirmed"], false, "the model does not answer: {record:#}");
    let asked = agent.requests(Route::Session).len();
    assert!((10..60).contains(&asked), "asked {asked} times in 5 s");
}

#[test]
fn a_stream_that_is_opened_again_tells_the_end_of_a_run_whose_sandbox_is_torn_down() {
    let agent = Agent::start();
    let running = start(&agent, &[]);
    let run = agent.next_run();
    run.give_sandbox();
    run.propose([call("a", "view").held()]);
    run.wait_until_running("a");
    agent.wait_for_streams(1);
    agent.every(Route::Events).lose_request(Ending::Cut);
    agent.drop_streams(Ending::Cut);
    running.signal(Signal::TERM);
    run.wait_until_over();
    agent.behave();
    let record = running.wait().fails("interrupted");
    assert_eq!(record["cancel_confirmed"], true, "{record:#}");
    assert_eq!(record["stop_reason"], "cancelled", "{record:#}");
}

// Hosts that cannot be reached.

/// A listener whose queue is full: a connect to it hangs. It lasts as long as this does.
fn full_listener() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port on loopback");
    let address = listener.local_addr().expect("an address");
    let queued = (0..20_000).map_while(|_| TcpStream::connect_timeout(&address, SECOND / 2).ok()).collect();
    (address, listener, queued)
}

#[test]
fn a_connect_that_hangs_ends_with_its_bounds() {
    let (address, _listener, queued) = full_listener();
    assert!(queued.len() < 20_000, "the queue has no end");
    let server = format!("http://{address}");
    let start = |arguments: &[&str]| {
        Sortie::new(["run", "-o", "json", "--server", &server]).args(arguments.iter().copied()).arg("go").spawn()
    };
    let timed = start(&["--timeout", "1s"]);
    let bounded = start(&["--connect-timeout", "1s", "--retry-timeout", "1s"]);
    let signalled = start(&[]);
    signalled.wait_for_stderr("creating a session");
    signalled.signal(Signal::INT);
    signalled.wait().within(SECOND + LATE).fails("interrupted");
    timed_out(timed.wait(), Duration::ZERO);
    let record = bounded.wait().within(3 * SECOND + LATE).stderr_has("--connect-timeout").fails("connection");
    assert_eq!(record["retryable"], true);
}

/// A library in whose presence no name look-up ever comes back, as with a name server that is cut off.
fn hanging_resolver(folder: &Path) -> String {
    let (source, library) = (folder.join("resolver.rs"), folder.join("resolver.so"));
    let code = "#[unsafe(no_mangle)]\npub extern \"C\" fn getaddrinfo() -> i32 {\n    loop {\n        \
                std::thread::park();\n    }\n}\n";
    std::fs::write(&source, code).expect("write a file");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut compile = Command::new(rustc);
    compile.args(["--crate-type", "cdylib", "--edition", "2024", "-o"]).arg(&library).arg(&source);
    assert!(compile.status().expect("rustc").success(), "{compile:?}");
    library.into_os_string().into_string().expect("a path in UTF-8")
}

#[test]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn a_name_look_up_that_hangs_ends_with_its_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let library = hanging_resolver(folder.path());
    let start = |arguments: &[&str]| {
        let sortie = Sortie::new(["run", "-o", "json", "--server", "http://agents.example"]);
        sortie.args(arguments.iter().copied()).arg("go").env("LD_PRELOAD", &library).spawn()
    };
    let timed = start(&["--timeout", "1s"]);
    let bounded = start(&["--connect-timeout", "1s", "--retry-timeout", "1s"]);
    let signalled = start(&[]);
    signalled.wait_for_stderr("creating a session");
    signalled.signal(Signal::TERM);
    signalled.wait().within(SECOND + LATE).fails("interrupted");
    timed_out(timed.wait(), Duration::ZERO);
    bounded.wait().within(3 * SECOND + LATE).stderr_has("name").fails("connection");
}

// Servers that drip.

/// Writes a byte now and then until the client has gone.
fn drip(connection: &mut Connection, bytes: impl Iterator<Item = u8>) {
    let never = Watched::new(());
    for byte in bytes {
        if !connection.write(&[byte]) {
            break;
        }
        never.wait(Duration::from_millis(20), |()| None::<()>);
    }
}

fn endless(start: &'static [u8], rest: u8) -> impl Iterator<Item = u8> {
    start.iter().copied().chain(std::iter::repeat(rest))
}

#[test]
fn a_head_that_drips_ends_with_the_deadline() {
    for path in ["/sessions", "/messages", "/events"] {
        let (session, run) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
        let wire = Wire::serve(move |mut exchange: Exchange| {
            if exchange.request.path.ends_with(path) {
                drip(&mut exchange.connection, endless(b"HTTP/1.1 200 OK\r\nx-slow: ", b'a'));
            } else {
                answer(exchange, session, run);
            }
        });
        let output = wire.sortie(["run", "-o", "json", "--timeout", "1s", "go"]).run();
        timed_out(output, STOP);
    }
}

#[test]
fn a_body_that_drips_ends_with_the_deadline() {
    for (path, head) in [
        ("/sessions", &b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\n\r\n{\"id\":\""[..]),
        ("/messages", b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{\"run_id\":\""),
        ("/events", b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: "),
        ("/events", b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nid: 1\ndata: {\""),
    ] {
        let (session, run) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
        let wire = Wire::serve(move |mut exchange: Exchange| {
            if exchange.request.path.ends_with(path) {
                exchange.connection.write(head);
                drip(&mut exchange.connection, std::iter::repeat(b'a'));
            } else {
                answer(exchange, session, run);
            }
        });
        let output = wire.sortie(["run", "-o", "json", "--timeout", "1s", "go"]).run();
        timed_out(output, STOP);
    }
}

#[test]
fn an_error_page_that_never_ends_ends_with_the_retry_timeout() {
    for (path, drips) in [("/events", true), ("/events", false), ("/sessions", true), ("/sessions", false)] {
        let (session, run) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
        let wire = Wire::serve(move |mut exchange: Exchange| {
            if exchange.request.path.ends_with(path) {
                exchange
                    .connection
                    .write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 100000\r\n\r\nbusy");
                if drips {
                    drip(&mut exchange.connection, std::iter::repeat(b'.'));
                } else {
                    exchange.connection.wait_for_close();
                }
            } else {
                answer(exchange, session, run);
            }
        });
        let output = wire.sortie(["run", "-o", "json", "--retry-timeout", "1s", "--timeout", "20s", "go"]).run();
        output.within(3 * SECOND + STOP + LATE).fails("server");
    }
}

// The idle time-out.

#[test]
fn comments_are_no_events_for_the_idle_time_out() {
    let agent = Agent::with(Options { keepalive: Duration::from_millis(100), ..Options::default() });
    let running = start(&agent, &["--idle-timeout", "1s"]);
    agent.next_run().propose([call("a", "view").held()]);
    let record = running.wait().within(2 * SECOND + LATE).fails("idle_timeout");
    assert_eq!(record["cancel_confirmed"], true);
    assert_eq!(record["timed_out"], true);
}

#[test]
fn a_stream_that_drips_is_idle() {
    let (session, run) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    let wire = Wire::serve(move |mut exchange: Exchange| {
        if exchange.is("GET", "/events") {
            exchange.connection.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nid: 1\ndata: ");
            drip(&mut exchange.connection, std::iter::repeat(b'a'));
        } else {
            answer(exchange, session, run);
        }
    });
    let output = wire.sortie(["run", "-o", "json", "--idle-timeout", "1s", "go"]).run();
    output.within(2 * SECOND + STOP + LATE).fails("idle_timeout");
}

#[test]
fn the_idle_time_out_counts_while_the_server_is_away() {
    let agent = Agent::start();
    let running = start(&agent, &["--idle-timeout", "2s", "--retry-timeout", "12s"]);
    agent.next_run().text("So far");
    agent.wait_for_streams(1);
    agent.down();
    let record = running.wait().within(3 * SECOND + STOP + LATE).fails("idle_timeout");
    assert_ne!(record["cancel_confirmed"], true);
    assert_eq!(record["retryable"], false);
}

// Readers that do not read.

const LINE: &str = "All work and no play makes Jack a dull boy.\n";

#[test]
fn a_stdout_that_nobody_reads_ends_with_the_deadline() {
    for format in ["text", "stream-json", "json", "final"] {
        let agent = Agent::start();
        let arguments = ["run", "-o", format, "--timeout", "2s", "--result-file", "result.json", "go"];
        let running = agent.sortie(arguments).with_unread_stdout().spawn();
        let run = agent.next_run();
        // More than a pipe holds.
        run.text(&LINE.repeat(10_000));
        run.propose([call("a", "view").held()]);
        let output = running.wait().code(1).within(3 * SECOND + STOP + LATE);
        let record = result_file(&output.home().join("result.json"), 1);
        assert_eq!(record["reason"], "timeout", "{format}: {record:#}");
        assert_eq!(record["cancel_confirmed"], true, "{format}");
        assert_eq!(record["text"], LINE.repeat(10_000), "{format}");
        assert!(run.is_over());
    }
}

#[test]
fn a_stdout_that_nobody_reads_ends_with_a_signal() {
    let agent = Agent::start();
    let running = agent.sortie(["run", "--result-file", "result.json", "go"]).with_unread_stdout().spawn();
    let run = agent.next_run();
    run.text(&LINE.repeat(10_000));
    run.propose([call("a", "view").held()]);
    agent.wait_for_streams(1);
    running.signal(Signal::TERM);
    let signalled = Instant::now();
    let output = running.wait().code(1);
    assert!(signalled.elapsed() < SECOND + STOP + LATE, "{output:#?}");
    let record = result_file(&output.home().join("result.json"), 1);
    assert_eq!(record["reason"], "interrupted");
    assert_eq!(record["cancel_confirmed"], true);
}

#[test]
fn a_record_that_nobody_reads_ends_with_the_deadline() {
    // The run has completed; what is left is to say so.
    let agent = Agent::answering(&LINE.repeat(10_000));
    let arguments = ["run", "-o", "json", "--timeout", "2s", "--result-file", "result.json", "go"];
    let output = agent.sortie(arguments).with_unread_stdout().spawn().wait().code(1).within(4 * SECOND + LATE);
    let record = result_file(&output.home().join("result.json"), 1);
    assert_eq!(record["reason"], "output", "the agent's answer has not gone out");
    assert_eq!(record["stop_reason"], "completed");
}

#[test]
fn a_stderr_that_nobody_reads_ends_with_the_deadline() {
    let agent = Agent::start();
    let arguments = ["run", "--timeout", "2s", "--result-file", "result.json", "go"];
    // Its own reader, so that the pipe never breaks.
    let running = agent.sortie(arguments).in_shell("mkfifo err && exec \"$@\" 2<>err").spawn();
    let run = agent.next_run();
    // Two lines for each.
    run.propose((0..1_000).map(|index| call(&format!("call_{index}"), "view").failing()));
    run.text("Done.");
    run.propose([call("last", "view").held()]);
    let output = running.wait().code(1).within(3 * SECOND + STOP + LATE);
    let record = result_file(&output.home().join("result.json"), 1);
    assert_eq!(record["reason"], "timeout");
    assert_eq!(record["cancel_confirmed"], true);
}

#[test]
fn a_stderr_and_a_stdout_that_nobody_reads_end_with_a_signal() {
    let agent = Agent::start();
    let sortie = agent.sortie(["run", "--result-file", "result.json", "go"]).with_unread_stdout();
    let running = sortie.in_shell("mkfifo err && exec \"$@\" 2<>err").spawn();
    let run = agent.next_run();
    run.text(&LINE.repeat(10_000));
    run.propose((0..1_000).map(|index| call(&format!("call_{index}"), "view").failing()));
    run.propose([call("last", "view").held()]);
    agent.wait_for_streams(1);
    running.signal(Signal::TERM);
    let signalled = Instant::now();
    let output = running.wait().code(1);
    assert!(signalled.elapsed() < SECOND + STOP + LATE, "{output:#?}");
    let record = result_file(&output.home().join("result.json"), 1);
    assert_eq!(record["reason"], "interrupted");
    assert_eq!(record["cancel_confirmed"], true);
}

#[test]
fn a_stdout_that_is_closed_from_the_start_does_not_end_the_run() {
    let agent = Agent::start();
    let sortie = agent.sortie(["run", "--result-file", "result.json", "go"]).in_shell("exec \"$@\" >&-");
    let running = sortie.spawn();
    let run = agent.next_run();
    run.text("Nobody will read this.");
    run.propose([call("a", "create")]);
    run.complete();
    let output = running.wait().code(0);
    let record = result_file(&output.home().join("result.json"), 0);
    assert_eq!(record["text"], "Nobody will read this.");
}

// A later signal.

/// Signals that follow the first within 2 s are the same one.
const AS_ONE: Duration = Duration::from_millis(2_100);

#[test]
fn a_later_signal_gives_up_the_wait_at_once_whatever_holds_us() {
    let unread = |agent: &Agent| agent.sortie(["run", "go"]).with_unread_stdout().spawn();
    let plain = |agent: &Agent| agent.sortie(["run", "go"]).spawn();
    let cases: [(&str, fn(&Agent) -> Running, &[Route]); 4] = [
        ("an unanswered cancel", plain, &[Route::Cancel]),
        ("an unanswered state", plain, &[Route::Session]),
        ("an unanswered stream", plain, &[Route::Cancel, Route::Events]),
        ("a full pipe", unread, &[Route::Cancel]),
    ];
    for (what, spawn, held) in cases {
        let agent = Agent::start();
        let gates: Vec<_> = held.iter().map(|route| agent.every(*route).hold()).collect();
        let running = spawn(&agent);
        let run = agent.next_run();
        run.text(&LINE.repeat(10_000));
        if held.contains(&Route::Events) {
            gates[1].wait_until_reached();
        } else {
            agent.wait_for_streams(1);
        }
        running.signal(Signal::INT);
        gates[0].wait_until_reached();
        // Sooner it would be part of the first.
        running.signal_after(AS_ONE, Signal::TERM);
        let signalled = Instant::now();
        running.wait().code(1);
        assert!(signalled.elapsed() < SECOND, "{what}: {:?}", signalled.elapsed());
    }
}

// Signs of life.

#[test]
fn the_first_line_comes_within_a_second() {
    let agent = Agent::start();
    let gate = agent.next(Route::CreateSession).hold();
    let began = Instant::now();
    let running = agent.sortie(["run", "go"]).spawn();
    running.wait_for_stderr("\n");
    assert!(began.elapsed() < SECOND + LATE, "{:?}", began.elapsed());
    gate.open();
    let run = agent.next_run();
    run.complete();
    running.wait().code(0).stderr_has(&run.session.to_string());
}

#[test]
fn silence_is_broken_by_a_heartbeat_unless_it_is_not_wanted() {
    let agent = Agent::start();
    let loud = agent.sortie(["run", "--heartbeat", "1s", "go"]).spawn();
    let run = agent.next_run();
    let quiet = agent.sortie(["run", "-q", "--heartbeat", "1s", "go"]).spawn();
    let other = agent.next_run();
    loud.wait_for_stderr("the run goes on: turn 1, last event 2.");
    run.complete();
    other.complete();
    let output = loud.wait().code(0);
    let beats = output.stderr.matches("the run goes on").count();
    assert!((2..=3).contains(&beats), "{}", output.stderr);
    assert_eq!(quiet.wait().code(0).stderr, "");
}

#[test]
fn no_cancel_at_a_time_out_leaves_the_run_going_and_says_how_to_attach() {
    for flags in [["--timeout", "1s"], ["--idle-timeout", "1s"]] {
        let agent = Agent::start();
        let running = start(&agent, &["--no-cancel", flags[0], flags[1]]);
        let run = agent.next_run();
        let attach = format!("sortie attach {}", run.session);
        let output = running.wait().within(2 * SECOND + LATE).stderr_has(&attach);
        let record = output.fails(if flags[0] == "--timeout" { "timeout" } else { "idle_timeout" });
        assert!(!run.is_cancelled());
        assert_eq!(record["cancel_confirmed"], Value::Null);
        assert_eq!(record["retryable"], false);
        assert!(record["resume_hint"].as_str().unwrap().starts_with(&attach), "{record:#}");
        // What it says works.
        let follower = agent.sortie(["attach", &run.session.to_string()]).spawn();
        run.text("Here.");
        run.complete();
        follower.wait().code(0).stdout("Here.\n");
    }
}
