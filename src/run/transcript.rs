//! The agent's text, turn by turn: the part to show now, the part to keep for the record, and the text that was lost
//! with missing events, which comes from the session's messages.

/// How much of the text is kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    Nothing,
    /// The last turn's text, for `--output final`.
    LastTurn,
    /// All of the text, for a record, up to [`MAX_TEXT`].
    Everything,
}

/// The most text that is kept, in bytes. If a run has more, only the last turn's text is kept. If that turn has more,
/// nothing is kept.
pub const MAX_TEXT: usize = 4 * 1024 * 1024;

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Transcript {
    keep: Keep,
    /// The text that is kept, as the record has it.
    text: String,
    /// The start of the last turn's text in `text`.
    last: usize,
    /// The text of the earlier turns was dropped because of [`MAX_TEXT`].
    is_cut: bool,
    /// The text of the current turn was dropped because of [`MAX_TEXT`].
    turn_is_cut: bool,
    /// The current turn has no text so far.
    turn_is_empty: bool,
    /// What was shown: the number of whole turns with text, and the bytes of the turn after them.
    shown: (usize, usize),
    /// Events were lost: no more text is shown until [`Transcript::fill_in`] gets the session's messages.
    held: Option<Held>,
    /// A turn has begun, or the messages were read.
    begun: bool,
}

/// The turns that have ended since events were lost.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
struct Held {
    /// The whole text of each turn.
    turns: Vec<String>,
    /// The memory of all turns that have ended, in bytes. The turns over [`MAX_TEXT`] are not held: they must come from
    /// the messages.
    size: usize,
    /// No turn has begun since events were lost, so the first text may belong to the turn that was shown in part.
    same_turn: bool,
    /// The first text belongs to the turn that was shown in part.
    continues: bool,
}

impl Held {
    const fn is_full(&self) -> bool {
        self.size > MAX_TEXT
    }

    /// Returns how many of the held turns these turns of the messages contain, and whether no text can be missing.
    fn known_among(&self, turns: &[String]) -> (usize, bool) {
        let all = self.turns.len();
        // The turns that were not held follow the held ones.
        if self.is_full()
            && (0..turns.len()).any(|at| turns[at..].len() > all && turns[at..].starts_with(&self.turns))
        {
            return (all, true);
        }
        let known = (0..=all).rev().find(|known| turns.ends_with(&self.turns[..*known])).unwrap_or(0);
        (known, !self.is_full() && (known > 0 || all == 0))
    }
}

/// The memory that a held turn takes beside its text, in bytes.
const TURN: usize = 64;

/// The text to show after a loss.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FilledIn {
    /// The first piece continues the turn that was shown in part.
    pub continues: bool,
    /// One piece for each turn.
    pub pieces: Vec<String>,
    /// No text can be missing before or between the pieces.
    pub complete: bool,
}

impl Transcript {
    pub const fn new(keep: Keep) -> Self {
        Self {
            keep,
            text: String::new(),
            last: 0,
            is_cut: false,
            turn_is_cut: false,
            turn_is_empty: true,
            shown: (0, 0),
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
        if self.shown.1 > 0 {
            self.shown = (self.shown.0 + 1, 0);
        }
        self.begin();
    }

    fn begin(&mut self) {
        self.turn_is_empty = true;
        self.turn_is_cut = false;
        if self.keep == Keep::LastTurn {
            self.text.clear();
        }
    }

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

    /// Returns the current turn's text so far, if there is any and it is kept.
    fn said(&self) -> Option<&str> {
        let is_kept = self.keep != Keep::Nothing && !self.turn_is_cut && !self.turn_is_empty;
        is_kept.then(|| &self.text[self.last..])
    }

    /// Returns whether text for the record was dropped because of [`MAX_TEXT`].
    pub const fn is_cut(&self) -> bool {
        self.is_cut || self.turn_is_cut
    }

    /// Takes a piece of the turn's text and returns the text to show.
    pub fn delta<'a>(&mut self, text: &'a str) -> &'a str {
        if self.is_held() || text.is_empty() {
            return "";
        }
        self.shown.1 += text.len();
        self.keep(text);
        text
    }

    /// Takes the turn's whole text and returns the rest to show. Returns `None` if the whole text does not begin with
    /// the earlier pieces, as far as they are kept: then the record gets the whole text instead of the pieces.
    pub fn complete<'a>(&mut self, text: &'a str) -> Option<&'a str> {
        if self.is_held() {
            self.hold_turn(text);
            return Some("");
        }
        let differs = self.said().is_some_and(|said| !text.starts_with(said));
        if let Some(rest) = text.get(self.shown.1..).filter(|_| !differs) {
            return Some(self.delta(rest));
        }
        self.text.truncate(self.last);
        self.turn_is_cut = false;
        self.keep(text);
        None
    }

    fn hold_turn(&mut self, text: &str) {
        let continues = self.said().map(|said| text.starts_with(said));
        let Some(held) = &mut self.held else { return };
        if held.same_turn && self.shown.1 > 0 && held.turns.is_empty() {
            // Only kept text can tell whether this is the same turn.
            let Some(continues) = continues else { return };
            held.continues = continues;
        }
        held.size += text.len() + TURN;
        if !text.is_empty() && !held.is_full() {
            held.turns.push(text.to_owned());
        }
    }

    /// Notes that events were lost: no more text is shown.
    pub fn hold(&mut self) {
        self.held.get_or_insert_with(|| Held { same_turn: true, ..Held::default() });
    }

    pub const fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Fills in the lost text from the session's messages: one string for each turn that has text. If the messages have
    /// less than the events, because they lag behind or the server is gone, the text of the events is used.
    pub fn fill_in(&mut self, messages: Vec<String>) -> FilledIn {
        let held = self.held.take().unwrap_or_default();
        let (whole, bytes) = self.shown;
        // The held turns were not shown, so they can only follow the turns that were.
        let before = whole + usize::from(bytes > 0 && !held.continues);
        let is_behind = messages.get(whole).map_or(messages.len() < whole || bytes > 0, |turn| turn.len() < bytes);
        self.begun = true;
        let mut filled_in = if is_behind {
            if held.continues {
                self.text.truncate(self.last);
            }
            self.keep_turns(&held.turns);
            self.shown = (before + held.turns.len(), 0);
            FilledIn { continues: held.continues, pieces: held.turns, complete: false }
        } else {
            let mut turns = messages;
            let (known, complete) = held.known_among(&turns[turns.len().min(before)..]);
            turns.extend(held.turns.into_iter().skip(known));
            self.text.clear();
            self.keep_turns(&turns);
            self.shown = (turns.len(), 0);
            FilledIn { continues: bytes > 0, pieces: turns.into_iter().skip(whole).collect(), complete }
        };
        if let Some(first) = filled_in.pieces.first_mut().filter(|_| filled_in.continues) {
            *first = first.get(bytes..).unwrap_or_default().to_owned();
        }
        filled_in
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
        let is_kept = self.keep != Keep::Nothing && self.begun && !self.turn_is_cut;
        is_kept.then(|| if self.turn_is_empty { "" } else { &self.text[self.last..] })
    }

    /// Returns the text of all turns, with a newline between two turns, or `None` if there was no turn or not all
    /// text is kept.
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
