//! The run's text, turn by turn: what of it may be shown now, what is kept for the record, and how it is made whole
//! again after events were lost. Pure.

use crate::sse::MAX_EVENT;

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
mod tests {
    use super::*;

    #[test]
    fn of_a_run_that_says_more_than_is_kept_the_last_turn_is() {
        let long = "x".repeat(MAX_TEXT / 3);
        let mut text = Transcript::new(Keep::Everything);
        for turn in ["one", "two", "three"] {
            assert!(!text.is_cut());
            text.turn();
            text.delta(turn);
            text.delta(&long);
        }
        assert!(text.is_cut() && !text.is_too_long());
        assert_eq!((text.last_turn().map(str::len), text.all()), (Some(5 + long.len()), None));
        text.turn();
        text.delta("four");
        assert_eq!(text.last_turn(), Some("four"));
        (0..3).for_each(|_| assert_eq!(text.delta(&long).len(), long.len()));
        assert!(text.is_too_long());
        let mut text = Transcript::new(Keep::Nothing);
        text.turn();
        (0..4).for_each(|_| assert_eq!(text.delta(&long).len(), long.len()));
        assert!(!text.is_cut() && !text.is_too_long());
    }

    #[test]
    fn pieces_go_out_as_they_come_and_the_whole_adds_only_what_they_lacked() {
        let mut text = Transcript::new(Keep::Everything);
        text.turn();
        assert_eq!(text.delta("Hel"), "Hel");
        assert_eq!(text.complete("Hello"), Some("lo"));
        assert_eq!(text.complete("Hello"), Some(""));
        text.turn();
        assert_eq!(text.complete("Bye"), Some("Bye"), "a turn without pieces");
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
    fn pieces_that_are_not_of_the_whole_are_out_but_the_record_is_true() {
        for (whole, keep) in [("Help!", Keep::Everything), ("He", Keep::Everything), ("é", Keep::LastTurn)] {
            let mut text = Transcript::new(keep);
            text.turn();
            assert_eq!(text.delta("Hel"), "Hel");
            assert_eq!(text.complete(whole).is_none(), whole != "Help!", "{whole}");
            assert_eq!(text.last_turn(), Some(whole));
        }
        let mut text = Transcript::new(Keep::Nothing);
        text.delta("Hello");
        assert_eq!(text.complete("Hell"), None, "as far as the length tells");
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    /// A run whose second turn is out in part when events are lost.
    fn held_in_the_second_turn(keep: Keep) -> Transcript {
        let mut text = Transcript::new(keep);
        text.turn();
        text.delta("one");
        text.turn();
        text.delta("tw");
        text.hold();
        assert_eq!(text.delta("ree"), "");
        text
    }

    #[test]
    fn after_a_loss_nothing_goes_out_until_the_messages_fill_in_what_is_not_out_yet() {
        for keep in [Keep::Nothing, Keep::LastTurn, Keep::Everything] {
            let mut text = held_in_the_second_turn(keep);
            text.turn();
            assert_eq!(text.complete("three"), Some(""));
            let healed = text.heal(strings(&["one", "two", "three"]));
            let pieces = strings(&["o", "three"]);
            assert_eq!(healed, Healed { continues: true, pieces, complete: true }, "{keep:?}");
            assert_eq!(text.delta("!"), "!", "and then it goes on");
        }
    }

    #[test]
    fn what_was_heard_stays_where_the_messages_lag_behind_or_are_gone() {
        // What the messages have → what goes out, whether that is all, and the record's text.
        let rows: &[(&[&str], &[&str], bool, &str)] = &[
            (&["one", "two", "three", "four"], &["o", "three", "four"], true, "one\ntwo\nthree\nfour"),
            (&["one", "two", "three"], &["o", "three", "four"], true, "one\ntwo\nthree\nfour"),
            (&["one", "two"], &["o", "three", "four"], false, "one\ntwo\nthree\nfour"),
            (&["one"], &["three", "four"], false, "one\ntw\nthree\nfour"),
            (&[], &["three", "four"], false, "one\ntw\nthree\nfour"),
        ];
        for (messages, pieces, complete, all) in rows {
            let mut text = held_in_the_second_turn(Keep::Everything);
            for said in ["three", "four"] {
                text.turn();
                text.complete(said);
            }
            let healed = text.heal(strings(messages));
            assert_eq!((healed.pieces, healed.complete), (strings(pieces), *complete), "{messages:?}");
            assert_eq!(healed.continues, messages.len() > 1, "{messages:?}");
            assert_eq!(text.all().as_deref(), Some(*all), "{messages:?}");
            assert_eq!(text.last_turn(), Some("four"), "{messages:?}");
        }
    }

    #[test]
    fn the_rest_of_a_turn_that_is_out_in_part_is_known_by_its_beginning_where_it_is_kept() {
        for (keep, whole, continues, pieces) in [
            (Keep::Everything, "two", true, &["o"][..]),
            (Keep::Everything, "another", false, &["another"]),
            (Keep::Nothing, "two", false, &[]),
        ] {
            let mut text = held_in_the_second_turn(keep);
            assert_eq!(text.complete(whole), Some(""));
            let healed = text.heal(Vec::new());
            assert_eq!((healed.continues, healed.pieces), (continues, strings(pieces)), "{keep:?} {whole}");
        }
    }

    #[test]
    fn where_the_messages_have_just_what_is_out_nothing_is_missing() {
        let mut text = Transcript::new(Keep::Everything);
        text.turn();
        text.delta("one");
        text.turn();
        text.hold();
        assert_eq!(text.heal(strings(&["one"])), Healed { continues: false, pieces: Vec::new(), complete: true });
    }

    #[test]
    fn a_turn_that_ends_its_line_needs_no_newline_more() {
        let mut text = Transcript::new(Keep::Everything);
        for said in ["one\n", "two", "three"] {
            text.turn();
            text.delta(said);
        }
        assert_eq!(text.into_all().as_deref(), Some("one\ntwo\nthree"));
    }

    #[test]
    fn a_turn_that_says_the_same_as_the_one_before_is_not_taken_for_it() {
        let mut text = Transcript::new(Keep::Everything);
        text.turn();
        text.complete("Done.");
        text.hold();
        text.turn();
        text.complete("Done.");
        assert_eq!(text.heal(strings(&["Done."])).pieces, ["", "Done."], "the messages lag behind");
        assert_eq!(text.all().as_deref(), Some("Done.\nDone."));
    }

    /// What the server says of a turn.
    enum Said {
        Turn,
        Delta(String),
        Whole(String),
    }

    /// Turns of so many pieces each: `0a0b`, `1a`, …; no two have a piece in common.
    fn story(pieces: &[u8]) -> (Vec<String>, Vec<Said>) {
        let mut events = Vec::new();
        let turn = |(number, count): (usize, &u8)| {
            events.push(Said::Turn);
            let said: Vec<String> = (b'a'..b'a' + count).map(|c| format!("{number}{}", char::from(c))).collect();
            events.extend(said.iter().cloned().map(Said::Delta));
            let whole = said.concat();
            if !whole.is_empty() {
                events.push(Said::Whole(whole.clone()));
            }
            whole
        };
        let turns: Vec<String> = pieces.iter().enumerate().map(turn).collect();
        (turns.into_iter().filter(|turn| !turn.is_empty()).collect(), events)
    }

    proptest::proptest! {
        /// Some events are lost, and the messages know of some turns: nothing is out twice or in the wrong order, and
        /// with all the messages nothing is missing.
        #[test]
        fn whatever_is_lost_nothing_comes_twice_and_the_messages_heal_it(
            pieces in proptest::collection::vec(0_u8..4, 1..5),
            lost in 0_usize..30,
            count in 1_usize..12,
            known in 0_usize..6,
            keep in proptest::sample::select(vec![Keep::Nothing, Keep::LastTurn, Keep::Everything]),
        ) {
            let (turns, events) = story(&pieces);
            let mut text = Transcript::new(keep);
            let (mut out, mut fresh) = (String::new(), false);
            let show = |out: &mut String, fresh: &mut bool, piece: &str| {
                if !piece.is_empty() && std::mem::take(fresh) && !out.is_empty() {
                    out.push('\n');
                }
                out.push_str(piece);
            };
            for (at, event) in events.iter().enumerate() {
                if at == lost {
                    text.hold();
                }
                match event {
                    _ if (lost..lost + count).contains(&at) => {}
                    Said::Turn => {
                        text.turn();
                        fresh = true;
                    }
                    Said::Delta(delta) => show(&mut out, &mut fresh, text.delta(delta)),
                    Said::Whole(whole) => show(&mut out, &mut fresh, text.complete(whole).expect("it fits")),
                }
            }
            let truth = turns.join("\n");
            if text.is_held() {
                let known = turns[..known.min(turns.len())].to_vec();
                let all = known.len() == turns.len();
                let healed = text.heal(known);
                fresh = !healed.continues;
                for piece in healed.pieces {
                    show(&mut out, &mut fresh, &piece);
                    fresh = true;
                }
                proptest::prop_assert!(!all || out == truth, "{out:?} for {truth:?}");
            } else {
                proptest::prop_assert_eq!(&out, &truth);
            }
            let mut rest = truth.as_str();
            for word in out.as_bytes().chunk_by(|_, next| next.is_ascii_alphabetic()) {
                let word = std::str::from_utf8(word).expect("ASCII").trim();
                let at = rest.find(word);
                proptest::prop_assert!(at.is_some(), "{out:?} of {truth:?}: {word:?} is double or out of place");
                rest = &rest[at.unwrap_or_default() + word.len()..];
            }
            if keep == Keep::Everything {
                let all = text.all().unwrap_or_default();
                proptest::prop_assert!(out.lines().all(|line| all.contains(line)), "{out:?} was heard, and {all:?} kept");
            }
        }
    }

    const MIB: usize = 1024 * 1024;

    /// A turn of `first` MiB, then one that goes on, of `second`.
    fn two_turns(keep: Keep, first: usize, second: usize) -> Transcript {
        let mut text = Transcript::new(keep);
        for (letter, size) in [("a", first), ("b", second)] {
            text.turn();
            text.delta(&letter.repeat(size * MIB));
        }
        text
    }

    #[test]
    fn the_bounds_are_the_documented_ones() {
        assert_eq!([MAX_TEXT, MAX_HELD, ROOM], [8 * MIB, 8 * MIB, 28 * MIB]);
    }

    #[test]
    fn room_for_a_large_event_is_made_of_the_turns_that_are_over() {
        for (first, second) in [(5, 1), (0, 5)] {
            let mut text = two_turns(Keep::Everything, first, second);
            let fits = (ROOM - text.size) / 3;
            text.make_room(fits);
            assert!(!text.is_cut() && text.size > (first + second) * MIB, "it fits");
            let mut over = text.clone();
            over.turn();
            text.make_room(fits + 1);
            assert_eq!((text.is_cut(), text.clone().into_all()), (true, None));
            let goes_on = text.last_turn().map(str::len);
            assert_eq!(goes_on == Some(second * MIB), first > 0, "{goes_on:?}");
            assert_eq!(text.is_too_long(), first == 0, "what goes on alone is too much");
            over.make_room(fits + 1);
            assert_eq!(over.last_turn(), Some(""), "all of it is over");
            assert!(over.is_cut() && over.size == 0 && !over.is_too_long());
        }
    }

    #[test]
    fn text_is_kept_up_to_its_bound_and_a_turn_beyond_it_is_too_long() {
        for keep in [Keep::Everything, Keep::LastTurn] {
            let mut text = Transcript::new(keep);
            text.turn();
            text.delta("a");
            text.delta(&"b".repeat(MAX_TEXT - 1 - 2 * TURN));
            assert!(!text.is_cut() && !text.is_too_long(), "{keep:?}: all of it fits");
            text.delta(&"c".repeat(TURN));
            assert_eq!(text.last_turn().map(str::len), Some(MAX_TEXT - TURN), "{keep:?}: so does the last byte");
            assert!(!text.is_too_long());
            text.delta("d");
            assert_eq!(text.last_turn().map(str::len), Some(MAX_TEXT - TURN), "{keep:?}: no more is kept");
            assert!(text.is_too_long(), "{keep:?}");
            let mut text = Transcript::new(keep);
            text.delta(&"e".repeat(MAX_TEXT + 1));
            assert!(text.is_too_long(), "{keep:?}: at once");
        }
        let mut text = Transcript::new(Keep::Everything);
        text.delta(&"a".repeat(MAX_TEXT - TURN));
        assert!(!text.is_cut(), "just as much as is kept");
    }

    #[test]
    fn exactly_enough_room_is_enough() {
        const EVENT: usize = 8_000_000;
        let mut text = Transcript::new(Keep::Everything);
        text.turn();
        text.delta(&"a".repeat(ROOM - 3 * EVENT - TURN));
        text.make_room(EVENT);
        assert!(!text.is_cut());
        let mut text = Transcript::new(Keep::Everything);
        for said in ["a".to_owned(), "b".repeat(ROOM - 3 * EVENT - TURN)] {
            text.turn();
            text.delta(&said);
        }
        text.make_room(EVENT);
        assert!(text.is_cut() && !text.is_too_long(), "after the first turn has gone");
        // Where nothing is kept, nothing can go.
        let mut text = Transcript::new(Keep::Everything);
        text.hold();
        text.complete(&"c".repeat(5 * MIB));
        text.make_room(MAX_EVENT);
        assert!(!text.is_cut() && !text.is_too_long());
    }

    #[test]
    fn what_is_held_takes_room_too_and_what_is_not_kept_takes_none() {
        let mut text = two_turns(Keep::Everything, 0, 4);
        text.hold();
        text.turn();
        assert_eq!(text.complete(&"c".repeat(5 * MIB)), Some(""));
        let fits = (ROOM - text.size - 5 * MIB - TURN) / 3;
        text.make_room(fits);
        assert!(!text.is_cut());
        text.make_room(fits + 1);
        assert!(text.is_cut());
        for keep in [Keep::Nothing, Keep::LastTurn] {
            let mut text = two_turns(keep, 5, 1);
            text.make_room(MAX_EVENT);
            assert!(!text.is_cut() && !text.is_too_long(), "{keep:?}");
            assert_eq!(text.last_turn().map(str::len), (keep != Keep::Nothing).then_some(MIB));
        }
    }

    #[test]
    fn text_from_the_messages_is_kept_as_far_as_all_is() {
        for (size, all) in [(MAX_TEXT - 1 - 2 * TURN, true), (MAX_TEXT - 2 * TURN, false)] {
            let mut text = Transcript::new(Keep::Everything);
            text.hold();
            text.heal(vec!["a".repeat(size), "b".to_owned()]);
            assert_eq!((text.is_cut(), text.last_turn()), (!all, Some("b")), "{size}");
            assert_eq!(text.into_all().map(|all| all.len()), all.then_some(size + 2));
        }
    }

    #[test]
    fn text_without_end_is_not_held() {
        let mut text = Transcript::new(Keep::Nothing);
        text.hold();
        let long = "x".repeat(MAX_HELD / 4 - TURN);
        for _ in 0..100 {
            assert_eq!(text.complete(&long), Some(""));
        }
        assert_eq!(text.heal(Vec::new()).pieces.len(), 4);
    }
}
