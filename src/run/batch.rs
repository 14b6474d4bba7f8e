//! The tool calls of one turn: which of them the server is stopped at, and when it is safe to say so (protocol traps 2
//! to 4). Pure; part of the run's machine.
//!
//! The server handles a batch strictly in order and stops at the first call that it must ask about. The head is the
//! first call that has not finished; only the head can be waiting:
//!
//! | the server asks about | head | stream quiet for | next |
//! |---|---|---|---|
//! | no call | any | any | nothing |
//! | unknown | undecided | any | learn what it asks about |
//! | every call | undecided, not judged | any | judge it, and then those behind it up to a pause |
//! | every call | judged accept or reject | any | send those judged, in one piece |
//! | every call | judged pause | any | pause |
//! | some calls | undecided, not judged | 250 ms | judge it |
//! | some calls | judged accept or reject | 250 ms | send it |
//! | some calls | judged pause | 2 s | pause |
//! | every or some | decided, nothing heard | 3 s | reconnect: an event may have been lost |
//! | some calls | decided, nothing heard, reconnected | 250 ms | it was dropped (trap 3): send it again |
//! | every call | decided, nothing heard, reconnected | 10 s | likewise; here only somebody else's decision can do that |
//! | any | running | any | nothing |
//! | every or some | its id is that of a call before it | as for a pause | fail: it cannot be decided |
//! | every or some | undecided, its proposal lost | 6 s | learn from the messages which calls are over |
//!
//! Where every call is asked about, quiet is needed too once the stream was not read for a while (a policy program ran):
//! somebody else may have decided meanwhile.
//!
//! A call that has started is never decided: that kills the run (trap 2).

use crate::agent::events::{MAX_LIST, MAX_NAME, ToolCall};
use crate::run::policy::Verdict;
use std::time::Duration;

/// A stop is believed after so much quiet; long enough for the server to start a call that it approves by itself.
pub const SETTLED: Duration = Duration::from_millis(250);
/// A pause is reported after so much quiet: it ends the command, so it must not be a guess.
pub const PAUSED: Duration = Duration::from_secs(2);
/// A decision that shows no effect for so long may have been dropped.
pub const UNHEARD: Duration = Duration::from_secs(3);

/// What was sent in one piece at the proposal is not dropped, for no tool runs then, unless somebody else was quicker.
/// A server that is slow to go on with the next call must not get it twice.
pub const STUCK: Duration = Duration::from_secs(10);

/// Which calls of a batch are over stands in the session's messages, and the server writes those down every 5 s.
pub const WRITTEN: Duration = Duration::from_secs(6);

/// About which calls the server asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// `/v1/config` will tell.
    Unknown,
    /// About every call: `auto_approve: "none"`, sent by us or configured.
    Every,
    /// About some: it decides the others by itself and does not say which.
    Some,
    /// About none.
    None,
}

/// What is to be done about the batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Nothing now.
    Wait,
    /// Ask `/v1/config` what the server asks about.
    Learn,
    /// Put this call to the policy.
    Judge(ToolCall),
    /// Send these decisions.
    Send {
        /// The calls and what becomes of them.
        decisions: Vec<(ToolCall, Verdict)>,
        /// They were sent before, and dropped.
        again: bool,
    },
    /// Reconnect from the cursor, to see whether an event was lost.
    Reconnect,
    /// Ask for the calls that wait, and for the messages: [`Batch::adopt`].
    Adopt,
    /// These calls wait for somebody else.
    Pause(Vec<ToolCall>),
    /// This call can be decided by nobody.
    Fail(ToolCall),
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    Undecided(Option<Verdict>),
    Decided { verdict: Verdict, reconnected: bool },
    Running,
    Finished,
}

/// The calls of the current turn, in the order in which the server takes them.
#[derive(Clone, Debug)]
pub struct Batch {
    /// About which calls the server asks.
    pub asks: Asks,
    calls: Vec<(ToolCall, State)>,
    /// Calls that were heard of before their proposal, which left the server's ring.
    unplaced: Vec<(String, State)>,
    /// The stream was not read for a while.
    looked_away: bool,
    /// The proposal was lost, and with it perhaps what became of its calls since.
    adopted: bool,
}

