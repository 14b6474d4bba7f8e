//! The parser against itself: the frames do not depend on where the stream is cut. Any recorded stream is a good seed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sortie::agent::sse::{MAX_EVENT, Parser, TooLarge};

/// A frame's id, event and data.
type Seen = (Option<String>, String, String);

/// The frames, and whether the stream was too large.
type Story = (Vec<Seen>, Result<(), TooLarge>);

fn parse<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Story {
    let mut parser = Parser::new();
    let mut frames = Vec::new();
    for mut input in chunks {
        loop {
            let before = input.len();
            match parser.advance(&mut input) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return (frames, Err(error)),
            }
            let frame = parser.frame();
            assert!(input.len() < before, "an event takes at least its last line end");
            assert!(!frame.event.is_empty());
            assert!(!frame.event.contains(['\r', '\n']));
            assert!(!frame.data.contains('\r'));
            assert!(frame.data.len() <= MAX_EVENT);
            assert!(frame.id.is_none_or(|id| !id.contains(['\r', '\n', '\0'])));
            frames.push((frame.id.map(str::to_owned), frame.event.to_owned(), frame.data.to_owned()));
        }
        assert!(input.is_empty(), "false means that the input is used up");
    }
    (frames, Ok(()))
}

/// Chunks of 1 to 16 bytes; the first byte of each chunk says how long it is.
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
    let data: usize = whole.0.iter().map(|(_, _, data)| data.len()).sum();
    assert!(data <= 3 * stream.len(), "at most U+FFFD for every byte");
    assert_eq!(parse(stream.chunks(1)), whole);
    assert_eq!(parse(uneven(stream)), whole);
});
