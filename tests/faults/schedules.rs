//! The stream breaks, loses, doubles and swaps events, the server forgets, is started again or fails without a word:
//! every word of the agent comes out once, and what nobody can know is said.

use crate::support::agent::{Agent, Effect, Fault, Gate, Options, Policy, Route, RunHandle, TOKEN, call};
use crate::support::http::Ending;
use crate::support::let_pass;
use crate::support::process::{Running, result_file};
use crate::support::story;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const ENDINGS: [Ending; 3] = [Ending::Clean, Ending::Cut, Ending::Reset];

/// A run whose record comes out.
fn start(agent: &Agent, arguments: &[&str]) -> Running {
    agent.sortie(["run", "-o", "json"]).args(arguments.iter().copied()).arg("go").spawn()
}

/// A server whose runs look and find, in sixteen events, before the client subscribes.
fn two_turns(options: Options) -> Agent {
    let agent = Agent::with(options);
    agent.script(|run| {
        run.text("I look.");
        run.propose([call("a", "view")]);
        run.text("Found it.");
        run.complete();
    });
    agent
}

const TWO_TURNS: &str = "I look.\nFound it.\n";

#[test]
fn random_schedules_of_faults_change_nothing() {
    // Forty of them, or the one that was reported. The soak plays a thousand.
    let seed = std::env::var("SORTIE_SEED").ok().map(|seed| seed.parse::<u64>().expect("a number"));
    let (first, last) = seed.map_or((0, 39), |seed| (seed, seed));
    let next = AtomicU64::new(first);
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > last {
                        break;
                    }
                    story::play(seed);
                }
            });
        }
    });
}

#[test]
fn each_break_is_one_reconnect_and_one_line() {
    for ending in ENDINGS {
        let agent = Agent::start();
        let running = agent.sortie(["run", "go"]).spawn();
        let run = agent.next_run();
        for (streams, piece) in ["one, ", "two, ", "three."].into_iter().enumerate() {
            agent.wait_for_streams(streams + 1);
            run.text(piece);
            running.wait_for_stdout(piece);
            agent.drop_streams(ending);
        }
        agent.wait_for(Route::Session, 3);
        run.complete();
        let output = running.wait().code(0).stdout("one, two, three.\n");
        assert_eq!(output.stderr.matches("reconnecting").count(), 3, "{ending:?}: {}", output.stderr);
        assert_eq!(agent.streams_opened(), 4, "{ending:?}: {}", output.stderr);
    }
}

#[test]
fn a_reconnect_that_only_makes_sure_is_a_line_too() {
    let agent = Agent::start();
    let running = agent.sortie(["run", "go"]).spawn();
    let run = agent.next_run();
    agent.wait_for_streams(1);
    run.fail_silently();
    agent.drop_streams(Ending::Cut);
    let output = running.wait().code(1);
    assert_eq!(output.stderr.matches("reconnecting").count(), agent.streams_opened() - 1, "{}", output.stderr);
}

#[test]
fn a_server_that_is_away_for_a_while_is_waited_for() {
    let agent = Agent::start();
    let running = agent.sortie(["run", "go"]).spawn();
    let run = agent.next_run();
    run.text("Before, ");
    running.wait_for_stdout("Before");
    agent.down();
    agent.wait_for_refusals(3);
    run.text("meanwhile ");
    agent.up();
    agent.wait_for_streams(2);
    run.text("and after.");
    run.complete();
    running.wait().code(0).stdout("Before, meanwhile and after.\n");
}

#[test]
fn a_hundred_breaks_leave_no_descriptor_and_no_thread_behind() {
    let agent = Agent::start();
    let running = agent.sortie(["run", "-q", "go"]).spawn();
    let run = agent.next_run();
    let mut said = String::new();
    let mut early = (0, 0);
    for round in 0..100 {
        agent.wait_for_streams(round + 1);
        let piece = format!("{round}, ");
        run.text(&piece);
        said.push_str(&piece);
        running.wait_for_stdout(&said);
        if round == 10 {
            early = running.descriptors_and_threads();
        }
        let now = running.descriptors_and_threads();
        // A connection or a call may be about to end.
        assert!(round <= 10 || now.0 <= early.0 + 2 && now.1 <= early.1 + 3, "{early:?}, later {now:?}");
        agent.drop_streams(ENDINGS[round % 3]);
    }
    run.complete();
    running.wait().code(0).stdout(&format!("{said}\n"));
}

// Events that are missing, double or in the wrong order.

