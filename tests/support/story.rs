//! A run at random that meets faults at random, all from one seed: what the model says and which tools it calls, what
//! becomes of the streams and of the answers, and how it ends. Whatever happens, every word comes out once, each call
//! is decided once, and the end is told as it was.

use super::agent::{Agent, Call, Effect, Fault, Options, Policy, Route, RunHandle, call};
use super::http::{Ending, Request};
use super::process::{Running, result_file};
use serde_json::{Value, json};
use std::thread;

/// Numbers at random, the same ones for the same seed (splitmix64).
pub struct Dice(u64);

impl Dice {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// The same, of a count.
    pub fn small(&mut self, bound: u64) -> usize {
        usize::try_from(self.below(bound)).expect("a small number")
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.small(among.len() as u64)]
    }

    fn ending(&mut self) -> Ending {
        self.pick(&[Ending::Clean, Ending::Cut, Ending::Reset])
    }
}

/// How the run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Completes,
    Fails,
    /// Protocol trap 7.
    FailsSilently,
    /// The server is started again.
    Restart,
}

struct Turn {
    pieces: Vec<&'static str>,
    /// None in the last turn.
    calls: Vec<Call>,
}

struct Story {
    policy: Policy,
    events_kept: usize,
    turns: Vec<Turn>,
    end: End,
}

const PIECES: [&str; 9] =
    ["Hello", " ", "日本語 ✅", "a line\n", "two\nlines", "\n", "naïve 👩🏽‍🚀", "\"q\" \\ \u{2028}\t", "…and so on. "];

impl Story {
    fn invent(dice: &mut Dice) -> Self {
        let end = dice.pick(&[
            End::Completes,
            End::Completes,
            End::Completes,
            End::Completes,
            End::Fails,
            End::FailsSilently,
            End::Restart,
        ]);
        // What has left the ring can be had from the messages only of a run that was brought to its end, and the calls
        // that wait only slowly.
        let small = end == End::Completes && dice.percent(30);
        let events_kept = if small { 3 + usize::try_from(dice.below(10)).expect("a small number") } else { 4096 };
        let policy = match dice.below(3) {
            0 if !small => Policy::usual(),
            1 if !small => Policy::None,
            _ => Policy::All,
        };
        let count = 1 + dice.below(4);
        let mut turns: Vec<Turn> = (1..=count).map(|turn| Turn::invent(dice, turn, turn == count)).collect();
        if matches!(end, End::FailsSilently | End::Restart) {
            turns[0].pieces.push("At least this. ");
        }
        Self { policy, events_kept, turns, end }
    }

    /// The text, as it must come out.
    fn text(&self) -> String {
        let mut text = String::new();
        for turn in &self.turns {
            let said = turn.pieces.concat();
            if !said.is_empty() && !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&said);
        }
        text
    }

    /// For each event that the run has, whether another follows it whatever we do: a hole at the end of what was said
    /// cannot be seen, and the server makes none there (protocol trap 11).
    fn events(&self) -> Vec<bool> {
        let mut events = vec![true];
        for (index, turn) in self.turns.iter().enumerate() {
            let last = index + 1 == self.turns.len();
            events.extend(vec![true; 1 + turn.pieces.len()]);
            match self.end {
                End::Fails if last => events.push(false),
                End::FailsSilently | End::Restart if last => *events.last_mut().expect("a turn") = false,
                _ => {
                    // The whole text, and the usage.
                    events.extend(vec![true; usize::from(!turn.pieces.is_empty()) + 1]);
                    events.extend(vec![true; if turn.calls.is_empty() { 0 } else { 2 }]);
                    for call in &turn.calls {
                        let waits = !matches!(self.policy, Policy::All) && call.name.ends_with("create");
                        *events.last_mut().expect("the proposal") &= !waits;
                        events.extend([true; 2]);
                    }
                    events.push(true);
                    if last {
                        events.push(false);
                    }
                }
            }
        }
        events
    }

    fn plan(&self, dice: &mut Dice, agent: &Agent) {
        let events = self.events();
        // What is left out twice is lost.
        let mut lost = Vec::new();
        for _ in 0..dice.below(5) {
            agent.spoil_stream(spoil(dice, &events, &mut lost));
        }
        for route in [Route::CreateSession, Route::Send, Route::Decide] {
            for _ in 0..dice.below(3) {
                let planning = agent.next(route);
                match dice.below(4) {
                    0 => planning.lose_request(dice.ending()),
                    1 => planning.lose_answer(dice.ending()),
                    2 => planning.answer(503, &[("retry-after", "0")], ""),
                    _ => planning.fail(dice.pick(&[408, 425, 429, 500, 502, 503, 504]), "for_a_while"),
                }
            }
        }
        for route in [Route::Events, Route::Session, Route::Config, Route::Messages] {
            for _ in 0..dice.below(2) {
                match dice.below(2) {
                    0 => agent.next(route).lose_request(dice.ending()),
                    _ => agent.next(route).fail(dice.pick(&[429, 500, 503]), "for_a_while"),
                }
            }
        }
    }

    /// The model and the tools do their part; now and then the connections break.
    fn tell(&self, dice: &mut Dice, agent: &Agent, running: &Running, run: &RunHandle) {
        let mut gate = None;
        let mut mishap = |dice: &mut Dice| match dice.below(100) {
            0..10 => agent.drop_streams(dice.ending()),
            10..13 => {
                agent.down();
                agent.up();
            }
            // For a while nobody listens, if nothing waits for us.
            13..25 if matches!(self.policy, Policy::All) && gate.is_none() => {
                gate = Some(agent.next(Route::Events).hold());
                agent.drop_streams(dice.ending());
            }
            13..35 => gate = None,
            _ => {}
        };
        for turn in &self.turns {
            for piece in &turn.pieces {
                run.text(piece);
                mishap(dice);
            }
            if !turn.calls.is_empty() {
                run.propose(turn.calls.clone());
                mishap(dice);
            }
        }
        drop(gate);
        match self.end {
            End::Completes => run.complete(),
            End::Fails => {
                run.wait_until_thinking();
                run.error("out of order", true);
            }
            // Before that, a server that was started again might be sent the prompt again, and a break that comes before
            // the stream does not show.
            End::FailsSilently => {
                run.wait_until_thinking();
                running.wait_for_stdout(&self.text());
                run.fail_silently();
                agent.drop_streams(dice.ending());
            }
            End::Restart => {
                run.wait_until_thinking();
                running.wait_for_stdout(&self.text());
                agent.restart();
            }
        }
    }
}

