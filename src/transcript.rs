//! The run's text, turn by turn: what of it may be shown now, what is kept for the record, and how it is made whole
//! again after events were lost. Pure.

/// How much of the text is kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// None: it goes straight out.
    Nothing,
    /// The last turn's, for `--output final`.
    LastTurn,
    /// All, for a record.
    Everything,
}

/// See the module.
#[derive(Debug)]
pub struct Transcript {
    keep: Keep,
    /// The texts of the turns that had any, as far as they are kept.
    turns: Vec<String>,
    /// Whether the current turn has no text so far.
    turn_is_empty: bool,
    /// Turns with text that are out whole, and the bytes that are out of the one after them.
    out: (usize, usize),
    /// Events were lost: nothing more goes out until the text has come from the session's messages.
    held: bool,
    begun: bool,
}

impl Transcript {
    /// Nothing said yet.
    pub const fn new(keep: Keep) -> Self {
        Self { keep, turns: Vec::new(), turn_is_empty: true, out: (0, 0), held: false, begun: false }
    }

    /// A turn begins.
    pub fn turn(&mut self) {
        self.begun = true;
        self.turn_is_empty = true;
        if self.out.1 > 0 && !self.held {
            self.out = (self.out.0 + 1, 0);
        }
        if self.keep == Keep::LastTurn && !self.held {
            self.turns.clear();
        }
    }

    /// A piece of the turn's text: gives back what may go out.
    pub fn delta<'a>(&mut self, text: &'a str) -> &'a str {
        if self.held || text.is_empty() {
            return "";
        }
        self.out.1 += text.len();
        self.add(text);
        text
    }

    /// The turn's whole text: gives back what the pieces lacked.
    pub fn complete<'a>(&mut self, text: &'a str) -> &'a str {
        if self.held {
            // Second best, should the messages not be had: the turns that are not out in part.
            if self.turn_is_empty {
                self.add(text);
            }
            return "";
        }
        text.get(self.out.1..).map_or("", |rest| self.delta(rest))
    }

    fn add(&mut self, text: &str) {
        if self.keep != Keep::Nothing || self.held {
            match self.turns.last_mut() {
                Some(turn) if !self.turn_is_empty => turn.push_str(text),
                _ => self.turns.push(text.to_owned()),
            }
        }
        self.turn_is_empty = false;
    }

    /// Text was lost: hold the output.
    pub fn hold(&mut self) {
        if !self.held {
            self.held = true;
            self.turn_is_empty = self.out.1 == 0;
        }
    }

    /// Whether the output is held.
    pub const fn is_held(&self) -> bool {
        self.held
    }

    /// The run's true text has come from the messages, one string for each turn that has text. Gives back the pieces
    /// that are not out yet, one a turn; the first may continue a turn that is.
    pub fn heal(&mut self, turns: Vec<String>) -> Vec<String> {
        let (whole, bytes) = self.out;
        let mut missing: Vec<String> = turns.iter().skip(whole).cloned().collect();
        if let Some(first) = missing.first_mut() {
            *first = first.get(bytes..).unwrap_or_default().to_owned();
        }
        self.settle(turns);
        missing
    }

    /// The messages could not be had: gives back the turns that were completed since the loss.
    pub fn heal_from_events(&mut self) -> Vec<String> {
        let known = match self.keep {
            Keep::Nothing => 0,
            Keep::LastTurn => usize::from(self.out.1 > 0),
            Keep::Everything => self.out.0 + usize::from(self.out.1 > 0),
        };
        let missing: Vec<String> = self.turns.iter().skip(known).cloned().collect();
        self.settle(self.turns.clone());
        missing
    }

    fn settle(&mut self, turns: Vec<String>) {
        self.out = (turns.len(), 0);
        self.turn_is_empty = turns.is_empty();
        self.turns = turns;
        self.held = false;
        self.begun = true;
    }

    /// The last turn's text: empty if it said nothing, `None` if there was no turn or nothing is kept.
    pub fn last_turn(&self) -> Option<&str> {
        if self.keep == Keep::Nothing || !self.begun {
            None
        } else if self.turn_is_empty {
            Some("")
        } else {
            self.turns.last().map(String::as_str)
        }
    }

    /// All turns' text, as `--output text` shows it but for the newline at the end; `None` as above.
    pub fn all(&self) -> Option<String> {
        (self.keep == Keep::Everything && self.begun).then(|| {
            let mut all = String::with_capacity(self.turns.iter().map(|turn| turn.len() + 1).sum());
            for turn in &self.turns {
                if !all.is_empty() && !all.ends_with('\n') {
                    all.push('\n');
                }
                all.push_str(turn);
            }
            all
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_go_out_as_they_come_and_the_whole_adds_only_what_they_lacked() {
        let mut text = Transcript::new(Keep::Everything);
        text.turn();
        assert_eq!(text.delta("Hel"), "Hel");
        assert_eq!(text.complete("Hello"), "lo");
        assert_eq!(text.complete("Hello"), "");
        text.turn();
        assert_eq!(text.complete("Bye"), "Bye", "a turn without pieces");
        assert_eq!(text.all().unwrap(), "Hello\nBye");
        assert_eq!(text.last_turn(), Some("Bye"));
    }

    #[test]
    fn a_silent_last_turn_has_an_empty_text_and_no_turn_has_none() {
        let mut text = Transcript::new(Keep::Everything);
        assert_eq!((text.last_turn(), text.all()), (None, None));
        text.turn();
        text.delta("one\n");
        text.turn();
        assert_eq!(text.last_turn(), Some(""));
        assert_eq!(text.all().unwrap(), "one\n");
    }

    #[test]
    fn only_what_is_asked_for_is_kept() {
        for (keep, last, all) in [
            (Keep::Nothing, None, None),
            (Keep::LastTurn, Some("two"), None),
            (Keep::Everything, Some("two"), Some("one\ntwo")),
        ] {
            let mut text = Transcript::new(keep);
            for said in ["one", "two"] {
                text.turn();
                assert_eq!(text.delta(said), said);
            }
            assert_eq!(text.last_turn(), last, "{keep:?}");
            assert_eq!(text.all().as_deref(), all, "{keep:?}");
        }
    }

    #[test]
    fn after_a_loss_nothing_goes_out_until_the_messages_fill_in_what_is_not_out_yet() {
        for keep in [Keep::Nothing, Keep::LastTurn, Keep::Everything] {
            let mut text = Transcript::new(keep);
            text.turn();
            text.delta("one");
            text.turn();
            text.delta("tw");
            text.hold();
            assert_eq!(text.delta("ree"), "");
            assert_eq!(text.complete("three"), "");
            let turns: Vec<String> = ["one", "two", "three"].map(String::from).to_vec();
            assert_eq!(text.heal(turns), ["o", "three"], "{keep:?}");
            assert_eq!(text.delta("!"), "!", "and then it goes on");
        }
    }

    #[test]
    fn without_the_messages_the_turns_completed_since_the_loss_are_what_is_left() {
        for keep in [Keep::Nothing, Keep::Everything] {
            let mut text = Transcript::new(keep);
            text.turn();
            text.delta("one");
            text.hold();
            text.turn();
            text.complete("three");
            assert_eq!(text.heal_from_events(), ["three"], "{keep:?}");
        }
    }
}