#[test]
fn missing_and_swapped_events_come_once_and_in_order() {
    for fault in [
        Fault::none().skip(3),
        Fault::none().skip(6).skip(7),
        Fault::none().delay(3, 4),
        Fault::none().delay(5, 12),
        Fault::none().delay(2, 9).delay(10, 11).repeat(6).repeat(12),
        Fault::none().skip(1).repeat(2),
    ] {
        let agent = two_turns(Options::default());
        agent.spoil_stream(fault);
        let output = agent.sortie(["run", "-o", "stream-json", "go"]).run().code(0);
        assert_eq!(output.record()["text"], TWO_TURNS.trim_end());
        let lines: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let ids: Vec<u64> = lines.iter().filter_map(|line| line["id"].as_u64()).collect();
        assert_eq!(ids, (1..=16).collect::<Vec<_>>(), "{}", output.stderr);
    }
}

#[test]
fn an_event_that_never_comes_costs_no_word() {
    // Any but the last one: that one is the run's end.
    let runs: Vec<_> = (1..16)
        .map(|missing| {
            let agent = two_turns(Options::default());
            agent.spoil_streams(Fault::none().skip(missing));
            let running = agent.sortie(["run", "--result-file", "result.json", "go"]).spawn();
            (agent, running)
        })
        .collect();
    for (_agent, running) in runs {
        let output = running.wait().code(0).stdout(TWO_TURNS);
        let record = result_file(&output.home().join("result.json"), 0);
        assert_eq!(record["text"], TWO_TURNS.trim_end());
        assert_eq!(record["agent_message"], "Found it.");
        assert_eq!(record["turns"], 2);
    }
}

/// What the model says and does, step by step, and what has been printed after each.
const STEPS: [(fn(&RunHandle), &str); 7] = [
    (|_| (), ""),
    (|run| run.text("I "), "I "),
    (|run| run.text("look.\n"), "I look.\n"),
    (|run| run.propose([call("a", "view")]), "I look.\n"),
    (|run| run.text("Found "), "I look.\nFound "),
    (|run| run.text("it."), "I look.\nFound it."),
    (|run| run.propose([call("b", "view")]), "I look.\nFound it."),
];

/// Breaks the stream; until the gate is opened, the client hears nothing.
fn stop_listening(agent: &Agent) -> Gate {
    let gate = agent.next(Route::Events).hold();
    agent.drop_streams(Ending::Cut);
    gate.wait_until_reached();
    gate
}

/// Lets it hear so many steps, and the rest happen while nobody listens.
fn overtake(agent: &Agent, running: &Running, run: &RunHandle, heard: usize, rest: impl FnOnce()) {
    agent.wait_for_streams(1);
    for (step, _) in &STEPS[..=heard] {
        step(run);
    }
    if !STEPS[heard].1.is_empty() {
        running.wait_for_stdout(STEPS[heard].1);
    }
    let gate = stop_listening(agent);
    for (step, _) in &STEPS[heard + 1..] {
        step(run);
    }
    rest();
    gate.open();
}

#[test]
fn text_that_has_left_the_ring_is_taken_from_the_messages_wherever_it_was_lost() {
    for events_kept in [2, 3, 5, 8] {
        let runs: Vec<_> = (0..STEPS.len())
            .map(|heard| {
                let agent = Agent::with(Options { events_kept, ..Options::default() });
                let running = agent.sortie(["run", "--result-file", "result.json", "go"]).spawn();
                let run = agent.next_run();
                overtake(&agent, &running, &run, heard, || {
                    run.text("Done.");
                    run.complete();
                });
                (agent, running, heard)
            })
            .collect();
        for (_agent, running, heard) in runs {
            let output = running.wait().code(0).stdout("I look.\nFound it.\nDone.\n");
            let record = result_file(&output.home().join("result.json"), 0);
            assert_eq!(record["text"], "I look.\nFound it.\nDone.", "{heard} heard, {events_kept} kept");
            assert_eq!(record["agent_message"], "Done.", "{heard} heard, {events_kept} kept");
        }
    }
}

#[test]
fn a_run_that_outran_the_ring_before_we_came_is_told_in_full() {
    for events_kept in [1, 2, 4, 8, 15] {
        let agent = two_turns(Options { events_kept, ..Options::default() });
        agent.sortie(["run", "go"]).run().code(0).stdout(TWO_TURNS);
    }
}

