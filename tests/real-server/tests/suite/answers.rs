//! Runs that complete, and what they print.

use real_server::{Model, RealServer, Reply, Sortie};
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::TcpListener};

use crate::{NO_TOOLS, field};

#[test]
fn a_text_answer_is_printed_and_nothing_else() {
    let server = RealServer::start(&Model::script([Reply::text("forty-two")]));
    server.sortie(["run", "what is it?"]).run().says("forty-two\n");
}

#[test]
fn the_prompt_reaches_the_model_unchanged() {
    let model = Model::always(Reply::text("yes"));
    let server = RealServer::start(&model);
    let prompt = "–  \"quotes\", $HOME, `ticks`, \\n, tab\there and 日本語";
    server.sortie(["run", prompt]).run().says("yes\n");
    assert_eq!(model.requests()[0].prompt(), prompt);

    server.sortie(["run", "-"]).run_with_stdin(prompt).says("yes\n");
    assert_eq!(model.requests()[1].prompt(), prompt);

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("prompt");
    std::fs::write(&path, prompt).unwrap();
    let path = path.to_str().unwrap();
    server.sortie(["run", "--prompt-file", path]).run().says("yes\n");
    assert_eq!(model.requests()[2].prompt(), prompt);
}

#[test]
fn every_turn_is_printed_on_lines_of_its_own() {
    let script = [
        Reply::text("I look.").and_calls([("a", "view")]),
        Reply::text("I look again.\n").and_calls([("b", "view")]),
        Reply::calls([("c", "view")]),
        Reply::text("Found it."),
    ];
    let server = RealServer::start(&Model::script(script));
    server.sortie(["run", "look"]).run().says("I look.\nI look again.\nFound it.\n");
}

#[test]
fn final_prints_the_last_turn_alone() {
    let script = [Reply::text("I look.").and_calls([("a", "view")]), Reply::text("Found it.")];
    let server = RealServer::start(&Model::script(script));
    server.sortie(["run", "-o", "final", "look"]).run().says("Found it.\n");
}

#[test]
fn stream_json_prints_every_event_and_then_the_result() {
    let script = [Reply::text("I look.").and_calls([("a", "view")]), Reply::text("Found it.")];
    let server = RealServer::start(&Model::script(script));
    let run = server.sortie(["run", "-o", "stream-json", "look"]).run().exits(0);
    let lines: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (result, events) = lines.split_last().unwrap();
    assert_eq!(result["type"], "result");
    assert!(events.iter().all(|event| event["type"] == "event"));
    let ids: Vec<u64> = events.iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (1..=16).collect::<Vec<_>>());
    assert_eq!(events[0]["event"], "run_started");
    assert_eq!(events[15]["event"], "run_completed");
    assert_eq!(events[15]["data"]["run_id"], result["run_id"]);
}

#[test]
fn an_answer_in_many_scripts_arrives_byte_for_byte() {
    let text = "Grüße, Ελληνικά, кириллица, עברית, العربية, हिन्दी, ไทย, 日本語, 한국어, \
                👩🏽‍🚀 🇪🇺, e\u{301}, \u{feff}, \u{200d}, \u{10ffff}, line\u{2028}separator, \
                two\nlines, a\ttab, \"quotes\" and \\backslashes\\";
    let long = text.repeat(500);
    let server = RealServer::start(&Model::script([Reply::text(text), Reply::text(&long)]));
    server.sortie(["run", "short"]).run().says(&format!("{text}\n"));
    server.sortie(["run", "long"]).run().says(&format!("{long}\n"));
}

#[test]
fn an_empty_answer_completes_and_prints_nothing() {
    let server = RealServer::start(&Model::script([Reply::empty()]));
    server.sortie(["run", "say nothing"]).run().says("");
}

