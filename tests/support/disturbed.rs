//! A run at random behind a gateway that does things at random, all from one seed: what the gateway does with which
//! calls, what happens to the run and when, and whether somebody interrupts the client. Whatever happens, the client
//! states only what is so.

use super::agent::{Agent, Options, Policy, Route, RunHandle, Starting, Step, call};
use super::gate::Gate;
use super::gateway::{Calls, Gateway, Page};
use super::http::Ending;
use super::let_pass;
use super::process::{Output, Running, result_file};
use super::story::{Confess, Dice};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How often the test looks whether it is time for something.
const TICK: Duration = Duration::from_millis(20);

/// What happens beside the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happening {
    Run(Step),
    DropStreams,
    BreakConnections,
    SwitchTo(usize),
    /// The gateway passes everything on unchanged from now on.
    Behave,
    Restart,
    Interrupt,
}

/// When it happens.
#[derive(Clone, Copy, Debug)]
enum When {
    /// So many calls have arrived.
    Calls(usize),
    /// So long after the client was started.
    After(Duration),
}

struct World {
    servers: [Agent; 2],
    gateway: Gateway,
    /// The runs that have begun, on either server.
    runs: Arc<Mutex<Vec<RunHandle>>>,
    /// What the gateway still holds back.
    gates: Vec<Gate>,
    /// A run that was under way when its server was restarted is gone.
    restarted: bool,
}

impl World {
    fn invent(dice: &mut Dice) -> Self {
        let policy = dice.pick(&[true, false]);
        let options = || Options {
            policy: if policy { Policy::All } else { Policy::usual() },
            keepalive: Duration::from_secs(1),
            ..Options::default()
        };
        let servers = [Agent::replica_with(options()), Agent::replica_with(options())];
        let runs = Arc::new(Mutex::new(Vec::new()));
        let first = dice.below(6);
        for server in &servers {
            if first == 0 {
                server.hold_starts(Starting::Sandbox);
            }
            let runs = Arc::clone(&runs);
            server.script(move |run| {
                runs.lock().unwrap().push(run.clone());
                match first {
                    1 => drop(run.attempt(Step::Say("At once.")) && run.attempt(Step::Complete)),
                    2 => run.propose([call("a", "view").held()]),
                    3 => run.propose([call("a", "create"), call("b", "view")]),
                    _ => {
                        run.attempt(Step::Say("I begin. "));
                    }
                }
            });
        }
        let gateway = Gateway::to_servers(servers.iter().map(Agent::address));
        let mut world = Self { servers, gateway, runs, gates: Vec::new(), restarted: false };
        for _ in 0..=dice.below(3) {
            world.disturb(dice);
        }
        world
    }

    /// Makes a rule for the gateway.
    fn disturb(&mut self, dice: &mut Dice) {
        let route = dice.pick(&[
            Route::CreateSession,
            Route::Send,
            Route::Events,
            Route::Events,
            Route::Session,
            Route::Session,
            Route::Cancel,
            Route::Cancel,
            Route::Decide,
            Route::Messages,
            Route::Health,
        ]);
        let calls = if dice.percent(30) { Calls::all() } else { Calls::of(route) };
        let first = 1 + dice.small(6);
        let calls = match dice.below(3) {
            0 => calls.number(first),
            1 => calls.from(first).up_to(first + dice.small(4)),
            _ => calls.from(first),
        };
        let planning = self.gateway.on(calls);
        match dice.below(12) {
            0..3 => planning.answer_instead(&page(dice)),
            3..5 => planning.answer_after_passing_it_on(&page(dice)),
            5 => planning.hold_until_its_end(),
            6 => planning.hold_body_until_its_end(),
            7 => planning.cut_at(dice.small(900), dice.pick(&[Ending::Cut, Ending::Reset])),
            8 => planning.hang_up(),
            9 => planning.black_hole(),
            10 => planning.send_to(1),
            _ => {
                let gate = match dice.below(3) {
                    0 => planning.delay(),
                    1 => planning.delay_body(),
                    _ => planning.hold_request(),
                };
                self.gates.push(gate);
            }
        }
    }

    fn run(&self) -> Option<RunHandle> {
        self.runs.lock().unwrap().first().cloned()
    }

    /// Makes it happen, if it can.
    fn happen(&mut self, happening: Happening, running: &Running) {
        match happening {
            Happening::Run(step) => {
                if let Some(run) = self.run().filter(|_| !self.restarted) {
                    run.attempt(step);
                }
            }
            Happening::DropStreams => {
                for server in &self.servers {
                    server.drop_streams(Ending::Cut);
                }
            }
            Happening::BreakConnections => self.gateway.break_connections(),
            Happening::SwitchTo(server) => self.gateway.switch_to(server),
            Happening::Behave => {
                self.gateway.behave();
                self.gateway.switch_to(0);
            }
            // Before the client has heard of its run, a prompt that is sent again would begin another (trap 12).
            Happening::Restart => {
                if self.servers[0].streams_opened() > 0 && !self.restarted {
                    self.servers[0].restart();
                    self.restarted = true;
                }
            }
            Happening::Interrupt => running.interrupt(Signal::TERM),
        }
    }