#[test]
fn a_call_whose_proposal_has_left_the_ring_is_decided_all_the_same() {
    for policy in [Policy::None, Policy::usual()] {
        let agent = Agent::with(Options { events_kept: 2, policy, ..Options::default() });
        let running = agent.sortie(["run", "go"]).spawn();
        let run = agent.next_run();
        agent.wait_for_streams(1);
        run.text("I write.");
        running.wait_for_stdout("I write.");
        let gate = stop_listening(&agent);
        run.propose([call("a", "create")]);
        run.write_messages();
        gate.open();
        run.wait_until_thinking();
        run.text("Done.");
        run.complete();
        running.wait().code(0).stdout("I write.\nDone.\n");
        let effects: Vec<Effect> = run.decisions().into_iter().map(|(.., effect)| effect).collect();
        assert_eq!(effects, [Effect::Applied]);
    }
}

#[test]
fn after_a_gap_a_call_that_the_server_ran_by_itself_is_not_decided() {
    // The results of the calls that are over stand in the messages, and those are written down only every five seconds.
    let agent = Agent::with(Options { events_kept: 2, ..Options::default() });
    let running = agent.sortie(["run", "go"]).spawn();
    let run = agent.next_run();
    agent.wait_for_streams(1);
    run.text("I write.");
    running.wait_for_stdout("I write.");
    let gate = stop_listening(&agent);
    run.propose([call("a", "view"), call("b", "create")]);
    // The end of `a` is in the ring, and then not even that.
    run.emit("HologramShown", &[]);
    run.emit("HologramShown", &[]);
    gate.open();
    agent.wait_for(Route::Messages, 1);
    run.write_messages();
    run.wait_until_thinking();
    run.complete();
    running.wait().code(0).stdout("I write.\n");
    let decided: Vec<(String, Effect)> = run.decisions().into_iter().map(|(id, _, effect)| (id, effect)).collect();
    assert_eq!(decided, [("b".to_owned(), Effect::Applied)]);
}

#[test]
fn lost_text_is_waited_for_until_the_messages_are_written_down() {
    let agent = Agent::with(Options { events_kept: 2, ..Options::default() });
    agent.lag();
    let running = agent.sortie(["run", "go"]).spawn();
    let run = agent.next_run();
    agent.wait_for_streams(1);
    run.text("I look.");
    running.wait_for_stdout("I look.");
    let gate = stop_listening(&agent);
    run.propose([call("a", "view")]);
    run.text("Found it.");
    run.complete();
    gate.open();
    // Asked after each of two reconnects, and then until the run's end is written down (protocol trap 8).
    agent.wait_for(Route::Session, 4);
    agent.catch_up();
    running.wait().code(0).stdout("I look.\nFound it.\n").stderr_lacks("may be missing");
}

// Text that was heard stays in the record, though the messages do not have it (yet).

/// A run that has said one thing before a gap and another after it, both heard.
fn gapped(agent: &Agent, running: &Running) -> RunHandle {
    let run = agent.next_run();
    agent.wait_for_streams(1);
    run.text("I look.");
    running.wait_for_stdout("I look.");
    let gate = stop_listening(agent);
    run.propose([call("a", "view")]);
    gate.open();
    // The gap, and what the server still has.
    agent.wait_for_streams(3);
    run
}

#[test]
fn what_was_heard_before_a_gap_and_a_restart_stays_in_the_record() {
    let agent = Agent::with(Options { events_kept: 2, ..Options::default() });
    let running = agent.sortie(["run", "--result-file", "result.json", "go"]).spawn();
    gapped(&agent, &running);
    agent.restart();
    let output = running.wait().code(1).stdout("I look.\n").stderr_has("may be missing");
    let record = result_file(&output.home().join("result.json"), 1);
    assert_eq!(record["reason"], "lost");
    assert_eq!(record["text"], "I look.", "{}", output.stderr);
}

#[test]
fn what_was_heard_before_a_gap_and_a_pause_stays_in_the_record() {
    let agent = Agent::with(Options { events_kept: 2, ..Options::default() });
    let running = agent.sortie(["run", "--pause-on-approval", "--result-file", "result.json", "go"]).spawn();
    let run = gapped(&agent, &running);
    run.text("I write.");
    run.propose([call("b", "create")]);
    let output = running.wait().code(10);
    let record = result_file(&output.home().join("result.json"), 10);
    let text = record["text"].as_str().unwrap();
    assert!(text.starts_with("I look."), "what was printed is in the record: {record:#}\n{}", output.stdout);
    assert!(text.contains("I write."), "and what came after the gap: {record:#}\n{}", output.stdout);
    assert!(output.stdout.starts_with("I look."), "{}", output.stdout);
}

#[test]
fn what_was_heard_before_a_gap_and_a_time_out_stays_in_the_record() {
    let agent = Agent::with(Options { events_kept: 2, ..Options::default() });
    let running = agent.sortie(["run", "--timeout", "3s", "--result-file", "result.json", "go"]).spawn();
    gapped(&agent, &running);
    let output = running.wait().code(1);
    let record = result_file(&output.home().join("result.json"), 1);
    assert_eq!(record["reason"], "timeout");
    assert_eq!(record["cancel_confirmed"], false, "the model thinks");
    assert_eq!(record["text"], "I look.", "{}", output.stderr);
}