#[test]
fn an_answer_cut_off_by_the_output_limit_completes() {
    let server = RealServer::start(&Model::always(Reply::text("and then").cut_short()));
    let run = server.sortie(["run", "tell"]).run();
    assert!(run.stderr.contains("max_output_tokens"), "{}", run.stderr);
    run.says("and then\n");
    let record = server.sortie(["run", "-o", "json", "tell"]).run().exits(0).record();
    assert_eq!(record["finish_reason"], "max_output_tokens");
}

#[test]
fn a_batch_that_the_server_half_approves_completes_in_every_order() {
    let server = RealServer::start(&Model::obedient());
    for batch in [
        "a=view b=create",
        "a=create b=view",
        "a=view b=create c=remove",
        "a=view b=remove c=create",
        "a=create b=view c=remove",
        "a=remove b=view c=create",
        "a=create b=remove c=view",
        "a=remove b=create c=view",
        "a=view b=create c=view d=create / e=create f=view / g=view",
    ] {
        let run = server.sortie(["run", "-o", "json", batch]).run().exits(0);
        let record = run.record();
        assert_eq!(record["text"], "done", "{batch}: {record:#}");
        let calls: Vec<&str> = batch.split_whitespace().filter_map(|word| Some(word.split_once('=')?.0)).collect();
        assert_eq!(record["tool_calls"]["proposed"], calls.len(), "{batch}: {record:#}");
        assert_eq!(record["tool_calls"]["rejected"], 0, "{batch}: {record:#}");
        assert_eq!(record["tool_calls"]["failed"], calls.len(), "{batch}: {record:#}");
        for call in calls {
            assert_eq!(server.tool_result(call), NO_TOOLS, "{batch}: {call}");
        }
    }
}

#[test]
fn a_call_id_may_come_again_in_a_later_turn() {
    // As models do that count the calls of each answer.
    let call = |tool| Reply::calls([("call_0", tool)]);
    let script = || [call("create"), call("create"), call("view"), call("create"), Reply::text("done")];
    let server = RealServer::start(&Model::script([script(), script()].concat()));
    for policy in [&[][..], &["--allow-tool", "create", "--allow-tool", "view"]] {
        let run = server.sortie(["run", "-o", "json", "go"]).and(policy.iter().copied()).run();
        let record = run.exits(0).record();
        assert_eq!(record["text"], "done", "{record:#}");
        assert_eq!(record["tool_calls"], json!({ "proposed": 4, "accepted": 4, "rejected": 0, "failed": 4 }));
    }
}

