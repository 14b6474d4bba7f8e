//! The decisions of `resume` about the calls that are pending now.

use super::policy::Verdict;
use crate::outcome::{Failure, Reason, Waiting};
use std::collections::BTreeSet;

/// The choices, by call ID. They apply to the pending batch only, never to a later one.
#[derive(Clone, Debug, Default)]
pub struct Choices {
    /// `--approve`.
    pub approve: BTreeSet<String>,
    /// `--reject`.
    pub reject: BTreeSet<String>,
    /// `--approve-all`.
    pub approve_all: bool,
    /// `--reject-all`.
    pub reject_all: bool,
    /// `--batch`: the batch that the choices are about.
    pub batch: Option<String>,
}

impl Choices {
    /// Returns the verdict on a pending call, or `None` if there are no choices. A call that the choices do not name is
    /// rejected.
    pub fn verdict(&self, id: &str) -> Option<Verdict> {
        if self.reject.contains(id) {
            Some(Verdict::Reject(None))
        } else if self.approve.contains(id) || self.approve_all {
            Some(Verdict::Accept)
        } else if self.reject_all || self.named().next().is_some() {
            Some(Verdict::Reject(None))
        } else {
            None
        }
    }

    fn named(&self) -> impl Iterator<Item = &str> {
        self.approve.iter().chain(&self.reject).map(String::as_str)
    }

    /// Returns a failure if the choices do not match the pending calls of this run.
    pub fn mismatch(&self, pending: &Waiting, run_id: &str) -> Option<Failure> {
        let calls: Vec<_> = pending.calls.iter().map(|call| format!("{} {}", call.id, call.name)).collect();
        let listed = if calls.is_empty() { "nothing".into() } else { calls.join(", ") };
        if let Some(batch) = &self.batch
            && pending.batch.as_ref() != Some(batch)
        {
            let now = match &pending.batch {
                Some(now) => format!("batch {now}: {listed}"),
                None if calls.is_empty() => listed,
                None => format!("{listed}, whose proposal is lost"),
            };
            let message = format!("batch {batch} is not pending; pending now: {now}; nothing was sent");
            return Some(Failure::new(Reason::Conflict, message));
        }
        let decides = self.verdict("").is_some();
        if decides && pending.calls.is_empty() {
            let message = format!("no tool call is pending in run {run_id}; nothing was sent");
            return Some(Failure::new(Reason::Conflict, message));
        }
        let unknown = self.named().find(|id| !pending.calls.iter().any(|call| call.id == *id))?;
        let message = format!("no call {unknown} is pending; pending now: {listed}; nothing was sent");
        Some(Failure::new(Reason::Usage, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn choices_reject_unnamed_calls_and_no_choice_decides_nothing() {
        let choose = |approve: &[&str], reject: &[&str], approve_all, reject_all| Choices {
            approve: set(approve),
            reject: set(reject),
            approve_all,
            reject_all,
            batch: None,
        };
        let no = Some(Verdict::Reject(None));
        assert_eq!(choose(&[], &[], false, false).verdict("a"), None);
        assert_eq!(choose(&["a"], &[], false, false).verdict("a"), Some(Verdict::Accept));
        assert_eq!(choose(&["a"], &[], false, false).verdict("b"), no);
        assert_eq!(choose(&[], &["a"], true, false).verdict("a"), no);
        assert_eq!(choose(&[], &["a"], true, false).verdict("b"), Some(Verdict::Accept));
        assert_eq!(choose(&["a"], &[], false, true).verdict("a"), Some(Verdict::Accept));
        assert_eq!(choose(&["a"], &[], false, true).verdict("b"), no);
    }
}
