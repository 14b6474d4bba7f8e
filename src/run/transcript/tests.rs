//! What may be shown, what is kept, and how text that was lost is made whole.

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
