//! The policy: decides whether a tool call is accepted, rejected or left pending.

use crate::agent::calls::Decision;
use crate::agent::tools::{bare_name, is_slack_tool, is_subagent_tool};
use std::collections::BTreeSet;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    /// The model is told the reason if there is one.
    Reject(Option<String>),
    /// The call stays pending.
    Pause,
}

impl Verdict {
    /// Returns the decision to send, or `None` for a pause. The reason of a rejection becomes the call's result, since
    /// the server ignores the content of a plain rejection (protocol trap 9).
    pub fn decision(&self) -> Option<Decision> {
        match self {
            Self::Accept => Some(Decision::Accept),
            Self::Reject(None) => Some(Decision::Reject),
            Self::Reject(Some(reason)) => {
                Some(Decision::CustomResult { content: format!("Tool call rejected: {reason}") })
            }
            Self::Pause => None,
        }
    }
}

/// Who decided a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// `resume --approve`, `--reject`, `--approve-all` or `--reject-all`.
    Flag,
    /// The policy flags.
    Policy,
    /// The program of `--approve-with`.
    Program,
}

impl By {
    /// Returns the record's word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Policy => "policy",
            Self::Program => "program",
        }
    }
}

/// A verdict, and who gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    pub verdict: Verdict,
    pub by: By,
}

impl Ruling {
    pub const fn by_policy(verdict: Verdict) -> Self {
        Self { verdict, by: By::Policy }
    }
}

/// `--on-approval`: the verdict on a call that no other rule decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnApproval {
    /// Let it run
    Accept,
    /// Leave it waiting and exit 10
    #[default]
    Pause,
    /// Refuse it; the run goes on
    Reject,
}

/// The policy flags of a command. The default leaves every call pending.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub on_approval: OnApproval,
    /// `--allow-tool`.
    pub allow: BTreeSet<String>,
    /// The server has the list, and asks only about calls that are not on it.
    pub list_is_sent: bool,
    /// `--deny-tool`.
    pub deny: BTreeSet<String>,
    /// Whether `--approve-with` names a program.
    pub program: bool,
    /// `--enable-subagents`.
    pub subagents: bool,
    /// `--enable-slack-tools`.
    pub slack: bool,
}

impl Policy {
    /// Returns whether the flags replace the server's own policy.
    pub fn replaces_servers(&self) -> bool {
        self.program || !self.allow.is_empty() || !self.deny.is_empty()
    }

    /// Returns the entries of both lists.
    pub fn listed(&self) -> impl Iterator<Item = &String> {
        self.allow.iter().chain(&self.deny)
    }

    /// Returns the verdict on a call of this tool, or `None` if the policy program must decide. The tool's name may
    /// have the server's prefix.
    pub fn judge(&self, tool: &str) -> Option<Verdict> {
        let name = bare_name(tool);
        let listed = |list: &BTreeSet<String>| list.iter().any(|listed| names(listed, tool));
        let reject = |why: String| Some(Verdict::Reject(Some(why)));
        if listed(&self.deny) {
            return reject(format!("the tool {name} is denied (--deny-tool)"));
        }
        if is_subagent_tool(tool) && !self.subagents {
            return reject(format!("the tool {name} needs --enable-subagents"));
        }
        if is_slack_tool(tool) && !self.slack {
            return reject(format!("the tool {name} needs --enable-slack-tools"));
        }
        if !self.allow.is_empty() && (self.list_is_sent || !listed(&self.allow)) {
            return match self.on_approval {
                OnApproval::Pause => Some(Verdict::Pause),
                _ => reject(format!("the tool {name} is not on the list of allowed tools (--allow-tool)")),
            };
        }
        if self.program {
            return None;
        }
        if listed(&self.allow) {
            return Some(Verdict::Accept);
        }
        Some(match self.on_approval {
            OnApproval::Accept => Verdict::Accept,
            OnApproval::Pause => Verdict::Pause,
            OnApproval::Reject => Verdict::Reject(None),
        })
    }
}

/// The separator of a command scope: `run_command::git::status`.
pub const SCOPE: &str = "::";

