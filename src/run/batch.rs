//! The batch: the tool calls of one turn. It finds the call that the server waits for, and when it is safe to decide
//! that call (protocol traps 2 to 4).
//!
//! The server handles a batch strictly in order and stops at the first call that it must ask about. The head is the
//! first call that has not finished. The server can wait only for the head:
//!
//! | the server asks about | head | stream quiet for | next |
//! |---|---|---|---|
//! | no call | any | any | nothing |
//! | unknown | undecided | any | ask the server's configuration |
//! | every call | not judged | any | judge the head, then the calls after it up to a pause |
//! | every call | judged: accept or reject | any | send the decisions of all judged calls in one request |
//! | every call | judged: pause | any | pause |
//! | some calls | not judged | 250 ms | judge the head |
//! | some calls | judged: accept or reject | 250 ms | send its decision |
//! | some calls | judged: pause | 2 s | pause |
//! | every or some | decided, no event since | 3 s | replay the last event: the next one may have been lost |
//! | some calls | decided, replayed | 2 s | the server dropped the decision (trap 3): send it again |
//! | every call | decided, replayed | 10 s | send it again: only another client's decision can cause this |
//! | any | running | any | nothing |
//! | every or some | has the ID of an earlier call | as for a pause | fail: nobody can decide it |
//! | every or some | undecided, its proposal was lost | 6 s | read in the messages which calls have finished |
//!
//! While a policy program runs, the stream is not read, and another client may decide a call. So after that, even a
//! server that asks about every call gets decisions only after 250 ms of quiet.
//!
//! A call that has started is never decided, because a decision would kill the run (trap 2).
//!
//! The server keeps a dropped decision, one for each call ID, and applies it to a later call with this ID without
//! asking. So when a call that was decided twice starts, and no call follows it in the batch, a rejection replaces
//! the decision that the server keeps.

use super::Effect;
use super::policy::{Ruling, Verdict};
use crate::agent::events::{MAX_LIST, MAX_NAME, ToolCall};
use crate::outcome::{End, Failure, Reason, Waiting};
use std::time::Duration;

/// After this much quiet, the server waits for a decision: a call that it approves by itself starts sooner.
pub const SETTLED: Duration = Duration::from_millis(250);
/// After this much quiet a pause is reported. It is longer because a pause ends the command.
pub const PAUSED: Duration = Duration::from_secs(2);
/// After this much quiet a decision may have been dropped.
pub const UNHEARD: Duration = Duration::from_secs(3);
/// After this much quiet, decisions for a whole batch are sent again. No tool runs at the proposal, so the server drops
/// them only if another client was faster. A server that is only slow must not get them twice.
pub const STUCK: Duration = Duration::from_secs(10);
/// After this long the session's messages tell which calls have finished: the server writes them every 5 s.
pub const WRITTEN: Duration = Duration::from_secs(6);

/// The calls that the server asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskedCalls {
    /// Not known: `/v1/config` can tell.
    Unknown,
    /// The run has `auto_approve: "none"`, or the server's configuration has it.
    EveryCall,
    /// The server decides the other calls by itself and does not say which ones these are.
    SomeCalls,
    NoCall,
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    /// No decision was sent yet. The ruling is there once the policy has judged the call.
    Undecided(Option<Ruling>),
    /// A decision was sent. `reconnected`: the last event was replayed since, to see whether the stream is alive.
    Decided {
        ruling: Ruling,
        reconnected: bool,
    },
    Running,
    Finished,
}

impl State {
    const fn has_begun(&self) -> bool {
        matches!(self, Self::Running | Self::Finished)
    }
}

/// The calls of the current turn, in the order in which the server handles them.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The first 8 digits of the run's ID.
    run: String,
    asked: AskedCalls,
    calls: Vec<(ToolCall, State)>,
    /// The event ID of the proposal.
    proposal: Option<u64>,
    /// The states of calls whose proposal has left the server's ring.
    unplaced: Vec<(String, State)>,
    /// The stream was not read for a while.
    has_unread_time: bool,
    /// The batch came from the pending list, which does not tell which calls have finished.
    adopted: bool,
    /// The calls whose decision was sent twice and not taken back.
    doubled: Vec<String>,
}