impl Batch {
    /// No calls.
    pub const fn new(asks: Asks) -> Self {
        Self { asks, calls: Vec::new(), unplaced: Vec::new(), looked_away: false, adopted: false }
    }

    /// The model asks for these calls.
    pub fn propose(&mut self, calls: Vec<ToolCall>) {
        self.adopted = false;
        self.calls = calls.into_iter().map(|call| (call, State::Undecided(None))).collect();
        for (id, state) in std::mem::take(&mut self.unplaced) {
            self.set(&id, state);
        }
    }

    /// The proposal was lost: these are the calls, and these of them are over, as far as the messages know it. Asked a
    /// second time, a while later, they know all.
    pub fn adopt<'a>(&mut self, calls: Vec<ToolCall>, over: impl Iterator<Item = &'a str>) {
        let is_known = self.calls.iter().map(|(call, _)| &call.id).eq(calls.iter().map(|call| &call.id));
        if !is_known {
            self.propose(calls);
        }
        self.adopted = !is_known;
        for id in over {
            self.finished(id);
        }
    }

    /// The call was started.
    pub fn started(&mut self, id: &str) {
        self.set(id, State::Running);
    }

    /// The call was completed or rejected.
    pub fn finished(&mut self, id: &str) {
        self.set(id, State::Finished);
    }

    fn set(&mut self, id: &str, state: State) {
        // An id that the model used twice names the first call that has not finished.
        if self.calls.is_empty() {
            if self.unplaced.len() < MAX_LIST && id.len() <= MAX_NAME {
                self.unplaced.push((id.to_owned(), state));
            }
        } else if let Some((_, at)) =
            self.calls.iter_mut().find(|(call, at)| call.id == id && *at != State::Finished)
        {
            *at = state;
        }
    }

    /// The stream is not being read.
    pub fn look_away(&mut self) {
        self.looked_away = true;
    }

    /// The turn is over, or what became of it is not known.
    pub fn clear(&mut self) {
        self.calls.clear();
        self.unplaced.clear();
    }

    /// Whether no calls are known.
    pub const fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Whether the server may be stopped at a call that nobody has decided.
    pub fn may_wait(&self) -> bool {
        let head = self.calls.iter().find(|(_, state)| *state != State::Finished);
        self.asks != Asks::None && matches!(head, Some((_, State::Undecided(_))))
    }

    /// Whether the call is known, and has not begun.
    pub fn has_not_begun(&self, id: &str) -> bool {
        let begun = |state: &State| matches!(state, State::Running | State::Finished);
        self.calls.iter().any(|(call, state)| call.id == id && !begun(state))
    }

    /// The policy's answer to [`Next::Judge`].
    pub fn judged(&mut self, id: &str, verdict: Verdict) {
        let unjudged = |(call, state): &&mut (ToolCall, State)| call.id == id && *state == State::Undecided(None);
        if let Some((_, state)) = self.calls.iter_mut().find(unjudged) {
            *state = State::Undecided(Some(verdict));
        }
    }

    /// The decisions of [`Next::Send`] have reached the server.
    pub fn sent(&mut self, decisions: &[(ToolCall, Verdict)]) {
        for (sent, verdict) in decisions {
            let waiting = |(call, state): &&mut (ToolCall, State)| {
                call.id == sent.id && !matches!(state, State::Running | State::Finished)
            };
            if let Some((_, state)) = self.calls.iter_mut().find(waiting) {
                *state = State::Decided { verdict: verdict.clone(), reconnected: false };
            }
        }
    }

    /// The calls that nobody has decided yet, from the one that the server is stopped at onward.
    pub fn undecided(&self) -> impl Iterator<Item = &ToolCall> {
        self.calls.iter().filter(|(_, state)| matches!(state, State::Undecided(_))).map(|(call, _)| call)
    }

    /// The rule: see the table above. `quiet` is how long reads have blocked since the last byte, send or reconnect.
    pub fn next(&mut self, quiet: Duration) -> Next {
        let Some(head) = self.calls.iter().position(|(_, state)| *state != State::Finished) else {
            return Next::Wait;
        };
        if quiet >= SETTLED {
            self.looked_away = false;
        }
        let enough = |needed| self.asks == Asks::Every && !self.looked_away || quiet >= needed;
        let call = &self.calls[head].0;
        let is_twin = self.calls[..head].iter().any(|(before, _)| before.id == call.id);
        let is_asked = matches!(self.asks, Asks::Every | Asks::Some);
        if is_twin && is_asked && self.calls[head].1 != State::Running {
            // The server would take a decision for the call before it, which is over: that kills the run (trap 2).
            return if enough(PAUSED) { Next::Fail(call.clone()) } else { Next::Wait };
        }
        match &self.calls[head].1 {
            State::Running | State::Finished => Next::Wait,
            State::Decided { reconnected: false, .. } if quiet >= UNHEARD => {
                if let State::Decided { reconnected, .. } = &mut self.calls[head].1 {
                    *reconnected = true;
                }
                Next::Reconnect
            }
            State::Decided { verdict, reconnected: true }
                if quiet >= if self.asks == Asks::Every { STUCK } else { SETTLED } =>
            {
                Next::Send { decisions: vec![(self.calls[head].0.clone(), verdict.clone())], again: true }
            }
            State::Decided { .. } => Next::Wait,
            State::Undecided(_) if self.asks == Asks::None => Next::Wait,
            State::Undecided(_) if self.adopted && quiet >= WRITTEN => Next::Adopt,
            State::Undecided(_) if self.adopted => Next::Wait,
            State::Undecided(_) if self.asks == Asks::Unknown => Next::Learn,
            State::Undecided(Some(Verdict::Pause)) if enough(PAUSED) => {
                Next::Pause(self.undecided().cloned().collect())
            }
            State::Undecided(Some(Verdict::Pause)) => Next::Wait,
            State::Undecided(_) if enough(SETTLED) => self.judge_or_send(head),
            // Judging goes on meanwhile; only sending waits.
            State::Undecided(_) if self.asks == Asks::Every => match self.judge_or_send(head) {
                judge @ Next::Judge(_) => judge,
                _ => Next::Wait,
            },
            State::Undecided(_) => Next::Wait,
        }
    }

    /// Only the head, unless every call is asked about: then all up to the first that pauses.
    fn judge_or_send(&self, head: usize) -> Next {
        let mut decisions = Vec::new();
        let reach = if self.asks == Asks::Every { self.calls.len() } else { head + 1 };
        for (call, state) in &self.calls[head..reach] {
            match state {
                State::Undecided(None) => return Next::Judge(call.clone()),
                State::Undecided(Some(Verdict::Pause)) => break,
                State::Undecided(Some(verdict)) => decisions.push((call.clone(), verdict.clone())),
                _ => {}
            }
        }
        Next::Send { decisions, again: false }
    }
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

    fn proposed(asks: Asks, ids: &[&str]) -> Batch {
        let mut batch = Batch::new(asks);
        batch.propose(calls(ids));
        batch
    }

    #[test]
    fn a_batch_whose_proposal_was_lost_is_decided_only_when_the_messages_can_tell_what_is_over() {
        for asks in [Asks::Some, Asks::Every] {
            let mut batch = Batch::new(asks);
            batch.adopt(calls(&["a", "b"]), std::iter::empty());
            assert_eq!(batch.next(Duration::ZERO), Next::Wait);
            assert_eq!(batch.next(WRITTEN - SETTLED), Next::Wait);
            assert_eq!(batch.next(WRITTEN), Next::Adopt);
            batch.adopt(calls(&["a", "b"]), ["a"].into_iter());
            assert_eq!(batch.next(SETTLED), Next::Judge(call("b")));
        }
        let mut batch = Batch::new(Asks::None);
        batch.adopt(calls(&["a"]), std::iter::empty());
        assert_eq!(batch.next(WRITTEN), Next::Wait, "nothing is asked about");
    }

    #[test]
    fn another_batch_than_the_one_adopted_is_adopted_anew_and_a_proposal_ends_the_doubt() {
        let mut batch = Batch::new(Asks::Some);
        batch.adopt(calls(&["a"]), std::iter::empty());
        batch.adopt(calls(&["b"]), std::iter::empty());
        assert_eq!(batch.next(SETTLED), Next::Wait);
        assert_eq!(batch.next(WRITTEN), Next::Adopt);
        batch.propose(calls(&["c"]));
        assert_eq!(batch.next(SETTLED), Next::Judge(call("c")));
    }

    #[test]
    fn what_is_heard_before_the_proposal_counts_as_far_as_it_is_kept() {
        let long = |len: usize| "i".repeat(len);
        for (others, id, counts) in [
            (0, "a".to_owned(), true),
            (MAX_LIST - 1, "a".to_owned(), true),
            (MAX_LIST, "a".to_owned(), false),
            (0, long(MAX_NAME), true),
            (0, long(MAX_NAME + 1), false),
        ] {
            let mut batch = Batch::new(Asks::Some);
            (0..others).for_each(|number| batch.finished(&number.to_string()));
            batch.started(&id);
            batch.propose(calls(&[&id, "b"]));
            let next = batch.next(SETTLED);
            assert_eq!(next == Next::Wait, counts, "{others} others, {} bytes: {next:?}", id.len());
        }
    }

    #[test]
    fn after_a_look_away_it_takes_quiet_to_send_even_where_every_call_is_asked_about() {
        let mut batch = proposed(Asks::Every, &["a", "b"]);
        batch.judged("a", Verdict::Accept);
        batch.look_away();
        assert_eq!(batch.next(Duration::ZERO), Next::Judge(call("b")), "judging goes on");
        batch.judged("b", Verdict::Accept);
        assert_eq!(batch.next(Duration::ZERO), Next::Wait);
        let decisions = vec![(call("a"), Verdict::Accept), (call("b"), Verdict::Accept)];
        assert_eq!(batch.next(SETTLED), Next::Send { decisions, again: false });
        assert_ne!(batch.next(Duration::ZERO), Next::Wait, "and then no more");
    }

    #[test]
    fn a_cleared_batch_knows_nothing() {
        let mut batch = proposed(Asks::Some, &["a"]);
        assert!(!batch.is_empty());
        batch.clear();
        assert!(batch.is_empty() && batch.undecided().next().is_none());
        batch.finished("a");
        batch.clear();
        batch.propose(calls(&["a"]));
        assert_eq!(batch.next(SETTLED), Next::Judge(call("a")));
    }

    #[test]
    fn a_verdict_is_the_named_calls_and_the_first_one_stays() {
        let mut batch = proposed(Asks::Every, &["a", "b"]);
        batch.judged("b", Verdict::Accept);
        assert_eq!(batch.next(Duration::ZERO), Next::Judge(call("a")));
        batch.judged("a", Verdict::Reject(None));
        batch.judged("a", Verdict::Accept);
        let decisions = vec![(call("a"), Verdict::Reject(None)), (call("b"), Verdict::Accept)];
        assert_eq!(batch.next(Duration::ZERO), Next::Send { decisions, again: false });
    }

    #[test]
    fn a_call_has_not_begun_until_it_runs_or_is_over() {
        let mut batch = proposed(Asks::Some, &["a", "b"]);
        assert!(batch.has_not_begun("a") && !batch.has_not_begun("z"));
        batch.sent(&[(call("a"), Verdict::Accept)]);
        assert!(batch.has_not_begun("a"));
        batch.started("a");
        assert!(!batch.has_not_begun("a") && batch.has_not_begun("b"));
        batch.finished("b");
        assert!(!batch.has_not_begun("b"));
    }
}