/// Returns whether a name from a flag means this tool, or a command of this tool. One of the two may lack the server's
/// prefix, but two different prefixes do not match.
pub fn names(given: &str, tool: &str) -> bool {
    let given = given.split_once(SCOPE).map_or(given, |(tool, _)| tool);
    given == tool || given == bare_name(tool) || bare_name(given) == tool
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn policy(allow: &[&str], deny: &[&str], program: bool, on_approval: OnApproval) -> Policy {
        let allow = set(allow);
        Policy { on_approval, allow, deny: set(deny), program, ..Policy::default() }
    }

    /// "accept", "reject", "reject: REASON'S LAST WORD", "pause" or "ask".
    fn word(verdict: Option<Verdict>) -> String {
        match verdict {
            None => "ask".into(),
            Some(Verdict::Accept) => "accept".into(),
            Some(Verdict::Pause) => "pause".into(),
            Some(Verdict::Reject(None)) => "reject".into(),
            Some(Verdict::Reject(Some(why))) => {
                format!("reject: {}", why.rsplit(' ').next().unwrap())
            }
        }
    }

    #[test]
    fn the_rules_apply_in_the_order_deny_enable_allow_program_default() {
        use OnApproval::{Accept, Pause, Reject};
        let rows: &[(&[&str], &[&str], bool, OnApproval, &str, &str)] = &[
            // allow, deny, program, --on-approval, tool → verdict
            (&[], &[], false, Accept, "p__view", "accept"),
            (&[], &[], false, Pause, "p__view", "pause"),
            (&[], &[], false, Reject, "p__view", "reject"),
            (&[], &["view"], false, Accept, "p__view", "reject: (--deny-tool)"),
            (&["view"], &["view"], true, Pause, "p__view", "reject: (--deny-tool)"),
            (&["view"], &[], false, Pause, "p__view", "accept"),
            (&["view"], &[], false, Pause, "view", "accept"),
            (&["view"], &[], false, Accept, "p__create", "reject: (--allow-tool)"),
            (&["view"], &[], false, Reject, "p__create", "reject: (--allow-tool)"),
            (&["view"], &[], false, Pause, "p__create", "pause"),
            (&["view"], &[], true, Pause, "p__view", "ask"),
            (&["view"], &[], true, Accept, "p__create", "reject: (--allow-tool)"),
            (&[], &["create"], false, Accept, "p__view", "accept"),
            (&[], &[], true, Accept, "p__view", "ask"),
            (&[], &[], false, Accept, "p__dynamic_subagent_task", "reject: --enable-subagents"),
            (&["slack_send_message"], &[], false, Accept, "p__slack_send_message", "reject: --enable-slack-tools"),
            // Either may lack the prefix, but not have another; only the first `__` ends it.
            (&[], &["p__view"], false, Accept, "p__view", "reject: (--deny-tool)"),
            (&[], &["p__view"], false, Accept, "view", "reject: (--deny-tool)"),
            (&["q__view"], &[], false, Accept, "p__view", "reject: (--allow-tool)"),
            (&["a__b"], &[], false, Accept, "p__a__b", "accept"),
            (&["b"], &[], false, Accept, "p__a__b", "reject: (--allow-tool)"),
        ];
        for (allow, deny, program, on_approval, tool, expected) in rows {
            let judged = policy(allow, deny, *program, *on_approval).judge(tool);
            assert_eq!(&word(judged), expected, "{allow:?} {deny:?} {program} {on_approval:?} {tool}");
        }
    }

    /// Everything that the flags can say about one call, `p__this`.
    #[test]
    fn each_combination_of_the_flags_has_one_answer() {
        use OnApproval::{Accept, Pause, Reject};
        let [no, this, other]: [&[&str]; 3] = [&[], &["this"], &["other"]];
        let (denied, unlisted) = ("reject: (--deny-tool)", "reject: (--allow-tool)");
        let rows: &[(&[&str], &[&str], bool, bool, [&str; 3])] = &[
            // allow, deny, program, sent → the verdicts under --on-approval accept, pause, reject
            (no, no, false, false, ["accept", "pause", "reject"]),
            (no, no, true, false, ["ask"; 3]),
            (no, this, false, false, [denied; 3]),
            (no, this, true, false, [denied; 3]),
            (no, other, false, false, ["accept", "pause", "reject"]),
            (no, other, true, false, ["ask"; 3]),
            (this, no, false, false, ["accept"; 3]),
            (this, no, true, false, ["ask"; 3]),
            (this, other, false, false, ["accept"; 3]),
            (this, other, true, false, ["ask"; 3]),
            (other, no, false, false, [unlisted, "pause", unlisted]),
            (other, no, true, false, [unlisted, "pause", unlisted]),
            (other, this, false, false, [denied; 3]),
            (other, this, true, false, [denied; 3]),
            (other, &["another"], false, false, [unlisted, "pause", unlisted]),
            (other, &["another"], true, false, [unlisted, "pause", unlisted]),
            // The server has the list, and asks about a call only if the list does not cover the call.
            (this, no, false, true, [unlisted, "pause", unlisted]),
            (other, no, false, true, [unlisted, "pause", unlisted]),
        ];
        for (allow, deny, program, list_is_sent, expected) in rows {
            let judged = [Accept, Pause, Reject].map(|on_approval| {
                let policy = policy(allow, deny, *program, on_approval);
                word(Policy { list_is_sent: *list_is_sent, ..policy }.judge("p__this"))
            });
            assert_eq!(judged, *expected, "{allow:?} {deny:?} {program} {list_is_sent}");
        }
    }

    #[test]
    fn enabled_tools_follow_the_rest_of_the_policy() {
        let enabled = Policy { subagents: true, slack: true, ..policy(&[], &[], false, OnApproval::Pause) };
        assert_eq!(word(enabled.judge("p__resume_subagent_task")), "pause");
        assert_eq!(word(enabled.judge("p__slack_read_replies")), "pause");
    }

    #[test]
    fn each_policy_flag_replaces_the_servers_policy() {
        let none = policy(&[], &[], false, OnApproval::Pause);
        assert!(!none.replaces_servers());
        assert!(policy(&["view"], &[], false, OnApproval::Pause).replaces_servers());
        assert!(policy(&[], &["view"], false, OnApproval::Pause).replaces_servers());
        assert!(policy(&[], &[], true, OnApproval::Pause).replaces_servers());
    }
}
