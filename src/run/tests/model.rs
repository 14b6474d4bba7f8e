//! The machine against a model of the server's approvals (protocol traps 2 to 4), in simulated time. For random
//! batches with random durations every run completes, and no call runs that the policy does not accept.

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

/// The verdict of the server's own policy on a call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Own {
    Approve,
    Ask,
    Deny,
}

/// The verdict of our policy.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ours {
    Accept,
    Reject,
    Explain,
    Pause,
}

impl Ours {
    fn verdict(self) -> Verdict {
        match self {
            Self::Accept => Verdict::Accept,
            Self::Reject => Verdict::Reject(None),
            Self::Explain => Verdict::Reject(Some("no".into())),
            Self::Pause => Verdict::Pause,
        }
    }
}

#[derive(Clone, Debug)]
struct Plan {
    own: Own,
    ours: Ours,
    /// How long the tool takes, in ms.
    runs: u64,
    /// How long the server drops decisions after the tool has finished, in ms (trap 3): the server is deaf.
    deaf: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Entry {
    Waiting,
    Ready(Ours),
    Dispatched,
}

/// The server's side of one batch, as in `approval.rs` and `agent.rs` of its agent core.
struct Server {
    plans: Vec<Plan>,
    entries: Vec<Entry>,
    next: usize,
    now: u64,
    inbox: VecDeque<(u64, Vec<(usize, Ours)>)>,
    /// The events, each with its time.
    events: Vec<(u64, String)>,
    dead: bool,
    done: bool,
    ran: Vec<usize>,
}

impl Server {
    fn new(plans: Vec<Plan>) -> Self {
        let entries = plans.iter().map(|plan| match plan.own {
            Own::Approve => Entry::Ready(Ours::Accept),
            Own::Deny => Entry::Ready(Ours::Reject),
            Own::Ask => Entry::Waiting,
        });
        let calls: Vec<_> =
            (0..plans.len()).map(|id| format!(r#"{{"id":"{id}","name":"p__t","arguments":{{}}}}"#)).collect();
        let proposal = format!(r#"{{"ToolCallsProposed":{{"tool_calls":[{}]}}}}"#, calls.join(","));
        let entries = entries.collect();
        let events = vec![(0, STARTED.to_owned()), (0, turn(1)), (0, proposal)];
        let (inbox, ran) = (VecDeque::new(), Vec::new());
        Self { plans, entries, next: 0, now: 0, inbox, events, dead: false, done: false, ran }
    }

    fn emit(&mut self, event: &str) {
        self.events.push((self.now, event.to_owned()));
    }

    /// Advances the server to `time`.
    fn advance(&mut self, time: u64) {
        while !self.dead && !self.done {
            let Some(entry) = self.entries.get(self.next).copied() else {
                self.emit(r#"{"TurnCompleted":{"turn":1}}"#);
                self.emit(COMPLETED);
                self.done = true;
                return;
            };
            let id = self.next;
            match entry {
                Entry::Dispatched => unreachable!("it takes each call once"),
                Entry::Ready(decision) => {
                    let plan = self.plans[id].clone();
                    let (runs, deaf) = match decision {
                        Ours::Accept => (plan.runs, plan.deaf),
                        _ => (0, 0),
                    };
                    if self.now + runs + deaf > time {
                        // The start event is out. The other events come later.
                        if decision == Ours::Accept && !self.ran.contains(&id) {
                            self.start(id);
                        }
                        if self.now + runs <= time {
                            // The tool has finished but the server is still deaf. The event gets the time of the
                            // finish.
                            self.finish_early(id, self.now + runs);
                        }
                        return;
                    }
                    if decision == Ours::Accept && !self.ran.contains(&id) {
                        self.start(id);
                    }
                    let done_at = self.now + runs;
                    let event = match decision {
                        Ours::Accept | Ours::Explain => {
                            format!(r#"{{"ToolExecutionCompleted":{{"tool_call_id":"{id}"}}}}"#)
                        }
                        _ => format!(r#"{{"ToolRejected":{{"tool_call_id":"{id}"}}}}"#),
                    };
                    if !self.events.iter().any(|(_, known)| *known == event) {
                        self.events.push((done_at, event));
                    }
                    self.entries[id] = Entry::Dispatched;
                    self.next += 1;
                    self.now = done_at + deaf;
                    // Decisions that came while the server was deaf are dropped for this batch.
                    while self.inbox.front().is_some_and(|(at, _)| *at <= self.now) {
                        self.inbox.pop_front();
                    }
                }
                Entry::Waiting => {
                    let Some((at, decisions)) = self.inbox.front().cloned().filter(|(at, _)| *at <= time) else {
                        return;
                    };
                    self.inbox.pop_front();
                    self.now = self.now.max(at);
                    for (id, decision) in decisions {
                        match self.entries[id] {
                            Entry::Waiting => self.entries[id] = Entry::Ready(decision),
                            Entry::Ready(same) if same == decision => {}
                            // Trap 2: the call was already resolved, so the run dies silently.
                            _ => self.dead = true,
                        }
                    }
                }
            }
        }
    }

    fn start(&mut self, id: usize) {
        self.ran.push(id);
        self.emit(&format!(r#"{{"ToolExecutionStarted":{{"tool_call_id":"{id}"}}}}"#));
    }

    fn finish_early(&mut self, id: usize, at: u64) {
        let event = format!(r#"{{"ToolExecutionCompleted":{{"tool_call_id":"{id}"}}}}"#);
        if self.ran.contains(&id) && !self.events.iter().any(|(_, known)| *known == event) {
            self.events.push((at, event));
        }
    }

    /// Returns the call that the server waits for.
    fn waits_at(&self) -> Option<usize> {
        (!self.dead && self.entries.get(self.next) == Some(&Entry::Waiting)).then_some(self.next)
    }
}

/// Follows the run like [`crate::follow`], on a network with a delay of `delay` ms each way. `breaks` are the ticks at
/// which the connection is cut. The policy answers like a policy program.
fn follow(plans: &[Plan], asked: AskedCalls, delay: u64, breaks: &[u64]) -> (End, Server) {
    let mut server = Server::new(plans.to_vec());
    if asked == AskedCalls::EveryCall {
        server.entries.fill(Entry::Waiting);
    }
    let policy = Policy { program: true, ..Policy::default() };
    let mut run = Machine::new(Options { asked, policy, ..options(Start::Fresh) });
    let (mut time, mut silent, mut last_event, mut seen) = (0, 0, 0, 0);
    for ticks in 0..100_000 {
        server.advance(time);
        // One read returns the next event that has arrived, or a tick.
        let mut effect = if breaks.contains(&ticks) {
            time += delay;
            silent = 0;
            tell(&mut run, Input::Reconnected)
        } else if let Some((_, event)) = server.events.get(seen).filter(|(at, _)| at + delay <= time) {
            let json = ours(event);
            seen += 1;
            silent = 0;
            last_event = time;
            feed(&mut run, seen as u64, &json).effect
        } else {
            server.advance(time + 250);
            match server.events.get(seen).map(|(at, _)| at + delay).filter(|at| *at <= time + 250) {
                Some(arrives) => {
                    time = arrives.max(time);
                    continue;
                }
                None => {
                    time += 250;
                    silent += 250;
                    tell(&mut run, silence(silent, last_event, time))
                }
            }
        };
        loop {
            effect = match effect {
                Effect::Continue => break,
                Effect::End(end) => return (end, server),
                Effect::Reconnect(_) | Effect::Replay(_) => {
                    time += delay;
                    silent = 0;
                    tell(&mut run, Input::Reconnected)
                }
                Effect::AskState => {
                    time += 2 * delay;
                    server.advance(time);
                    let state = match (server.dead, server.done) {
                        (true, _) => State::Failed,
                        (false, true) => State::Idle,
                        (false, false) => State::Active { run_id: RUN.into() },
                    };
                    tell(&mut run, Input::State(state))
                }
                Effect::AskProgram(call) => {
                    let verdict = plans[call.id.parse::<usize>().unwrap()].ours.verdict();
                    silent = 0;
                    tell(&mut run, Input::Judged { call_id: &call.id, verdict })
                }
                Effect::Send { decisions, .. } => {
                    let taken = decisions.iter().map(|(call, _)| call.id.parse().unwrap());
                    let taken = taken.map(|id: usize| (id, plans[id].ours)).collect();
                    server.inbox.push_back((time + delay, taken));
                    time += 2 * delay;
                    silent = 0;
                    tell(&mut run, Input::Sent(&decisions))
                }
                Effect::TakeBack(_) => {
                    time += 2 * delay;
                    Effect::Continue
                }
                other => panic!("{other:?}"),
            };
        }
    }
    panic!("it never ends: {plans:?} {asked:?} {delay}");
}

/// All times in ms.
fn silence(silent: u64, last_event: u64, now: u64) -> Input<'static> {
    let (quiet, idle) = (Duration::from_millis(silent), Duration::from_millis(now - last_event));
    let silence = Silence { quiet, idle, heard: true, held_back: false };
    Input::Quiet { silence, now: Duration::from_millis(now) }
}

/// Returns batches in which the server is deaf for a long time only before calls that it asks about.
///
/// If it is deaf for longer than we wait, before a call that it decides by itself, our decision and its own cross,
/// and the run dies. No event could prevent this.
fn batch() -> impl Strategy<Value = Vec<Plan>> {
    prop::collection::vec(plan(), 1..6).prop_map(|mut plans| {
        for next in 1..plans.len() {
            if plans[next].own != Own::Ask {
                plans[next - 1].deaf %= 50;
            }
        }
        plans
    })
}

fn plan() -> impl Strategy<Value = Plan> {
    let own = prop_oneof![Just(Own::Approve), Just(Own::Ask), Just(Own::Deny)];
    let ours = prop_oneof![4 => Just(Ours::Accept), 1 => Just(Ours::Reject), 1 => Just(Ours::Explain), 1 => Just(Ours::Pause)];
    let runs = prop_oneof![Just(0), 0..500_u64, 0..30_000_u64];
    let deaf = prop_oneof![3 => Just(0), 2 => 0..300_u64, 1 => 0..9_000_u64];
    (own, ours, runs, deaf).prop_map(|(own, ours, runs, deaf)| Plan { own, ours, runs, deaf })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn every_run_completes_or_waits_and_only_accepted_calls_run(
        plans in batch(),
        every in any::<bool>(),
        delay in 0..100_u64,
        breaks in prop::collection::vec(0..60_u64, 0..3),
    ) {
        let asked = if every { AskedCalls::EveryCall } else { AskedCalls::SomeCalls };
        let (end, mut server) = follow(&plans, asked, delay, &breaks);
        prop_assert!(!server.dead, "a wrong guess killed the run");
        for id in &server.ran {
            let plan = &plans[*id];
            let by_server = !every && plan.own == Own::Approve;
            prop_assert!(by_server || plan.ours == Ours::Accept, "{id} ran");
        }
        match end {
            End::Completed => prop_assert!(server.done),
            End::Paused(Waiting { calls, .. }) => {
                if every {
                    // The server will wait for this call once it is no longer deaf.
                    server.advance(u64::MAX / 2);
                }
                // A server that is deaf for longer than the quiet before a pause looks like a server that waits.
                prop_assume!(every || plans.iter().all(|plan| plan.deaf < 1500));
                let at = server.waits_at();
                prop_assert_eq!(at, Some(calls[0].id.parse().unwrap()), "it reported a pause");
                prop_assert_eq!(plans[at.unwrap()].ours, Ours::Pause);
            }
            End::Failed(failure) => prop_assert!(false, "{failure}"),
        }
    }
}