// A server that forgets.

#[test]
fn a_restart_loses_the_run_but_not_what_it_said() {
    let agent = Agent::with(Options { keepalive: Duration::from_secs(1), ..Options::default() });
    let running = agent.sortie(["run", "--result-file", "result.json", "go"]).spawn();
    let run = agent.next_run();
    run.text("I look.");
    run.propose([call("a", "view")]);
    run.text("So far");
    running.wait_for_stdout("So far");
    // A younger run's restart cannot be told from the server's whole seconds.
    let_pass(Duration::from_secs(3));
    agent.restart();
    let output = running.wait().within(Duration::from_secs(15)).code(1).stdout("I look.\nSo far\n");
    let record = result_file(&output.home().join("result.json"), 1);
    assert_eq!(record["reason"], "lost");
    assert_eq!(record["text"], "I look.\nSo far");
    assert_eq!(record["retryable"], true);
    assert_eq!(record["tool_calls"], json!({ "proposed": 1, "accepted": 1, "rejected": 0, "failed": 0 }));
}

#[test]
fn after_a_restart_another_run_in_the_session_is_not_taken_for_ours() {
    for ids in ["fewer events", "more events"] {
        let agent = Agent::start();
        let running = start(&agent, &[]);
        let run = agent.next_run();
        run.text("Ours.");
        running.wait_for_stderr("run ");
        agent.wait_for_streams(1);
        agent.down();
        agent.restart();
        let other = agent.begin_run(run.session);
        if ids == "more events" {
            (0..20).for_each(|_| other.text("Not ours. "));
        }
        other.complete();
        let record = running.wait().fails("lost");
        let text = record["text"].as_str().unwrap_or_default();
        assert!(!text.contains("Not"), "{ids}: {record:#}");
        assert_eq!(record["stop_reason"], Value::Null, "{ids}");
        assert!(!other.is_cancelled(), "{ids}");
    }
}

#[test]
fn a_restart_with_another_token_is_an_auth_failure_that_claims_nothing() {
    let agent = Agent::start();
    let running = agent.sortie(["run", "--result-file", "result.json", "go"]).spawn();
    let run = agent.next_run();
    run.text("So far");
    running.wait_for_stdout("So far");
    agent.restart_with_token("another");
    let output = running.wait().within(Duration::from_secs(10)).code(1).stdout("So far\n").stderr_lacks(TOKEN);
    let record = result_file(&output.home().join("result.json"), 1);
    assert_eq!(record["reason"], "auth");
    assert_eq!(record["text"], "So far");
    assert_eq!(record["retryable"], false);
    assert_ne!(record["cancel_confirmed"], true, "nobody could ask");
}

#[test]
fn a_session_that_is_gone_in_mid_run_is_lost() {
    let agent = Agent::start();
    let running = start(&agent, &[]);
    agent.next_run().text("So far");
    agent.wait_for_streams(1);
    agent.every(Route::Session).fail(404, "not_found");
    agent.drop_streams(Ending::Cut);
    // It is asked for again for 5 s, and then a cancel is tried.
    let record = running.wait().within(Duration::from_secs(20)).fails("lost");
    assert_eq!(record["text"], "So far");
    assert_eq!(record["retryable"], false);
}

#[test]
fn what_no_event_tells_is_found_out_within_17_seconds() {
    let begin = || {
        let agent = Agent::start();
        let running = start(&agent, &[]);
        let run = agent.next_run();
        run.text("So far");
        agent.wait_for_streams(1);
        (agent, running, run)
    };
    // Protocol trap 7.
    let silent = begin();
    silent.2.fail_silently();
    // The same, while the session's state lags behind (trap 8).
    let lagging = begin();
    lagging.0.lag();
    lagging.2.fail_silently();
    lagging.0.drop_streams(Ending::Cut);
    lagging.0.wait_for(Route::Session, 1);
    lagging.0.catch_up();
    // The end was published, but this stream does not have it (trap 11).
    let agent = two_turns(Options::default());
    agent.spoil_stream(Fault::none().skip(16));
    let unheard = (start(&agent, &[]), agent);
    // Nor has any other.
    let agent = two_turns(Options::default());
    agent.spoil_streams(Fault::none().skip(16));
    let never = (start(&agent, &[]), agent);

    let bound = Duration::from_secs(21);
    for (_agent, running, _) in [silent, lagging] {
        let record = running.wait().within(bound).fails("run_error");
        assert_eq!(record["text"], "So far");
        assert_eq!(record["retryable"], true);
    }
    let record = unheard.0.wait().within(bound).code(0).record();
    assert_eq!(record["text"], TWO_TURNS.trim_end());
    let record = never.0.wait().within(bound).fails("lost");
    assert_eq!(record["text"], TWO_TURNS.trim_end());
}