impl Turn {
    fn invent(dice: &mut Dice, turn: u64, last: bool) -> Self {
        let pieces = (0..dice.below(4)).map(|_| dice.pick(&PIECES)).collect();
        let calls = if last { 0 } else { 1 + dice.below(3) };
        let calls = (0..calls)
            .map(|index| {
                let tool = dice.pick(&["view", "create"]);
                let call = call(&format!("call_{turn}_{index}"), tool);
                if dice.percent(20) { call.failing() } else { call }
            })
            .collect();
        Self { pieces, calls }
    }
}

/// A stream's fault.
fn spoil(dice: &mut Dice, events: &[bool], lost: &mut Vec<u64>) -> Fault {
    let count = events.len() as u64;
    let mut fault = Fault::none();
    if dice.percent(30) {
        fault = fault.in_pieces(dice.pick(&[1, 2, 7, 64]));
    }
    if dice.percent(30) {
        fault = fault.repeat(1 + dice.below(count));
    }
    let id = 1 + dice.below(count);
    if dice.percent(50) && events[usize::try_from(id - 1).expect("a small number")] && !lost.contains(&id) {
        lost.push(id);
        fault = if dice.percent(50) { fault.skip(id) } else { fault.delay(id, id + 1) };
    }
    match dice.below(3) {
        0 => fault.end_after(1 + dice.below(count), dice.ending()),
        1 => {
            let bytes = usize::try_from(dice.below(count * 330)).expect("a small number");
            fault.end_at_byte(bytes, dice.ending())
        }
        _ => fault,
    }
}

/// Says which seed it was, should the test fail.
pub struct Confess(pub u64);

impl Drop for Confess {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("to play it again: SORTIE_SEED={}", self.0);
        }
    }
}

/// Plays the run of a seed against the binary, and checks all that came of it.
pub fn play(seed: u64) {
    let _confess = Confess(seed);
    let mut dice = Dice::new(seed);
    let story = Story::invent(&mut dice);
    let agent =
        Agent::with(Options { policy: story.policy.clone(), events_kept: story.events_kept, ..Options::default() });
    story.plan(&mut dice, &agent);
    let arguments = ["run", "--result-file", "result.json", "--timeout", "25s", "go"];
    // By this the soak knows what it has started.
    let running = agent.sortie(arguments).env("SORTIE_STORY", std::process::id().to_string()).spawn();
    let run = agent.next_run();
    story.tell(&mut dice, &agent, &running, &run);
    let code = i32::from(story.end != End::Completes);
    let text = story.text();
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let output = running.wait().code(code).stdout(&format!("{text}{newline}"));
    let record = result_file(&output.home().join("result.json"), code);
    let reason = match story.end {
        End::Completes => Value::Null,
        End::Fails | End::FailsSilently => "run_error".into(),
        End::Restart => "lost".into(),
    };
    assert_eq!(record["reason"], reason, "{record:#}\n{}", output.stderr);
    assert_eq!(record["text"], text, "{record:#}\n{}", output.stderr);
    assert_eq!(record["run_id"], run.id.to_string(), "{record:#}");
    assert_eq!(record["session_id"], run.session.to_string(), "{record:#}");
    // What the restart swept away unread is not known.
    if story.events_kept > 100 && story.end != End::Restart {
        let calls: Vec<Value> = story.turns.iter().flat_map(|turn| turn.calls.iter().map(Call::json)).collect();
        assert_eq!(record["tool_calls"]["proposed"], calls.len(), "{record:#}\n{}", output.stderr);
        assert_eq!(record["tool_calls"]["accepted"], calls.len(), "{record:#}\n{}", output.stderr);
        assert_eq!(record["turns"], story.turns.len(), "{record:#}\n{}", output.stderr);
    }
    check_requests(&agent);
    for (id, _, effect) in run.decisions() {
        assert_eq!(effect, Effect::Applied, "the decision about {id}\n{}", output.stderr);
        let times = run.decisions().iter().filter(|(known, ..)| *known == id).count();
        assert_eq!(times, 1, "decisions about {id}\n{}", output.stderr);
    }
}

/// One session, one run, and the same key for each try of the same thing.
fn check_requests(agent: &Agent) {
    assert_eq!(agent.runs_begun(), 1, "{:#?}", agent.all_requests());
    let identity = |request: &Request| {
        (request.path.clone(), request.header("idempotency-key").map(str::to_owned), request.body.clone())
    };
    for route in [Route::CreateSession, Route::Send] {
        let requests = agent.requests(route);
        for request in &requests {
            assert_eq!(identity(request), identity(&requests[0]), "{requests:#?}");
        }
    }
    let decisions = agent.requests(Route::Decide);
    for request in &decisions {
        let twin = decisions.iter().find(|other| identity(other).1 == identity(request).1).expect("itself");
        assert_eq!(identity(request), identity(twin), "one key, two things");
        assert_ne!(request.json()["decisions"], json!({}), "nothing was to be woken");
    }
}
