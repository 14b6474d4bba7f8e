//! The decoder: any frame is an event, a gap or malformed, and never a panic. What it calls JSON is JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sortie::agent::events::{Item, decode};
use sortie::agent::sse::Parser;

fuzz_target!(|stream: &[u8]| {
    let mut parser = Parser::new();
    let mut input = stream;
    while let Ok(true) = parser.advance(&mut input) {
        let frame = parser.frame();
        match decode(&frame) {
            Ok(Item::Event(event)) => {
                let is_json = || serde_json::from_str::<&serde_json::value::RawValue>(frame.data).is_ok();
                assert!(!event.is_json || is_json());
            }
            Ok(Item::Gap(_)) => {}
            Err(malformed) => assert!(malformed.0.contains(frame.event), "it names the event"),
        }
    }
});