#[test]
fn a_state_that_lags_behind_the_end_misleads_nobody() {
    for lagging in [false, true] {
        let agent = Agent::start();
        if lagging {
            agent.lag();
        }
        let running = start(&agent, &[]);
        let run = agent.next_run();
        run.text("All");
        running.wait_for_stderr("run ");
        agent.wait_for_streams(1);
        // It hears of the state before it hears of the end.
        let gate = agent.next(Route::Events).hold();
        agent.drop_streams(Ending::Reset);
        gate.wait_until_reached();
        run.text(" said.");
        run.complete();
        gate.open();
        let record = running.wait().within(Duration::from_secs(8)).code(0).record();
        assert_eq!(record["text"], "All said.", "lagging: {lagging}");
    }
}

#[test]
fn a_session_whose_last_run_has_only_just_ended_takes_the_message_in_the_end() {
    let agent = Agent::start();
    agent.lag();
    let old = agent.begin_run(agent.session());
    old.complete();
    let running = start(&agent, &["--session", &old.session.to_string()]);
    agent.wait_for(Route::Send, 2);
    agent.catch_up();
    let run = agent.next_run();
    run.text("Taken.");
    run.complete();
    let record = running.wait().code(0).record();
    assert_eq!(record["text"], "Taken.");
    let keys: Vec<_> =
        agent.requests(Route::Send).iter().map(|send| send.header("idempotency-key").map(str::to_owned)).collect();
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

// A server that stays away.

#[test]
fn a_server_that_comes_back_in_time_for_the_cancel_is_told_to_stop_the_run() {
    let agent = Agent::start();
    let running = start(&agent, &["--retry-timeout", "1s"]);
    let run = agent.next_run();
    run.propose([call("a", "view").held()]);
    agent.wait_for_streams(1);
    agent.down();
    running.wait_for_stderr("cancel the run");
    agent.up();
    let record = running.wait().within(Duration::from_secs(12)).fails("connection");
    assert!(run.is_cancelled());
    assert_eq!(record["cancel_confirmed"], true);
    assert_eq!(record["retryable"], true);
}

#[test]
fn a_server_that_stays_away_is_not_said_to_have_stopped_the_run() {
    let agent = Agent::start();
    let arguments = ["run", "--result-file", "result.json", "--retry-timeout", "1s", "go"];
    let running = agent.sortie(arguments).spawn();
    agent.next_run().text("So far");
    running.wait_for_stdout("So far");
    agent.down();
    let output = running.wait().within(Duration::from_secs(10)).code(1).stderr_has("may still be going on");
    let record = result_file(&output.home().join("result.json"), 1);
    assert_eq!(record["reason"], "connection");
    assert_eq!(record["cancel_confirmed"], false);
    assert_eq!(record["retryable"], false);
    assert_eq!(record["text"], "So far");
}

#[test]
fn a_quiet_run_whose_stream_breaks_is_tried_again_though_the_retry_time_out_is_short() {
    // The connection stood until now: the time without contact begins with the break.
    let agent = Agent::start();
    let running = agent.sortie(["run", "--retry-timeout", "2s", "--heartbeat", "3s", "go"]).spawn();
    let run = agent.next_run();
    agent.wait_for_streams(1);
    running.wait_for_stderr("the run goes on");
    agent.next(Route::Events).lose_request(Ending::Cut);
    agent.drop_streams(Ending::Cut);
    run.wait_until_thinking();
    run.text("Still there.");
    run.complete();
    running.wait().code(0).stdout("Still there.\n");
}

#[test]
fn a_stream_on_which_not_even_comments_come_is_opened_anew() {
    let agent = Agent::with(Options { keepalive: Duration::from_secs(3600), ..Options::default() });
    let running = agent.sortie(["run", "go"]).spawn();
    let run = agent.next_run();
    run.text("Still ");
    // It is asked about after 15 s and after 30 s; after 45 s the connection is given up.
    agent.wait_for(Route::Session, 1);
    agent.wait_for(Route::Session, 2);
    agent.wait_for_streams(2);
    run.text("there.");
    run.complete();
    running.wait().code(0).stdout("Still there.\n").stderr_has("nothing heard for 45 s");
}