    /// Whether the run goes on, and how it said that it has completed.
    fn truth(&self) -> (bool, Option<String>) {
        let Some(run) = self.run() else { return (false, None) };
        let is_gone = self.restarted && self.servers[0].has_session(run.session);
        (!run.is_over() && !is_gone, run.stop_reason())
    }
}

fn page(dice: &mut Dice) -> Page {
    let status = dice.pick(&[200, 302, 400, 401, 403, 404, 404, 408, 409, 429, 499, 500, 502, 503, 504, 524, 530]);
    match dice.below(4) {
        0 => Page::json(status, &json!({ "error": "no route", "message": "nothing here" })),
        1 => Page::empty(status),
        _ => Page::html(status),
    }
}

/// What happens, in its order.
fn happenings(dice: &mut Dice) -> Vec<(When, Happening)> {
    let mut happenings = Vec::new();
    for _ in 0..2 + dice.below(5) {
        let happening = match dice.below(20) {
            0..2 => Happening::Run(Step::Say("And more. ")),
            2..6 => Happening::Run(Step::Complete),
            6 => Happening::Run(Step::Error),
            7..9 => Happening::Run(Step::FinishTool),
            9 => Happening::Run(Step::FailSilently),
            10 => Happening::Run(Step::Start),
            11..13 => Happening::DropStreams,
            13 => Happening::BreakConnections,
            14..16 => Happening::SwitchTo(dice.small(2)),
            16 => Happening::Behave,
            17 => Happening::Restart,
            _ => Happening::Interrupt,
        };
        let when = if dice.percent(50) {
            When::Calls(2 + dice.small(12))
        } else {
            When::After(Duration::from_millis(100 * dice.below(60)))
        };
        happenings.push((when, happening));
    }
    happenings
}

/// Plays what a seed says against the binary, and checks what came of it.
pub fn play(seed: u64) {
    let _confess = Confess(seed);
    let mut dice = Dice::new(seed);
    let mut world = World::invent(&mut dice);
    let mut to_come = happenings(&mut dice);
    let timeout = format!("{}s", 2 + dice.below(4));
    let retry_timeout = dice.pick(&["1s", "2s"]);
    let words =
        ["run", "--result-file", "result.json", "--timeout", &timeout, "--retry-timeout", retry_timeout, "go"];
    let began = Instant::now();
    let mut running = world.gateway.sortie(words).spawn();
    while !running.has_ended() {
        let calls = world.gateway.calls();
        // Nothing before the client has come: a signal would meet a process that is only just starting.
        let is_due = |(when, _): &mut (When, Happening)| match *when {
            When::Calls(count) => calls >= count,
            When::After(time) => calls > 0 && began.elapsed() >= time,
        };
        let due: Vec<(When, Happening)> = to_come.extract_if(.., is_due).collect();
        for (_, happening) in due {
            world.happen(happening, &running);
        }
        assert!(began.elapsed() < Duration::from_secs(60), "it does not end: {}", running.so_far());
        let_pass(TICK);
    }
    let (goes_on, stop_reason) = world.truth();
    let output = running.wait();
    check(&world, &output, goes_on, stop_reason.as_deref());
    world.gateway.behave();
}

fn check(world: &World, output: &Output, goes_on: bool, stop_reason: Option<&str>) {
    assert!([0, 1].contains(&output.code), "{output:#?}");
    let file = output.home().join("result.json");
    assert!(file.exists(), "no record; {output:#?}");
    let record = result_file(&file, output.code);
    let told = format!("the run goes on: {goes_on}, stop reason {stop_reason:?}\n{record:#}\n{}", output.stderr);
    let completed = stop_reason == Some("completed");
    assert!(output.code == 1 || completed, "exit 0 of a run that has not completed; {told}");
    assert!(record["cancel_confirmed"] != true || !goes_on, "confirmed; {told}");
    assert!(record["retryable"] != true || !goes_on && !completed, "retryable; {told}");
    assert!(record["stop_reason"].is_null() || record["stop_reason"] == stop_reason.unwrap_or("-"), "{told}");
    let begun: usize = world.servers.iter().map(Agent::runs_begun).sum();
    assert!(begun <= 1, "the prompt was taken {begun} times; {told}");
    if let Some(run) = world.run().filter(|_| !record["run_id"].is_null()) {
        assert_eq!(record["run_id"], run.id.to_string(), "{told}");
    }
    if output.code == 0 {
        let said = world.run().map(|run| run.said()).unwrap_or_default();
        assert_eq!(record["text"], Value::from(said), "{told}");
    }
}