impl Batch {
    pub fn new(run_id: &str, asked: AskedCalls) -> Self {
        Self {
            run: run_id.chars().take(8).collect(),
            asked,
            calls: Vec::new(),
            proposal: None,
            unplaced: Vec::new(),
            has_unread_time: false,
            adopted: false,
            doubled: Vec::new(),
        }
    }

    pub const fn set_asked(&mut self, asked: AskedCalls) {
        self.asked = asked;
    }

    /// Begins a new batch. `event_id` is that of the proposal.
    pub fn propose(&mut self, calls: Vec<ToolCall>, event_id: Option<u64>) {
        self.adopted = false;
        self.proposal = event_id;
        self.calls = calls.into_iter().map(|call| (call, State::Undecided(None))).collect();
        for (id, state) in std::mem::take(&mut self.unplaced) {
            self.set(&id, state);
        }
    }

    /// Replaces a lost proposal: `calls` is the server's pending list, `finished` are the calls with a result in the
    /// session's messages. The messages may lag behind; after 6 s they are complete.
    pub fn adopt(&mut self, calls: Vec<ToolCall>, finished: &[String]) {
        let is_known = self.calls.iter().map(|(call, _)| &call.id).eq(calls.iter().map(|call| &call.id));
        if !is_known {
            self.propose(calls, None);
        }
        self.adopted = !is_known;
        for id in finished {
            self.finished(id);
        }
    }

    pub fn started(&mut self, id: &str) {
        self.set(id, State::Running);
    }

    /// Notes that the call was completed or rejected.
    pub fn finished(&mut self, id: &str) {
        self.set(id, State::Finished);
    }

    fn set(&mut self, id: &str, state: State) {
        // If two calls have this ID, it names the first one that has not finished.
        if self.calls.is_empty() {
            if self.unplaced.len() < MAX_LIST && id.len() <= MAX_NAME {
                self.unplaced.push((id.to_owned(), state));
            }
        } else if let Some(at) = self.state_of(id, |at| *at != State::Finished) {
            *at = state;
        }
    }

    /// Returns the state of the first call with this ID whose state fits.
    fn state_of(&mut self, id: &str, fits: impl Fn(&State) -> bool) -> Option<&mut State> {
        self.calls.iter_mut().find(|(call, state)| call.id == id && fits(state)).map(|(_, state)| state)
    }

    /// Notes that the stream was not read for a while.
    pub const fn note_unread_time(&mut self) {
        self.has_unread_time = true;
    }

    /// Forgets the calls, when the turn has ended or its events were lost.
    pub fn clear(&mut self) {
        self.calls.clear();
        self.unplaced.clear();
        self.proposal = None;
    }

    pub const fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Returns whether the server may wait for a decision.
    pub fn may_wait(&self) -> bool {
        let head = self.head().map(|head| &self.calls[head].1);
        self.asked != AskedCalls::NoCall && matches!(head, Some(State::Undecided(_)))
    }

    /// Returns the position of the first call that has not finished.
    fn head(&self) -> Option<usize> {
        self.calls.iter().position(|(_, state)| *state != State::Finished)
    }

    /// Returns whether the call is in the batch and has neither started nor finished.
    pub fn has_not_begun(&self, id: &str) -> bool {
        self.calls.iter().any(|(call, state)| call.id == id && !state.has_begun())
    }

    /// Takes the ruling on a call.
    pub fn judged(&mut self, id: &str, ruling: Ruling) {
        if let Some(state) = self.state_of(id, |state| *state == State::Undecided(None)) {
            *state = State::Undecided(Some(ruling));
        }
    }

    /// Notes that the server took these decisions.
    pub fn sent(&mut self, decisions: &[(ToolCall, Ruling)]) {
        for (call, ruling) in decisions {
            if let Some(state) = self.state_of(&call.id, |state| !state.has_begun()) {
                *state = State::Decided { ruling: ruling.clone(), reconnected: false };
            }
        }
    }

