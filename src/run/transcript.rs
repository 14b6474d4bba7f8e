//! The text of a run, turn by turn: which part may be shown now, which part is kept for the record, and how the session's
//! messages fill in what was lost with missing events. No I/O.

/// How much of the text is kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// None: it is only passed on.
    Nothing,
    /// The last turn's text, for `--output final`.
    LastTurn,
    /// All of the text, for a record, up to [`MAX_TEXT`].
    Everything,
}

/// The most text that is kept, in bytes. If a run says more, only the last turn's text is kept; if that turn says more,
/// nothing of it is kept.
pub const MAX_TEXT: usize = 4 * 1024 * 1024;

/// The text that was passed on, and the text that is kept.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Transcript {
    keep: Keep,
    /// The text that is kept, as the record has it.
    text: String,
    /// Where the text of the last turn begins in `text`.
    last: usize,
    /// The text of the earlier turns was dropped because of [`MAX_TEXT`].
    is_cut: bool,
    /// The text of the current turn was dropped because of [`MAX_TEXT`].
    turn_is_cut: bool,
    /// The current turn has no text so far.
    turn_is_empty: bool,
    /// What was passed on: the number of whole turns with text, and the bytes of the turn after them.
    out: (usize, usize),
    /// Events were lost. No more text is passed on until [`Transcript::heal`] has the session's messages.
    held: Option<Held>,
    begun: bool,
}

/// The turns that have ended since events were lost.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
struct Held {
    /// The whole text of each turn.
    turns: Vec<String>,
    /// The memory that they take, in bytes.
    size: usize,
    /// They are over [`MAX_TEXT`]: later turns must come from the messages.
    is_full: bool,
    /// No turn has begun since events were lost: the first text may belong to the turn that was passed on in part.
    same_turn: bool,
    /// The first text belongs to that turn.
    continues: bool,
}

impl Held {
    /// Returns how many of the held turns are among these turns of the messages, and whether no text can be missing.
    fn known_among(&self, turns: &[String]) -> (usize, bool) {
        let all = self.turns.len();
        // The turns that did not fit must follow the held ones.
        if self.is_full
            && (0..turns.len()).any(|at| turns[at..].len() > all && turns[at..].starts_with(&self.turns))
        {
            return (all, true);
        }
        let known = (0..=all).rev().find(|known| turns.ends_with(&self.turns[..*known])).unwrap_or(0);
        (known, !self.is_full && (known > 0 || all == 0))
    }
}

/// The memory that a held turn takes beside its text, in bytes.
const TURN: usize = 64;

/// The text to pass on after a loss.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Healed {
    /// The first piece continues the turn that was passed on in part.
    pub continues: bool,
    /// One piece for each turn.
    pub pieces: Vec<String>,
    /// No text can be missing before or between the pieces.
    pub complete: bool,
}

impl Transcript {
    /// Creates an empty transcript.
    pub const fn new(keep: Keep) -> Self {
        Self {
            keep,
            text: String::new(),
            last: 0,
            is_cut: false,
            turn_is_cut: false,
            turn_is_empty: true,
            out: (0, 0),
            held: None,
            begun: false,
        }
    }

    /// Begins a turn.
    pub fn turn(&mut self) {
        self.begun = true;
        if let Some(held) = &mut self.held {
            held.same_turn = false;
            return;
        }
        if self.out.1 > 0 {
            self.out = (self.out.0 + 1, 0);
        }
        self.begin();
    }

    /// Prepares `text` for another turn.
    fn begin(&mut self) {
        self.turn_is_empty = true;
        self.turn_is_cut = false;
        if self.keep == Keep::LastTurn {
            self.text.clear();
        }
    }

    /// Keeps more text of the current turn.
    fn keep(&mut self, text: &str) {
        let is_first = std::mem::replace(&mut self.turn_is_empty, false);
        if self.keep == Keep::Nothing || self.turn_is_cut {
            return;
        }
        if is_first {
            if !self.text.is_empty() && !self.text.ends_with('\n') {
                self.text.push('\n');
            }
            self.last = self.text.len();
        }
        if self.text.len() + text.len() > MAX_TEXT {
            self.is_cut |= self.keep == Keep::Everything;
            self.keep = Keep::LastTurn;
            self.text.drain(..self.last);
            self.last = 0;
        }
        if self.text.len() + text.len() > MAX_TEXT {
            self.turn_is_cut = true;
            self.text = String::new();
        } else {
            self.text.push_str(text);
        }
    }

