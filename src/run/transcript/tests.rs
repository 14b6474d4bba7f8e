//! Which text is shown, which text is kept, and how lost text is filled in.

use super::*;

#[test]
fn deltas_are_shown_at_once_and_the_whole_text_adds_only_the_rest() {
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
fn the_last_text_is_empty_if_the_turn_has_none_and_missing_without_a_turn() {
    let mut text = Transcript::new(Keep::Everything);
    assert_eq!((text.last_turn(), text.all()), (None, None));
    text.turn();
    text.delta("one\n");
    text.turn();
    assert_eq!(text.last_turn(), Some(""));
    assert_eq!(text.all().unwrap(), "one\n");
}

#[test]
fn only_the_text_that_the_output_needs_is_kept() {
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
fn the_record_has_the_whole_text_if_the_deltas_differ_from_it() {
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

/// A run that loses events when its second turn was shown in part.
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
fn after_lost_events_no_text_is_shown_until_the_messages_fill_it_in() {
    for keep in [Keep::Nothing, Keep::LastTurn, Keep::Everything] {
        let mut text = held_in_the_second_turn(keep);
        text.turn();
        assert_eq!(text.complete("three"), Some(""));
        let filled_in = text.fill_in(strings(&["one", "two", "three"]));
        let pieces = strings(&["o", "three"]);
        assert_eq!(filled_in, FilledIn { continues: true, pieces, complete: true }, "{keep:?}");
        assert_eq!(text.delta("!"), "!", "and then it goes on");
    }
}

#[test]
fn the_text_of_the_events_is_used_if_the_messages_lag_behind_or_are_gone() {
    // The text of the messages → the text shown, whether it is complete, and the record's text.
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
        let filled_in = text.fill_in(strings(messages));
        assert_eq!((filled_in.pieces, filled_in.complete), (strings(pieces), *complete), "{messages:?}");
        assert_eq!(filled_in.continues, messages.len() > 1, "{messages:?}");
        assert_eq!(text.all().as_deref(), Some(*all), "{messages:?}");
        assert_eq!(text.last_turn(), Some("four"), "{messages:?}");
    }
}

#[test]
fn the_rest_of_a_turn_is_recognized_by_its_kept_beginning() {
    for (keep, whole, continues, pieces) in [
        (Keep::Everything, "two", true, &["o"][..]),
        (Keep::Everything, "another", false, &["another"]),
        (Keep::Nothing, "two", false, &[]),
    ] {
        let mut text = held_in_the_second_turn(keep);
        assert_eq!(text.complete(whole), Some(""));
        let filled_in = text.fill_in(Vec::new());
        assert_eq!((filled_in.continues, filled_in.pieces), (continues, strings(pieces)), "{keep:?} {whole}");
    }
}

#[test]
fn no_text_is_missing_if_the_messages_have_only_what_was_shown() {
    let mut text = Transcript::new(Keep::Everything);
    text.turn();
    text.delta("one");
    text.turn();
    text.hold();
    assert_eq!(text.fill_in(strings(&["one"])), FilledIn { continues: false, pieces: Vec::new(), complete: true });
}

#[test]
fn no_newline_is_added_after_a_turn_that_ends_with_one() {
    let mut text = Transcript::new(Keep::Everything);
    for said in ["one\n", "two", "three"] {
        text.turn();
        text.delta(said);
    }
    assert_eq!(text.into_all().as_deref(), Some("one\ntwo\nthree"));
}

#[test]
fn a_turn_that_repeats_the_text_of_the_last_turn_is_another_turn() {
    let mut text = Transcript::new(Keep::Everything);
    text.turn();
    text.complete("Done.");
    text.hold();
    text.turn();
    text.complete("Done.");
    assert_eq!(text.fill_in(strings(&["Done."])).pieces, ["", "Done."], "the messages lag behind");
    assert_eq!(text.all().as_deref(), Some("Done.\nDone."));
}

/// An event of a turn.
enum Said {
    Turn,
    Delta(String),
    Whole(String),
}

/// Returns turns with this many pieces each: `0a0b`, `1a`, …. No two turns have a piece in common.
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
    /// Some events are lost, and the messages have some of the turns. No text is shown twice or in the wrong order.
    /// If the messages are complete, no text is missing.
    #[test]
    fn lost_text_comes_from_the_messages_and_no_text_comes_twice(
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
            let filled_in = text.fill_in(known);
            fresh = !filled_in.continues;
            for piece in filled_in.pieces {
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

#[test]
fn over_the_bound_only_the_last_turn_is_kept() {
    for (turns, all, last) in [
        (&[MAX_TEXT][..], true, true),
        (&[MAX_TEXT + 1], false, false),
        (&[1, MAX_TEXT - 2], true, true),
        (&[1, MAX_TEXT - 1], false, true),
        (&[1, MAX_TEXT], false, true),
        (&[1, MAX_TEXT + 1], false, false),
        (&[MAX_TEXT + 1, 1], false, true),
        (&[MAX_TEXT, 1, 1], false, true),
        (&[MAX_TEXT / 2; 3], false, true),
    ] {
        for in_pieces in [false, true] {
            let mut text = Transcript::new(Keep::Everything);
            for size in turns {
                text.turn();
                let said = "x".repeat(*size);
                let (one, two) = said.split_at(if in_pieces { size / 2 } else { 0 });
                assert_eq!((text.delta(one), text.delta(two)), (one, two), "all of it is passed on");
            }
            assert_eq!(text.is_cut(), !all, "{turns:?}");
            assert_eq!(text.last_turn().map(str::len), last.then(|| turns[turns.len() - 1]), "{turns:?}");
            let length = turns.iter().sum::<usize>() + turns.len() - 1;
            assert_eq!(text.into_all().map(|all| all.len()), all.then_some(length), "{turns:?}");
        }
    }
}

#[test]
fn a_turn_over_the_bound_does_not_affect_later_turns() {
    for (keep, is_cut) in [(Keep::Everything, true), (Keep::LastTurn, false), (Keep::Nothing, false)] {
        let mut text = Transcript::new(keep);
        text.turn();
        text.delta("a");
        text.delta(&"b".repeat(MAX_TEXT));
        assert_eq!((text.is_cut(), text.last_turn()), (keep != Keep::Nothing, None), "{keep:?}");
        assert_eq!(text.delta("c"), "c", "{keep:?}: it is passed on all the same");
        let whole = format!("a{}c!", "b".repeat(MAX_TEXT));
        assert_eq!(text.complete(&whole), Some("!"), "{keep:?}");
        text.turn();
        text.delta("d");
        assert_eq!((text.is_cut(), text.last_turn()), (is_cut, (keep != Keep::Nothing).then_some("d")), "{keep:?}");
        assert_eq!(text.all(), None, "{keep:?}");
    }
}

#[test]
fn the_whole_text_of_a_turn_replaces_deltas_over_the_bound() {
    let mut text = Transcript::new(Keep::Everything);
    text.turn();
    text.delta(&"a".repeat(MAX_TEXT + 1));
    assert_eq!(text.complete("short"), None);
    assert_eq!((text.last_turn(), text.is_cut()), (Some("short"), true));
    text.turn();
    text.delta("b");
    assert_eq!(text.complete(&"c".repeat(MAX_TEXT + 1)), None);
    assert_eq!(text.last_turn(), None);
}

#[test]
fn after_a_second_loss_no_text_is_shown_twice() {
    for keep in [Keep::Nothing, Keep::LastTurn, Keep::Everything] {
        let mut text = Transcript::new(keep);
        text.turn();
        text.delta("one");
        text.hold();
        text.turn();
        text.complete("two");
        assert_eq!(text.fill_in(Vec::new()).pieces, ["two"], "{keep:?}");
        text.turn();
        assert_eq!(text.delta("three"), "three");
        text.hold();
        text.turn();
        text.complete("four");
        let filled_in = text.fill_in(strings(&["one", "two", "three", "four"]));
        assert_eq!((filled_in.continues, filled_in.pieces), (true, strings(&["", "four"])), "{keep:?}");
    }
}

#[test]
fn text_from_the_messages_is_kept_up_to_the_bound() {
    for (size, all) in [(MAX_TEXT - 2, true), (MAX_TEXT - 1, false)] {
        let mut text = Transcript::new(Keep::Everything);
        text.hold();
        text.fill_in(vec!["a".repeat(size), "b".to_owned()]);
        assert_eq!((text.is_cut(), text.last_turn()), (!all, Some("b")), "{size}");
        assert_eq!(text.into_all().map(|all| all.len()), all.then_some(size + 2));
    }
}

#[test]
fn the_rest_of_an_unkept_turn_is_not_taken_for_another_turn() {
    let mut text = Transcript::new(Keep::Everything);
    text.turn();
    text.delta(&"a".repeat(MAX_TEXT + 1));
    text.hold();
    assert_eq!(text.complete(&"a".repeat(MAX_TEXT + 2)), Some(""));
    assert_eq!(text.fill_in(Vec::new()), FilledIn::default());
}

#[test]
fn text_is_held_up_to_the_bound_and_shown_once() {
    let long = |letter: &str| letter.repeat(MAX_TEXT / 4 - TURN);
    let mut text = Transcript::new(Keep::Nothing);
    text.hold();
    for letter in ["a", "b", "c", "d", "e", "f"] {
        text.turn();
        assert_eq!(text.complete(&long(letter)), Some(""));
    }
    let mut behind = text.clone();
    let filled_in = behind.fill_in(vec![long("a")]);
    assert_eq!((filled_in.pieces.len(), filled_in.complete), (4, false), "the messages lag behind");
    let messages: Vec<_> = ["a", "b", "c", "d", "e", "f"].map(long).into();
    let filled_in = text.clone().fill_in(messages[..4].to_vec());
    assert_eq!((filled_in.pieces.len(), filled_in.complete), (4, false), "the rest is missing");
    assert_eq!(text.fill_in(messages.clone()), FilledIn { continues: false, pieces: messages, complete: true });
}