    /// Returns the batch's name and the calls without a decision, in order.
    pub fn waiting(&self) -> Waiting {
        let batch = self.proposal.map(|proposal| format!("{}.{proposal}", self.run));
        Waiting { batch, calls: self.undecided().cloned().collect() }
    }

    pub fn undecided(&self) -> impl Iterator<Item = &ToolCall> {
        self.calls.iter().filter(|(_, state)| matches!(state, State::Undecided(_))).map(|(call, _)| call)
    }

    /// For a call that has started: returns whether to replace the decision that the server keeps for its ID, because
    /// it was sent twice and the batch has no later call.
    pub fn take_back(&mut self, id: &str) -> bool {
        let was_doubled = self.doubled.iter().position(|doubled| doubled == id);
        let is_last = self.calls.last().is_some_and(|(call, _)| call.id == id);
        was_doubled.map(|at| self.doubled.swap_remove(at)).is_some() && is_last
    }

    /// Returns the next step, as in the module's table. To judge a call is [`Effect::AskProgram`], although the machine
    /// may know the verdict. [`Silence`](super::Silence) explains `quiet` and `heard`.
    pub fn next(&mut self, quiet: Duration, heard: bool) -> Effect {
        let Some(head) = self.head() else { return Effect::Continue };
        if quiet >= SETTLED {
            self.has_unread_time = false;
        }
        let every = self.asked == AskedCalls::EveryCall;
        let is_sure = every && !self.has_unread_time;
        let enough = |needed| is_sure || quiet >= needed;
        let (call, state) = &self.calls[head];
        if self.is_twin(head) {
            // The server would apply the decision to the earlier, finished call, which kills the run (trap 2).
            return if enough(PAUSED) { second_with_id(&call.id) } else { Effect::Continue };
        }
        match state {
            State::Decided { ruling, reconnected: false } if quiet >= UNHEARD => {
                self.calls[head].1 = State::Decided { ruling: ruling.clone(), reconnected: true };
                Effect::Replay("a decision shows no effect")
            }
            // Without a byte since the reconnect, the stream may be dead, and its quiet proves nothing.
            State::Decided { ruling, reconnected: true }
                if heard && quiet >= if every { STUCK } else { PAUSED } =>
            {
                self.doubled.push(call.id.clone());
                Effect::Send { decisions: vec![(call.clone(), ruling.clone())], again: true }
            }
            State::Decided { .. } | State::Running | State::Finished => Effect::Continue,
            State::Undecided(_) if self.asked == AskedCalls::NoCall => Effect::Continue,
            State::Undecided(_) if self.adopted && quiet >= WRITTEN => Effect::AskPending,
            State::Undecided(_) if self.adopted => Effect::Continue,
            State::Undecided(_) if self.asked == AskedCalls::Unknown => Effect::AskConfig,
            State::Undecided(Some(ruling)) if ruling.verdict == Verdict::Pause && enough(PAUSED) => {
                Effect::End(End::Paused(self.waiting()))
            }
            State::Undecided(Some(ruling)) if ruling.verdict == Verdict::Pause => Effect::Continue,
            State::Undecided(_) if every || enough(SETTLED) => match self.judge_or_send(head) {
                // Only sending must wait; judging goes on.
                Effect::Send { .. } if !enough(SETTLED) => Effect::Continue,
                next => next,
            },
            State::Undecided(_) => Effect::Continue,
        }
    }

    /// Returns whether an earlier call has the head's ID, and the server may ask about the head.
    fn is_twin(&self, head: usize) -> bool {
        let (call, state) = &self.calls[head];
        let is_asked = matches!(self.asked, AskedCalls::EveryCall | AskedCalls::SomeCalls);
        is_asked && *state != State::Running && self.calls[..head].iter().any(|(before, _)| before.id == call.id)
    }

