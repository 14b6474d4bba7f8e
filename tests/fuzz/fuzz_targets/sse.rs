//! The parser against itself: however a stream is cut, it says the same. Any recorded stream will
//! do as a seed.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use sortie::agent::sse::{MAX_EVENT, Parser, TooLarge};

/// A frame's id, event and data, and the last event id at its time.
type Seen = (Option<String>, String, String, String);

/// The frames, and how the stream ended: the last event id and the reconnection time.
type Story = (Vec<Seen>, Result<(String, Option<Duration>), TooLarge>);

fn parse<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Story {
    let mut parser = Parser::new();
    let mut frames = Vec::new();
    for mut input in chunks {
        loop {
            let before = input.len();
            let frame = match parser.next(&mut input) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            };
            assert!(input.len() < before, "an event takes at least its last line end");
            assert!(!frame.event.is_empty());
            assert!(!frame.event.contains(['\r', '\n']));
            assert!(!frame.data.contains('\r'));
            assert!(frame.data.len() <= MAX_EVENT);
            let id = frame.id.map(str::to_owned);
            let (event, data) = (frame.event.to_owned(), frame.data.into_owned());
            let last_event_id = parser.last_event_id().to_owned();
            assert!(!last_event_id.contains(['\r', '\n', '\0']));
            assert!(id.as_ref().is_none_or(|id| *id == last_event_id));
            frames.push((id, event, data, last_event_id));
        }
        assert!(input.is_empty(), "None means that the input is used up");
    }
    (frames, Ok((parser.last_event_id().to_owned(), parser.retry())))
}

/// Chunks whose lengths, 1 to 16, are told by their own first bytes.
fn uneven(mut stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let len = usize::from(stream.first()? % 16) + 1;
        let (chunk, rest) = stream.split_at(len.min(stream.len()));
        stream = rest;
        Some(chunk)
    })
}

fuzz_target!(|stream: &[u8]| {
    let whole = parse([stream]);
    let data: usize = whole.0.iter().map(|(_, _, data, _)| data.len()).sum();
    assert!(data <= 3 * stream.len(), "at most U+FFFD for every byte");
    assert_eq!(parse(stream.chunks(1)), whole);
    assert_eq!(parse(uneven(stream)), whole);
});
