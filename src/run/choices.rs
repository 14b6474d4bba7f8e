//! The decisions of `resume` about the calls that are pending now.

use super::policy::Verdict;
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

    pub fn named(&self) -> impl Iterator<Item = &str> {
        self.approve.iter().chain(&self.reject).map(String::as_str)
    }

    pub fn any(&self) -> bool {
        self.verdict("").is_some()
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