    /// Judges or sends the head. If the server asks about every call, the calls after it too, up to the first pause.
    fn judge_or_send(&self, head: usize) -> Effect {
        let mut decisions = Vec::new();
        let reach = if self.asked == AskedCalls::EveryCall { self.calls.len() } else { head + 1 };
        for (call, state) in &self.calls[head..reach] {
            match state {
                State::Undecided(None) => return Effect::AskProgram(call.clone()),
                State::Undecided(Some(ruling)) if ruling.verdict == Verdict::Pause => break,
                State::Undecided(Some(ruling)) => decisions.push((call.clone(), ruling.clone())),
                State::Decided { .. } | State::Running | State::Finished => {}
            }
        }
        Effect::Send { decisions, again: false }
    }
}

/// Returns the end for a call with the ID of an earlier call of its batch.
fn second_with_id(id: &str) -> Effect {
    let message = format!("two tool calls of one turn have the id {id}; the second one cannot be decided");
    Effect::End(Failure::new(Reason::Protocol, message).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::events::Arguments;

    fn call(id: &str) -> ToolCall {
        ToolCall { id: id.into(), name: "p__t".into(), arguments: Arguments::default() }
    }

    fn calls(ids: &[&str]) -> Vec<ToolCall> {
        ids.iter().map(|id| call(id)).collect()
    }

    fn new(asked: AskedCalls) -> Batch {
        Batch::new("11111111-1111-4111-8111-111111111111", asked)
    }

    fn replay() -> Effect {
        Effect::Replay("a decision shows no effect")
    }

    fn send(calls: &[&ToolCall], again: bool) -> Effect {
        let accepted = |call: &&ToolCall| ((*call).clone(), Ruling::by_policy(Verdict::Accept));
        Effect::Send { decisions: calls.iter().map(accepted).collect(), again }
    }

    fn pause(calls: &[&ToolCall]) -> Effect {
        let calls = calls.iter().copied().cloned().collect();
        Effect::End(End::Paused(Waiting { batch: None, calls }))
    }

    fn proposed(asked: AskedCalls, ids: &[&str]) -> Batch {
        let mut batch = new(asked);
        batch.propose(calls(ids), None);
        batch
    }

    #[test]
    fn a_batch_without_a_proposal_is_decided_only_after_the_messages_are_written() {
        for asked in [AskedCalls::SomeCalls, AskedCalls::EveryCall] {
            let mut batch = new(asked);
            batch.adopt(calls(&["a", "b"]), &[]);
            assert_eq!(batch.next(Duration::ZERO, true), Effect::Continue);
            assert_eq!(batch.next(WRITTEN - SETTLED, true), Effect::Continue);
            assert_eq!(batch.next(WRITTEN, true), Effect::AskPending);
            batch.adopt(calls(&["a", "b"]), &["a".into()]);
            assert_eq!(batch.next(SETTLED, true), Effect::AskProgram(call("b")));
        }
        let mut batch = new(AskedCalls::NoCall);
        batch.adopt(calls(&["a"]), &[]);
        assert_eq!(batch.next(WRITTEN, true), Effect::Continue, "nothing is asked about");
    }

    #[test]
    fn a_new_pending_list_or_a_proposal_replaces_an_adopted_batch() {
        let mut batch = new(AskedCalls::SomeCalls);
        batch.adopt(calls(&["a"]), &[]);
        batch.adopt(calls(&["b"]), &[]);
        assert_eq!(batch.next(SETTLED, true), Effect::Continue);
        assert_eq!(batch.next(WRITTEN, true), Effect::AskPending);
        batch.propose(calls(&["c"]), None);
        assert_eq!(batch.next(SETTLED, true), Effect::AskProgram(call("c")));
    }

    #[test]
    fn call_events_before_the_proposal_count_up_to_their_bounds() {
        let long = |len: usize| "i".repeat(len);
        for (others, id, counts) in [
            (0, "a".to_owned(), true),
            (MAX_LIST - 1, "a".to_owned(), true),
            (MAX_LIST, "a".to_owned(), false),
            (0, long(MAX_NAME), true),
            (0, long(MAX_NAME + 1), false),
        ] {
            let mut batch = new(AskedCalls::SomeCalls);
            (0..others).for_each(|number| batch.finished(&number.to_string()));
            batch.started(&id);
            batch.propose(calls(&[&id, "b"]), None);
            let next = batch.next(SETTLED, true);
            assert_eq!(next == Effect::Continue, counts, "{others} others, {} bytes: {next:?}", id.len());
        }
    }

    #[test]
    fn after_a_time_without_reads_sending_needs_quiet() {
        let mut batch = proposed(AskedCalls::EveryCall, &["a", "b"]);
        batch.judged("a", Ruling::by_policy(Verdict::Accept));
        batch.note_unread_time();
        assert_eq!(batch.next(Duration::ZERO, true), Effect::AskProgram(call("b")), "judging goes on");
        batch.judged("b", Ruling::by_policy(Verdict::Accept));
        assert_eq!(batch.next(Duration::ZERO, true), Effect::Continue);
        let decisions =
            vec![(call("a"), Ruling::by_policy(Verdict::Accept)), (call("b"), Ruling::by_policy(Verdict::Accept))];
        assert_eq!(batch.next(SETTLED, true), Effect::Send { decisions, again: false });
        assert_ne!(batch.next(Duration::ZERO, true), Effect::Continue, "and then no more");
    }

    #[test]
    fn a_cleared_batch_knows_nothing() {
        let mut batch = proposed(AskedCalls::SomeCalls, &["a"]);
        assert!(!batch.is_empty());
        batch.clear();
        assert!(batch.is_empty() && batch.undecided().next().is_none());
        batch.finished("a");
        batch.clear();
        batch.propose(calls(&["a"]), None);
        assert_eq!(batch.next(SETTLED, true), Effect::AskProgram(call("a")));
    }

    #[test]
    fn the_first_verdict_on_a_call_is_final() {
        let mut batch = proposed(AskedCalls::EveryCall, &["a", "b"]);
        batch.judged("b", Ruling::by_policy(Verdict::Accept));
        assert_eq!(batch.next(Duration::ZERO, true), Effect::AskProgram(call("a")));
        batch.judged("a", Ruling::by_policy(Verdict::Reject(None)));
        batch.judged("a", Ruling::by_policy(Verdict::Accept));
        let decisions = vec![
            (call("a"), Ruling::by_policy(Verdict::Reject(None))),
            (call("b"), Ruling::by_policy(Verdict::Accept)),
        ];
        assert_eq!(batch.next(Duration::ZERO, true), Effect::Send { decisions, again: false });
    }

    #[test]
    fn a_call_has_begun_once_it_runs_or_has_finished() {
        let mut batch = proposed(AskedCalls::SomeCalls, &["a", "b"]);
        assert!(batch.has_not_begun("a") && !batch.has_not_begun("z"));
        batch.sent(&[(call("a"), Ruling::by_policy(Verdict::Accept))]);
        assert!(batch.has_not_begun("a"));
        batch.started("a");
        assert!(!batch.has_not_begun("a") && batch.has_not_begun("b"));
        batch.finished("b");
        assert!(!batch.has_not_begun("b"));
    }

    /// The module's table, row by row.
    #[test]
    fn each_row_of_the_table_has_its_next_step() {
        use AskedCalls::{EveryCall, NoCall, SomeCalls, Unknown};
        let [a, b, c] = [call("a"), call("b"), call("c")];
        // Marks: j accept, p pause (judged), d decided, r decided and reconnected, s started, f finished, - nothing.
        let rows: Vec<(AskedCalls, &str, u64, Effect)> = vec![
            (NoCall, "---", 60_000, Effect::Continue),
            (NoCall, "f--", 60_000, Effect::Continue),
            (Unknown, "---", 0, Effect::AskConfig),
            (Unknown, "s--", 60_000, Effect::Continue),
            (EveryCall, "---", 0, Effect::AskProgram(a.clone())),
            (EveryCall, "j--", 0, Effect::AskProgram(b.clone())),
            (EveryCall, "jj-", 0, Effect::AskProgram(c.clone())),
            (EveryCall, "jjj", 0, send(&[&a, &b, &c], false)),
            (EveryCall, "jp-", 0, send(&[&a], false)),
            (EveryCall, "dp-", 2000, Effect::Continue),
            (EveryCall, "sp-", 2000, Effect::Continue),
            (EveryCall, "fp-", 0, pause(&[&b, &c])),
            (EveryCall, "p--", 0, pause(&[&a, &b, &c])),
            (EveryCall, "ddd", 2750, Effect::Continue),
            (EveryCall, "ddd", 3000, replay()),
            (EveryCall, "rdd", 9_750, Effect::Continue),
            (EveryCall, "rdd", 10_000, send(&[&a], true)),
            (SomeCalls, "---", 0, Effect::Continue),
            (SomeCalls, "---", 250, Effect::AskProgram(a.clone())),
            (SomeCalls, "j--", 0, Effect::Continue),
            (SomeCalls, "j--", 250, send(&[&a], false)),
            (SomeCalls, "jj-", 250, send(&[&a], false)),
            (SomeCalls, "p--", 1750, Effect::Continue),
            (SomeCalls, "p--", 2000, pause(&[&a, &b, &c])),
            (SomeCalls, "pd-", 2000, pause(&[&a, &c])),
            (SomeCalls, "s--", 60_000, Effect::Continue),
            (SomeCalls, "fs-", 60_000, Effect::Continue),
            (SomeCalls, "ff-", 250, Effect::AskProgram(c.clone())),
            (SomeCalls, "fff", 60_000, Effect::Continue),
            (SomeCalls, "d--", 250, Effect::Continue),
            (SomeCalls, "d--", 3000, replay()),
            (SomeCalls, "r--", 1750, Effect::Continue),
            (SomeCalls, "r--", 2000, send(&[&a], true)),
            (SomeCalls, "rs-", 2000, send(&[&a], true)),
        ];
        for (asked, marks, quiet, expected) in rows {
            let mut batch = proposed(NoCall, &["a", "b", "c"]);
            for (mark, call) in marks.chars().zip([&a, &b, &c]) {
                match mark {
                    'j' => batch.judged(&call.id, Ruling::by_policy(Verdict::Accept)),
                    'p' => batch.judged(&call.id, Ruling::by_policy(Verdict::Pause)),
                    'd' | 'r' => batch.sent(&[(call.clone(), Ruling::by_policy(Verdict::Accept))]),
                    's' => batch.started(&call.id),
                    'f' => batch.finished(&call.id),
                    _ => {}
                }
                if mark == 'r' {
                    batch.set_asked(asked);
                    assert_eq!(batch.next(UNHEARD, true), replay());
                }
            }
            batch.set_asked(asked);
            assert_eq!(batch.next(Duration::from_millis(quiet), true), expected, "{asked:?} {marks} {quiet}");
        }
    }

    #[test]
    fn a_decision_is_sent_again_only_on_a_live_stream_and_then_taken_back() {
        for (ids, taken_back) in [(&["z", "a"][..], true), (&["a", "z"], false)] {
            let mut batch = proposed(AskedCalls::SomeCalls, ids);
            if ids[0] == "z" {
                batch.finished("z");
            }
            batch.sent(&[(call("a"), Ruling::by_policy(Verdict::Accept))]);
            assert_eq!(batch.next(UNHEARD, true), replay());
            assert_eq!(batch.next(STUCK, false), Effect::Continue, "nothing has come since");
            assert!(matches!(batch.next(PAUSED, true), Effect::Send { again: true, .. }));
            batch.started("a");
            assert_eq!(batch.take_back("a"), taken_back, "not where a later call of the batch may be asked about");
            assert!(!batch.take_back("a"), "once");
        }
    }
}