#[test]
fn the_record_has_every_field() {
    let server = RealServer::start(&Model::script([
        Reply::text("I look.").and_calls([("a", "view")]),
        Reply::text("Found it."),
    ]));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("result.json");
    let path = path.to_str().unwrap();
    let run = server.sortie(["run", "-o", "json", "--result-file", path, "look"]).run().exits(0);
    assert_eq!(run.stdout.lines().count(), 1, "{}", run.stdout);
    let record = run.record();
    let names: BTreeSet<&str> = record.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = BTreeSet::from([
        "type",
        "outcome",
        "exit_code",
        "reason",
        "retryable",
        "error",
        "session_id",
        "run_id",
        "agent_message",
        "text",
        "turns",
        "stop_reason",
        "usage",
        "tool_calls",
        "timed_out",
        "paused",
        "pause_reason",
        "resume_hint",
        "cancel_confirmed",
        "last_event_id",
        "duration_ms",
        "finish_reason",
        "decisions",
        "background_tasks",
        "started_at",
        "server",
        "server_version",
        "sortie_version",
        "rehearsal",
    ]);
    assert_eq!(names, expected);
    assert_eq!(record["type"], "result");
    assert_eq!(record["outcome"], "completed");
    assert_eq!(record["exit_code"], 0);
    for absent in ["reason", "error", "pause_reason", "resume_hint", "cancel_confirmed"] {
        assert_eq!(record[absent], Value::Null, "{absent}");
    }
    for no in ["retryable", "timed_out", "paused", "rehearsal"] {
        assert_eq!(record[no], false, "{no}");
    }
    assert_eq!(record["agent_message"], "Found it.");
    assert_eq!(record["text"], "I look.\nFound it.");
    assert_eq!(record["turns"], 2);
    assert_eq!(record["stop_reason"], "completed");
    assert_eq!(record["usage"], json!({ "prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30 }));
    assert_eq!(record["last_event_id"], 16);
    assert_eq!(record["finish_reason"], "stop");
    assert_eq!(record["server"], server.url());
    for none in ["decisions", "background_tasks"] {
        assert_eq!(record[none], json!([]), "{none}");
    }
    let (_, session) = server.get(&format!("/v1/sessions/{}", field(&record, "session_id")));
    assert_eq!(session["session"]["id"], record["session_id"]);
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(file, record);
}

#[test]
fn an_open_and_silent_stdin_is_left_alone() {
    let server = RealServer::start(&Model::script([Reply::text("done")]));
    server.sortie(["run", "go"]).with_silent_stdin().run().says("done\n");
}

#[test]
fn a_trivial_run_takes_three_requests() {
    let server = RealServer::start(&Model::script([Reply::text("done")]));
    server.sortie(["run", "go"]).run().says("done\n");
    let requests = server.requests();
    assert!(requests.len() <= 3, "{requests:#?}");
}

#[test]
fn a_session_takes_message_after_message() {
    // Trap 8: right after a run's end the server still refuses the next message, for a moment.
    let model = Model::answering(|request| Reply::text(format!("answer {}", request.number)));
    let server = RealServer::start(&model);
    let first = server.sortie(["run", "-o", "json", "question 0"]).run().exits(0).record();
    let session = field(&first, "session_id");
    for number in 1..=10 {
        let prompt = format!("question {number}");
        let run = server.sortie(["run", "--session", session, &prompt]).run();
        run.says(&format!("answer {number}\n"));
    }
    let conversation = model.requests()[10].messages().len();
    assert_eq!(conversation, 21, "ten questions with their answers, and the last question");
}

#[test]
fn what_the_agent_is_told_besides_the_prompt_reaches_it() {
    let model = Model::always(Reply::text("done"));
    let server = RealServer::start(&model);
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let system = write("system", "Answer in verse.");
    let notes = format!("notes:high={}", write("notes", "The printer is out of ink."));
    let workdir = directory.path().to_str().unwrap();
    let run = server.sortie(["run", "--system-prompt-file", &system, "--context-file", &notes]);
    let run = run.and(["--context", "weather=It rains.", "--workdir", workdir, "--title", "A title"]);
    let record = run.and(["--model", "openai/other", "-o", "json", "go"]).run().exits(0).record();
    let request = &model.requests()[0];
    assert!(request.messages()[0]["content"].to_string().contains("Answer in verse."));
    let told = request.user_text();
    for text in ["The printer is out of ink.", "It rains.", workdir] {
        assert!(told.contains(text), "{text:?} is not in {told}");
    }
    assert_eq!(request.prompt(), "go");
    assert_eq!(request.body["model"], "other");
    let (_, session) = server.get(&format!("/v1/sessions/{}", field(&record, "session_id")));
    assert_eq!(session["session"]["cwd"], workdir);
    assert_eq!(session["session"]["title"], "A title");
}

#[test]
fn ping_says_whether_the_server_takes_our_token() {
    let mut server = RealServer::start(&Model::script([]));
    server.sortie(["ping"]).run().says("");
    server.sortie(["ping"]).env("SORTIE_TOKEN", "wrong").run().exits(1);
    server.sortie(["ping"]).without_env("SORTIE_TOKEN").run().exits(1);
    server.stop();
    server.sortie(["ping"]).run().exits(1);
}

#[test]
fn ping_waits_for_a_server_that_is_not_there_yet() {
    let mut server = RealServer::start(&Model::script([]));
    server.stop();
    let url = server.url();
    let address = url.trim_start_matches("http://");
    // A child that another test is just starting may hold the old listener for a moment.
    let in_its_place = real_server::eventually("a free port", || TcpListener::bind(address).ok());
    let waiting = server.sortie(["ping", "--wait", "30s"]).spawn();
    // The first try gets no answer, and the next ones no connection.
    drop(in_its_place.accept().unwrap());
    drop(in_its_place);
    server.serve();
    waiting.wait().says("");
}

#[test]
fn the_token_is_read_from_a_file() {
    let server = RealServer::start(&Model::always(Reply::text("done")));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, format!("{}\n", real_server::TOKEN)).unwrap();
    let path = path.to_str().unwrap();
    let url = server.url();
    let by_flag = Sortie::new(["run", "--server", &url, "--token-file", path, "go"]);
    by_flag.run().says("done\n");
    let by_environment = Sortie::new(["run", "--server", &url, "go"]).env("SORTIE_TOKEN_FILE", path);
    by_environment.run().says("done\n");
}

/// A file of each kind, as far as its first bytes tell, and the same in base64.
const IMAGES: [(&str, &[u8], &str); 4] = [
    ("png", b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", "iVBORw0KGgoAAAANSUhEUg=="),
    ("jpeg", b"\xff\xd8\xff\xe0", "/9j/4A=="),
    ("gif", b"GIF89a", "R0lGODlh"),
    ("webp", b"RIFF\0\0\0\0WEBP", "UklGRgAAAABXRUJQ"),
];

#[test]
fn images_reach_the_model_in_their_order_beside_the_prompt() {
    let model = Model::always(Reply::text("seen"));
    let server = RealServer::start(&model);
    let directory = tempfile::tempdir().unwrap();
    let paths = IMAGES.map(|(kind, bytes, _)| {
        // The name says nothing of the kind.
        let path = directory.path().join(format!("picture of {kind}.dat"));
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let images = paths.iter().flat_map(|path| ["--image", path]);
    server.sortie(["run"]).and(images).and(["what is it?"]).run().says("seen\n");
    let request = &model.requests()[0];
    let message = request.messages().last().unwrap();
    let parts = message["content"].as_array().unwrap_or_else(|| panic!("no parts: {message:#}"));
    let urls: Vec<&str> = parts.iter().filter_map(|part| part["image_url"]["url"].as_str()).collect();
    assert_eq!(urls, IMAGES.map(|(kind, _, base64)| format!("data:image/{kind};base64,{base64}")));
    assert!(parts.iter().any(|part| part["text"] == "what is it?"), "{message:#}");
}

#[test]
fn what_is_no_image_or_too_large_is_refused_before_anything_is_sent() {
    let server = RealServer::start(&Model::script([]));
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("notes.png");
    std::fs::write(&text, "no image").unwrap();
    let large = directory.path().join("large.png");
    std::fs::write(&large, [IMAGES[0].1, &vec![0; 2_000_000]].concat()).unwrap();
    for (path, words) in [(&text, "notes.png"), (&large, "2")] {
        let run = server.sortie(["run", "-o", "json", "--image", path.to_str().unwrap(), "look"]).run();
        let record = run.fails("usage");
        assert!(field(&record, "error").contains(words), "{record:#}");
    }
    assert!(server.requests().is_empty(), "{:#?}", server.requests());
}

#[test]
fn a_working_directory_is_told_to_the_model() {
    // Trap 16: the server itself only names it, and its tools start elsewhere.
    let model = Model::always(Reply::text("done"));
    let server = RealServer::start(&model);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    server.sortie(["run", "--workdir", path, "go"]).run().says("done\n");
    let told = model.requests()[0].user_text();
    let entry = told.split("<context_file").nth(1).unwrap_or_else(|| panic!("no entry: {told}"));
    assert!(entry.contains(path), "{told}");
    for relative in [".", "srv/app"] {
        server.sortie(["run", "-o", "json", "--workdir", relative, "go"]).run().fails("usage");
    }
}
