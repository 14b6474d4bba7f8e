//! The decoder: any frame is an event, a gap or malformed, and never a panic. What it calls JSON is JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use sortie::agent::events::{decode, gap};
use sortie::agent::sse::Parser;

fuzz_target!(|stream: &[u8]| {
    let mut parser = Parser::new();
    let mut input = stream;
    while let Ok(true) = parser.advance(&mut input) {
        let frame = parser.frame();
        if let Some(Err(malformed)) = gap(&frame) {
            assert!(malformed.0.contains(frame.event), "it names the event");
        }
        match decode(&frame) {
            Ok(envelope) => {
                let is_json = serde_json::from_str::<&RawValue>(frame.data).is_ok();
                assert!(!envelope.is_json || is_json);
            }
            Err(malformed) => assert!(malformed.0.contains(frame.event), "it names the event"),
        }
    }
});
