//! The decoder: any frame is an event, a gap, unknown or malformed, and never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sortie::agent::events::{Item, decode};
use sortie::agent::sse::Parser;

fuzz_target!(|stream: &[u8]| {
    let mut parser = Parser::new();
    let mut input = stream;
    while let Ok(Some(frame)) = parser.next(&mut input) {
        match decode(&frame) {
            Ok(Item::Event(_) | Item::Gap(_)) => {}
            Err(malformed) => assert!(malformed.0.contains(frame.event), "it names the event"),
        }
    }
});
