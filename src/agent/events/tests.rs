//! How each event of the protocol is read.

use super::*;
use crate::agent::sse::Parser;

/// Passes the frame that these lines make.
fn with_frame<T>(block: &str, look: impl FnOnce(&Frame<'_>) -> T) -> T {
    let mut parser = Parser::new();
    let block = format!("{block}\n\n");
    let frame = parser.next(&mut block.as_bytes()).unwrap().unwrap();
    look(&frame)
}

fn text(text: &str) -> Text<'_> {
    Text(text.into())
}

fn tool<'a>() -> Tool<'a> {
    Tool {
        tool_call_id: text("c"),
        tool_name: text(""),
        message: text(""),
        result: text(""),
        reason: text(""),
        is_error: false,
    }
}

#[test]
fn each_variant_is_read_with_the_fields_that_we_use() {
    let usage = Usage { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 };
    let arguments = |json: &str| serde_json::from_str::<Arguments>(json).unwrap();
    let call = |id: &str, json| ToolCall { id: id.into(), name: "p__t".into(), arguments: arguments(json) };
    let rows: Vec<(&str, Event<'_>)> = vec![
        (r#"{"RunStarted":{"run_id":"r"}}"#, Event::RunStarted),
        (r#"{"TurnStarted":{"turn":2}}"#, Event::TurnStarted(Turn { turn: 2 })),
        (
            r#"{"TurnCompleted":{"turn":2,"finish_reason":"stop"}}"#,
            Event::TurnCompleted(TurnEnd { finish_reason: Some(text("stop")) }),
        ),
        (r#"{"TurnCompleted":{}}"#, Event::TurnCompleted(TurnEnd { finish_reason: None })),
        (r#"{"TextDelta":{"delta":"a\nb"}}"#, Event::TextDelta(Delta { delta: text("a\nb") })),
        (r#"{"ThinkingDelta":{"delta":"hm"}}"#, Event::ThinkingDelta),
        (r#"{"TextComplete":{"text":"ab"}}"#, Event::TextComplete(Complete { text: text("ab") })),
        (
            r#"{"ToolCallsProposed":{"tool_calls":[{"id":"c","name":"p__t","arguments":{"a":[1]},"metadata":null},{"id":"d","name":"p__t"}]}}"#,
            Event::ToolCallsProposed(Proposal { tool_calls: vec![call("c", r#"{"a":[1]}"#), call("d", "null")] }),
        ),
        (r#"{"WaitingForToolApproval":{"pending_tool_call_ids":["c"]}}"#, Event::WaitingForToolApproval),
        (
            r#"{"ToolExecutionStarted":{"tool_call_id":"c","tool_name":"p__t"}}"#,
            Event::ToolExecutionStarted(Box::new(Tool { tool_name: text("p__t"), ..tool() })),
        ),
        (
            r#"{"ToolExecutionProgress":{"tool_call_id":"c","message":"half"}}"#,
            Event::ToolExecutionProgress(Box::new(Tool { message: text("half"), ..tool() })),
        ),
        (
            r#"{"ToolExecutionCompleted":{"tool_call_id":"c","result":"no","is_error":true}}"#,
            Event::ToolExecutionCompleted(Box::new(Tool { result: text("no"), is_error: true, ..tool() })),
        ),
        (
            r#"{"ToolRejected":{"tool_call_id":"c","reason":"why"}}"#,
            Event::ToolRejected(Box::new(Tool { reason: text("why"), ..tool() })),
        ),
        (
            r#"{"RetryAttempt":{"attempt":1,"delay_ms":2000,"reason":"busy"}}"#,
            Event::RetryAttempt(Retry { attempt: 1, delay_ms: 2000, reason: text("busy") }),
        ),
        (
            r#"{"CompactionStarted":{"reason":"long"}}"#,
            Event::CompactionStarted(Compaction { reason: text("long") }),
        ),
        (r#"{"CompactionStarted":{}}"#, Event::CompactionStarted(Compaction { reason: text("") })),
        (
            r#"{"CompactionCompleted":{"tokens_before":9,"tokens_after":4,"truncated":true}}"#,
            Event::CompactionCompleted(Compacted {
                tokens_before: Some(9),
                tokens_after: Some(4),
                truncated: true,
            }),
        ),
        (r#"{"CompactionCompleted":{}}"#, Event::CompactionCompleted(Compacted::default())),
        (
            r#"{"UsageReport":{"turn":1,"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}}"#,
            Event::UsageReport(Report { usage }),
        ),
        (
            r#"{"RunCompleted":{"total_turns":2,"total_usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3},"stop_reason":"completed"}}"#,
            Event::RunCompleted(Completion {
                total_turns: Some(2),
                total_usage: Some(usage),
                stop_reason: text("completed"),
            }),
        ),
        (
            r#"{"RunError":{"error":"out","retryable":true}}"#,
            Event::RunError(RunFailure { error: text("out"), retryable: true }),
        ),
        (r#"{"HologramShown":{"a":{"b":[null]}}}"#, Event::Unknown),
        (r#""HologramShown""#, Event::Unknown),
        ("{}", Event::Unknown),
        (r#"{"TurnStarted":{"turn":2},"more":[1,{"a":2}]}"#, Event::TurnStarted(Turn { turn: 2 })),
    ];
    for (json, expected) in rows {
        let block = format!(r#"data: {{"id":1,"session_id":"s","run_id":"r","event":{json},"new":[]}}"#);
        with_frame(&block, |frame| {
            let run_id = Some(text("r"));
            assert_eq!(decode(frame), Ok(Envelope { run_id, event: expected, is_json: true }), "{json}");
        });
    }
}

#[test]
fn only_a_known_event_must_have_the_protocols_shape() {
    for (name, json, says) in [
        ("message", "{", "the message event: EOF"),
        ("text_delta", r#"{"event":{"TextDelta":{}}}"#, "the text_delta event: missing field `delta`"),
        (
            "run_completed",
            r#"{"event":{"RunCompleted":{}}}"#,
            "the run_completed event: missing field `stop_reason`",
        ),
        ("turn_started", r#"{"event":{"TurnStarted":{"turn":-1}}}"#, "the turn_started event: invalid value"),
        ("run_started", r#"{"event":17}"#, "expected an event: {\"Variant\":{…}}"),
        ("run_started", "{}", "missing field `event`"),
    ] {
        with_frame(&format!("event: {name}\ndata: {json}"), |frame| {
            let Malformed(why) = decode(frame).unwrap_err();
            assert!(why.contains(says), "{name} {json}: {why}");
        });
        with_frame(&format!("event: {name}_of_tomorrow\ndata: {json}"), |frame| {
            let unknown = Envelope { run_id: None, event: Event::Unknown, is_json: false };
            assert_eq!(decode(frame), Ok(unknown), "{name} {json}");
        });
    }
    for (rest, newest_available_id) in [("", None), (r#","newest_available_id":9,"resume_hint":"…""#, Some(9))] {
        with_frame(&format!("event: gap_detected\ndata: {{\"oldest_available_id\":7{rest}}}"), |frame| {
            assert_eq!(gap(frame), Some(Ok(Gap { oldest_available_id: 7, newest_available_id })));
        });
    }
}

#[test]
fn a_frame_has_the_name_of_its_variant_in_snake_case() {
    let mut seen = std::collections::BTreeSet::new();
    for stream in [
        include_str!("../../../tests/fixtures/completed-tools-accepted.sse"),
        include_str!("../../../tests/fixtures/run-error.sse"),
        include_str!("../../../tests/fixtures/waiting-for-approval.sse"),
    ] {
        let (mut parser, mut input) = (Parser::new(), stream.as_bytes());
        while let Some(frame) = parser.next(&mut input).unwrap() {
            let data: serde_json::Value = serde_json::from_str(frame.data).unwrap();
            let (variant, _) = data["event"].as_object().unwrap().iter().next().unwrap();
            assert!(VARIANTS.contains(&variant.as_str()) && snake_case(variant) == frame.event, "{}", frame.event);
            seen.insert(variant.clone());
        }
    }
    assert!(seen.len() > 10, "{seen:?}");
    for variant in VARIANTS {
        with_frame(&format!("event: {}\ndata: {{", snake_case(variant)), |frame| {
            assert!(decode(frame).is_err(), "{variant} must have its shape");
        });
    }
}

#[test]
fn arguments_keep_their_text_except_line_breaks() {
    for (json, kept) in
        [(r#"{"b" : 1,  "a":"x\ny"}"#, r#"{"b" : 1,  "a":"x\ny"}"#), ("{\n\"a\":\r1}", "{ \"a\": 1}"), ("17", "17")]
    {
        let arguments: Arguments = serde_json::from_str(json).unwrap();
        assert_eq!(arguments.get(), kept);
        assert_eq!(serde_json::to_string(&arguments).unwrap(), kept);
        assert_ne!(arguments, Arguments::default());
    }
    assert_eq!(Arguments::default().get(), "null");
}

#[test]
fn ids_names_and_lists_have_a_bound() {
    let call = |id: usize, name: usize| {
        serde_json::from_str::<ToolCall>(&format!(r#"{{"id":"{}","name":"{}"}}"#, "i".repeat(id), "n".repeat(name)))
    };
    assert_eq!(call(MAX_NAME, MAX_NAME).unwrap().id.len(), MAX_NAME);
    for (id, name) in [(MAX_NAME + 1, 1), (1, MAX_NAME + 1)] {
        let error = call(id, name).unwrap_err().to_string();
        assert!(error.contains("1025") && error.contains("at most 1024"), "{error}");
    }
    let proposal = |count: usize| {
        let calls = vec![r#"{"id":"c","name":"p__t"}"#; count].join(",");
        serde_json::from_str::<Proposal>(&format!(r#"{{"tool_calls":[{calls}]}}"#))
    };
    assert_eq!(proposal(MAX_LIST).unwrap().tool_calls.len(), MAX_LIST);
    let error = proposal(MAX_LIST + 1).unwrap_err().to_string();
    assert!(error.contains("invalid length 1025, expected a list of at most 1024"), "{error}");
}

#[test]
fn an_error_quotes_no_long_text() {
    let long = "\u{7f}".repeat(100_000);
    for event in [
        r#""LONG""#,
        r#"{"TextDelta":"LONG"}"#,
        r#"{"TurnStarted":{"turn":"LONG"}}"#,
        r#"{"ToolCallsProposed":{"tool_calls":"LONG"}}"#,
        r#"{"ToolCallsProposed":{"tool_calls":["LONG"]}}"#,
        r#"{"ToolExecutionCompleted":{"tool_call_id":"a","result":"LONG","is_error":"LONG"}}"#,
        r#"{"UsageReport":{"usage":{"total_tokens":"LONG"}}}"#,
    ] {
        let event = event.replace("LONG", &long);
        with_frame(&format!("event: message\ndata: {{\"event\":{event}}}"), |frame| match decode(frame) {
            Ok(item) => assert_eq!(item, Envelope { run_id: None, event: Event::Unknown, is_json: true }),
            Err(Malformed(why)) => assert!(why.len() < 200, "{} bytes", why.len()),
        });
    }
    let event = format!(r#"data: {{"event":{{"TextDelta":{{"delta":"{long}"}}}}}}"#);
    with_frame(&event, |frame| {
        let event = Event::TextDelta(Delta { delta: text(&long) });
        assert_eq!(decode(frame), Ok(Envelope { run_id: None, event, is_json: true }));
    });
}

#[test]
fn usage_adds_up_and_does_not_overflow() {
    let mut usage = Usage::default();
    usage.add(Usage { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 });
    usage.add(Usage { prompt_tokens: 10, completion_tokens: 20, total_tokens: u64::MAX });
    assert_eq!(usage, Usage { prompt_tokens: 11, completion_tokens: 22, total_tokens: u64::MAX });
}