    /// Returns the current turn's text so far, or `None` if there is none or it is not kept.
    fn said(&self) -> Option<&str> {
        let is_kept = self.keep != Keep::Nothing && !self.turn_is_cut && !self.turn_is_empty;
        is_kept.then(|| &self.text[self.last..])
    }

    /// Returns whether some text that should be kept was dropped because of [`MAX_TEXT`].
    pub const fn is_cut(&self) -> bool {
        self.is_cut || self.turn_is_cut
    }

    /// Takes a piece of the turn's text, and returns what may be passed on.
    pub fn delta<'a>(&mut self, text: &'a str) -> &'a str {
        if self.is_held() || text.is_empty() {
            return "";
        }
        self.out.1 += text.len();
        self.keep(text);
        text
    }

    /// Takes the turn's whole text, and returns what its pieces lacked. Returns `None` if the pieces were not the
    /// beginning of this text, as far as that is known: then the record has this text instead of the pieces.
    pub fn complete<'a>(&mut self, text: &'a str) -> Option<&'a str> {
        if self.is_held() {
            self.hold_turn(text);
            return Some("");
        }
        let differs = self.said().is_some_and(|said| !text.starts_with(said));
        if let Some(rest) = text.get(self.out.1..).filter(|_| !differs) {
            return Some(self.delta(rest));
        }
        self.text.truncate(self.last);
        self.turn_is_cut = false;
        self.keep(text);
        None
    }

    /// Holds the whole text of a turn.
    fn hold_turn(&mut self, text: &str) {
        let continues = self.said().map(|said| text.starts_with(said));
        let Some(held) = &mut self.held else { return };
        if held.same_turn && self.out.1 > 0 && held.turns.is_empty() {
            // Only the text that is kept tells whether this text continues it.
            let Some(continues) = continues else { return };
            held.continues = continues;
        }
        held.size += text.len() + TURN;
        held.is_full |= held.size > MAX_TEXT;
        if !text.is_empty() && !held.is_full {
            held.turns.push(text.to_owned());
        }
    }

    /// Notes that events were lost: no more text is passed on.
    pub fn hold(&mut self) {
        self.held.get_or_insert_with(|| Held { same_turn: true, ..Held::default() });
    }

    /// Returns whether text is held back.
    pub const fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Fills in the lost text from the session's messages: one string for each turn that has text. The messages may lag
    /// behind the events, or be gone with the server; then the text of the events stands.
    pub fn heal(&mut self, messages: Vec<String>) -> Healed {
        let held = self.held.take().unwrap_or_default();
        let (whole, bytes) = self.out;
        let is_behind = messages.get(whole).map_or(messages.len() < whole || bytes > 0, |turn| turn.len() < bytes);
        self.begun = true;
        let mut healed = if is_behind {
            if held.continues {
                self.text.truncate(self.last);
            }
            self.keep_turns(&held.turns);
            self.out = (whole + usize::from(bytes > 0 && !held.continues) + held.turns.len(), 0);
            Healed { continues: held.continues, pieces: held.turns, complete: false }
        } else {
            let mut turns = messages;
            // The held turns were not passed on, so they can only follow the turns that were.
            let later = &turns[turns.len().min(whole + usize::from(bytes > 0 && !held.continues))..];
            let (known, complete) = held.known_among(later);
            turns.extend(held.turns.into_iter().skip(known));
            self.text.clear();
            self.keep_turns(&turns);
            self.out = (turns.len(), 0);
            Healed { continues: bytes > 0, pieces: turns.into_iter().skip(whole).collect(), complete }
        };
        if let Some(first) = healed.pieces.first_mut().filter(|_| healed.continues) {
            *first = first.get(bytes..).unwrap_or_default().to_owned();
        }
        healed
    }

    fn keep_turns(&mut self, turns: &[String]) {
        for turn in turns {
            self.begin();
            self.keep(turn);
        }
        self.turn_is_empty = self.text.is_empty() && !self.turn_is_cut;
    }

    /// Returns the last turn's text: empty if the turn had none, `None` if there was no turn or its text is not kept.
    pub fn last_turn(&self) -> Option<&str> {
        if self.keep == Keep::Nothing || !self.begun || self.turn_is_cut {
            None
        } else if self.turn_is_empty {
            Some("")
        } else {
            Some(&self.text[self.last..])
        }
    }

    /// Returns the text of all turns, with a newline between two turns. `None` if there was no turn or the text of some
    /// turn is not kept.
    pub fn into_all(self) -> Option<String> {
        (self.keep == Keep::Everything && self.begun).then_some(self.text)
    }
}

#[cfg(test)]
impl Transcript {
    pub fn all(&self) -> Option<String> {
        self.clone().into_all()
    }
}

#[cfg(test)]
mod tests;
