//! The run's text, turn by turn: what of it may be shown now, what is kept for the record, and how it is made whole
//! again after events were lost. Pure.

use crate::agent::sse::MAX_EVENT;

/// How much of the text is kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// None: it goes straight out.
    Nothing,
    /// The last turn's, for `--output final`.
    LastTurn,
    /// All, for a record, as far as it is not too long ([`MAX_TEXT`]).
    Everything,
}

/// As much text as is kept, in bytes. Of a run that says more only the last turn's is kept on, and a turn that says more
/// is no model's.
pub const MAX_TEXT: usize = MAX_EVENT;
/// What is kept and the copies of an event take no more together, in bytes.
const ROOM: usize = 28 * 1024 * 1024;
/// What a turn takes beside its text, in bytes, about.
const TURN: usize = 64;

/// See the module.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Transcript {
    keep: Keep,
    /// The texts of the turns that had any, as far as they are kept.
    turns: Vec<String>,
    /// What they take, in bytes.
    size: usize,
    /// Of a run that said more than is kept, the last turn is.
    is_cut: bool,
    /// Whether the current turn has no text so far.
    turn_is_empty: bool,
    /// Turns with text that are out whole, and the bytes that are out of the one after them.
    out: (usize, usize),
    /// Events were lost: nothing more goes out until the text has come from the session's messages.
    held: Option<Held>,
    begun: bool,
}

/// As much text as is held, in bytes; the messages must have the rest.
const MAX_HELD: usize = MAX_EVENT;

/// What was heard since events were lost: the whole texts of the turns that ended since.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
struct Held {
    turns: Vec<String>,
    size: usize,
    /// No turn has begun since: the first text may be of the turn that is out in part.
    same_turn: bool,
    /// The first text is of that turn.
    continues: bool,
}

/// What was held, to go out now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Healed {
    /// The first piece goes on with the turn that is out in part.
    pub continues: bool,
    /// One piece a turn.
    pub pieces: Vec<String>,
    /// Nothing can be missing before or between them.
    pub complete: bool,
}

impl Transcript {
    /// Nothing said yet.
    pub const fn new(keep: Keep) -> Self {
        Self {
            keep,
            turns: Vec::new(),
            size: 0,
            is_cut: false,
            turn_is_empty: true,
            out: (0, 0),
            held: None,
            begun: false,
        }
    }

    /// A turn begins.
    pub fn turn(&mut self) {
        self.begun = true;
        if let Some(held) = &mut self.held {
            held.same_turn = false;
            return;
        }
        self.turn_is_empty = true;
        if self.out.1 > 0 {
            self.out = (self.out.0 + 1, 0);
        }
        if self.keep == Keep::LastTurn {
            self.turns.clear();
            self.size = 0;
        }
    }

    /// Keeps no more than is to be kept.
    fn trim(&mut self) {
        let size = |turns: &[String]| turns.iter().map(|turn| turn.len() + TURN).sum();
        self.size = size(&self.turns);
        if self.keep == Keep::Everything && self.size > MAX_TEXT {
            self.keep = Keep::LastTurn;
            self.is_cut = true;
        }
        if self.keep != Keep::Everything {
            self.turns.drain(..self.turns.len().saturating_sub(1));
            self.size = size(&self.turns);
        }
    }

    /// Makes room for an event, of which there are three copies for a moment when it must be unescaped.
    pub fn make_room(&mut self, event: usize) {
        let needed = self.held.as_ref().map_or(0, |held| held.size.min(MAX_HELD)) + 3 * event;
        if self.size > 0 && self.size + needed > ROOM {
            self.cut();
        }
        if self.size > 0 && self.size + needed > ROOM {
            // One turn said all that: too long, too.
            self.turns.clear();
            self.size = if self.keep == Keep::Nothing { 0 } else { MAX_TEXT + 1 };
        }
    }

    /// Keeps only the text of the turn that goes on.
    fn cut(&mut self) {
        self.is_cut |= self.keep == Keep::Everything;
        if self.keep == Keep::Everything {
            self.keep = Keep::LastTurn;
        }
        if self.turn_is_empty {
            self.turns.clear();
        }
        self.trim();
    }

    /// Keeps what was said.
    fn keep(&mut self, text: &str) {
        if self.keep == Keep::Everything && self.size + text.len() + TURN > MAX_TEXT {
            self.cut();
        }
        if self.size + text.len() > MAX_TEXT {
            // Too long: this is the end.
            self.size += text.len();
            return;
        }
        match self.turns.last_mut().filter(|_| !self.turn_is_empty) {
            Some(turn) => {
                grow(turn, text.len());
                turn.push_str(text);
                self.size += text.len();
            }
            None => {
                self.turns.push(text.to_owned());
                self.size += text.len() + TURN;
            }
        }
    }

    /// Whether one turn alone says more than may be kept.
    pub const fn is_too_long(&self) -> bool {
        self.size > MAX_TEXT
    }

    /// Whether there is more text than is kept.
    pub const fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// A piece of the turn's text: gives back what may go out.
    pub fn delta<'a>(&mut self, text: &'a str) -> &'a str {
        if self.is_held() || text.is_empty() {
            return "";
        }
        self.out.1 += text.len();
        if self.keep != Keep::Nothing {
            self.keep(text);
        }
        self.turn_is_empty = false;
        text
    }

    /// The turn's whole text: gives back what the pieces lacked, or `None` if they were not of this text, which then takes
    /// their place for the record.
    pub fn complete<'a>(&mut self, text: &'a str) -> Option<&'a str> {
        let Some(held) = &mut self.held else {
            let said = self.turns.last_mut().filter(|_| !self.turn_is_empty);
            let differs = said.as_ref().is_some_and(|said| !text.starts_with(said.as_str()));
            return match text.get(self.out.1..).filter(|_| !differs) {
                Some(rest) => Some(self.delta(rest)),
                None => {
                    said.into_iter().for_each(|said| text.clone_into(said));
                    self.trim();
                    None
                }
            };
        };
        if held.same_turn && self.out.1 > 0 && held.turns.is_empty() {
            // Which turn's it is, only what is kept of the text can tell.
            held.continues = self.turns.last().is_some_and(|turn| text.starts_with(turn.as_str()));
            if !held.continues && self.keep == Keep::Nothing {
                return Some("");
            }
        }
        held.size += text.len() + TURN;
        if !text.is_empty() && held.size <= MAX_HELD {
            held.turns.push(text.to_owned());
        }
        Some("")
    }

    /// Text was lost: hold the output.
    pub fn hold(&mut self) {
        self.held.get_or_insert_with(|| Held { same_turn: true, ..Held::default() });
    }

    /// Whether the output is held.
    pub const fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// The run's text has come from the session's messages, one string for each turn that has text. They may lag behind
    /// what was heard, or have been lost with the server: what was heard stays.
    pub fn heal(&mut self, messages: Vec<String>) -> Healed {
        let held = self.held.take().unwrap_or_default();
        let (whole, bytes) = self.out;
        let is_behind = messages.get(whole).map_or(messages.len() < whole || bytes > 0, |turn| turn.len() < bytes);
        let (turns, mut pieces, continues, complete): (Vec<String>, Vec<String>, bool, bool) = if is_behind {
            let mut turns = std::mem::take(&mut self.turns);
            if held.continues {
                turns.pop();
            }
            turns.extend(held.turns.iter().cloned());
            (turns, held.turns, held.continues, false)
        } else {
            let mut turns = messages;
            // What was held is not out: it can only stand behind what is.
            let later = &turns[turns.len().min(whole + usize::from(bytes > 0 && !held.continues))..];
            let known = (0..=held.turns.len()).rev().find(|known| later.ends_with(&held.turns[..*known]));
            let known = known.unwrap_or(0);
            let complete = known > 0 || held.turns.is_empty();
            turns.extend(held.turns.into_iter().skip(known));
            let pieces = turns.iter().skip(whole).cloned().collect();
            (turns, pieces, bytes > 0, complete)
        };
        if let Some(first) = pieces.first_mut().filter(|_| continues) {
            *first = first.get(bytes..).unwrap_or_default().to_owned();
        }
        self.out = (turns.len(), 0);
        self.turn_is_empty = turns.is_empty();
        self.begun = true;
        self.turns = turns;
        self.trim();
        Healed { continues, pieces, complete }
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
    pub fn into_all(self) -> Option<String> {
        (self.keep == Keep::Everything && self.begun).then(|| {
            let length = self.turns.iter().map(|turn| turn.len() + 1).sum::<usize>();
            let mut turns = self.turns.into_iter();
            let mut all = turns.next().unwrap_or_default();
            all.reserve_exact(length.saturating_sub(1 + all.len()));
            for turn in turns {
                if !all.is_empty() && !all.ends_with('\n') {
                    all.push('\n');
                }
                all.push_str(&turn);
            }
            all
        })
    }
}

#[cfg(test)]
impl Transcript {
    /// The same, for a look on the way.
    pub fn all(&self) -> Option<String> {
        self.clone().into_all()
    }
}

/// Makes room for so many bytes more: twice as much as there is, but not beyond what may be kept.
fn grow(turn: &mut String, more: usize) {
    let needed = turn.len() + more;
    if needed > turn.capacity() {
        turn.reserve_exact((2 * turn.len()).clamp(needed, MAX_TEXT.max(needed)) - turn.len());
    }
}

#[cfg(test)]
mod tests;
