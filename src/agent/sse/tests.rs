//! Tests the grammar by a table, the cuts into chunks by a matrix, and random streams against an independent model.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

impl Parser {
    /// Advances, and returns the frame of an event that is complete.
    pub fn next<'a>(&'a mut self, input: &mut &[u8]) -> Result<Option<Frame<'a>>, TooLarge> {
        Ok(if self.advance(input)? { Some(self.frame()) } else { None })
    }
}

/// An owned frame: ID, event, data.
type Seen = (Option<String>, String, String);

fn seen(frame: Frame<'_>) -> Seen {
    (frame.id.map(str::to_owned), frame.event.to_owned(), frame.data.to_owned())
}

fn parse<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Seen>, TooLarge> {
    let mut parser = Parser::new();
    let mut frames = Vec::new();
    for mut input in chunks {
        while parser.advance(&mut input)? {
            frames.push(seen(parser.frame()));
        }
        assert!(input.is_empty(), "false means that the input is used up");
    }
    Ok(frames)
}

fn whole(stream: &[u8]) -> Vec<Seen> {
    parse([stream]).unwrap()
}

fn borrowed(frames: &[Seen]) -> Vec<(Option<&str>, &str, &str)> {
    frames.iter().map(|(id, event, data)| (id.as_deref(), event.as_str(), data.as_str())).collect()
}

/// WHATWG HTML 9.2.6 word for word, on the whole stream at once. It shares no code with the parser.
fn model(stream: &[u8]) -> Vec<Seen> {
    let text = String::from_utf8_lossy(stream);
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<&str> = text.split('\n').collect();
    lines.pop(); // Text without a line end is not a line.

    let mut frames = Vec::new();
    let (mut data, mut event, mut id) = (String::new(), String::new(), None);
    for line in lines {
        if line.is_empty() {
            if !data.is_empty() {
                data.pop(); // The last LF.
                let event = if event.is_empty() { "message".to_owned() } else { event };
                frames.push((id, event, data));
            }
            (data, event, id) = (String::new(), String::new(), None);
            continue;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => event = value.to_owned(),
            "data" => data = data + value + "\n",
            "id" if !value.contains('\0') => id = Some(value.to_owned()),
            _ => {}
        }
    }
    frames
}

type Expected = (Option<&'static str>, &'static str, &'static str);

/// An event without a name or an id.
const fn message(data: &'static str) -> Expected {
    (None, "message", data)
}

/// A description, a stream and its frames.
#[rustfmt::skip] // One row for each case.
const GRAMMAR: &[(&str, &str, &[Expected])] = &[
    // The examples of WHATWG HTML 9.2.1 and 9.2.6.
    ("plain messages",
     "data: This is the first message.\n\ndata: This is the second message, it\n\
      data: has two lines.\n\n",
     &[message("This is the first message."),
       message("This is the second message, it\nhas two lines.")]),
    ("event names",
     "event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\n",
     &[(None, "add", "73857293"), (None, "remove", "2153")]),
    ("three data lines", "data: YHOO\ndata: +2\ndata: 10\n\n", &[message("YHOO\n+2\n10")]),
    ("a comment, an id, its reset, an unfinished event",
     ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\n\
      data:  third event\n",
     &[(Some("1"), "message", "first event"), (Some(""), "message", "second event")]),
    ("empty data", "data\n\ndata\ndata\n\ndata:\n", &[message(""), message("\n")]),
    ("one space is dropped",
     "data:test\n\ndata: test\n\ndata:  test\n\n",
     &[message("test"), message("test"), message(" test")]),
    // After the format tests of the Web Platform Tests.
    ("field names are exact",
     "data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\rdata_5\n\
      data:3\rdata:\r\n data:32\ndata:4\n\n",
     &[message("\0\n 2\n1\n3\n\n4")]),
    ("unknown fields",
     "data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:test\n\n",
     &[message("test\n\ntest")]),
    ("only a space is dropped", "data:\ttest\rdata: \ndata:test\n\n", &[message("\ttest\n\ntest")]),
    ("mixed line ends", "data:test\r\ndata\ndata:test\r\n\r", &[message("test\n\ntest")]),
    ("only the first BOM",
     "\u{FEFF}data:1\n\n\u{FEFF}data:2\n\ndata:3\n\n",
     &[message("1"), message("3")]),
    ("only one BOM", "\u{FEFF}\u{FEFF}data:1\n\ndata:2\n\n", &[message("2")]),
    ("only one BOM, short name", "\u{FEFF}\u{FEFF}id:1\ndata:2\n\n", &[message("2")]),
    ("only one BOM, no name", "data:1\n\u{FEFF}\n\n", &[message("1")]),
    // Our own.
    ("nothing", "", &[]),
    ("blank lines", "\n\r\r\n\n", &[]),
    ("a BOM before a blank line", "\u{FEFF}\ndata: 1\n\n", &[message("1")]),
    ("a BOM before a comment", "\u{FEFF}: c\ndata: 1\n\n", &[message("1")]),
    ("a BOM before the longest name", "\u{FEFF}event: e\ndata: 1\n\n", &[(None, "e", "1")]),
    ("a BOM in a value", "data: \u{FEFF}1\n\n", &[message("\u{FEFF}1")]),
    ("a colon in the value", "data: a: b::\n\n", &[message("a: b::")]),
    ("the last event name counts", "event: a\nevent: b\ndata\n\n", &[(None, "b", "")]),
    ("an empty event name is none", "event: a\nevent:\ndata\n\n", &[message("")]),
    ("a block without data resets the event name", "event: a\n\ndata\n\n", &[message("")]),
    ("a block without data gives its id to no other", "id: 1\n\ndata\n\n", &[message("")]),
    ("an id is not inherited",
     "id: 1\ndata\n\ndata\n\n",
     &[(Some("1"), "message", ""), message("")]),
    ("the last id counts", "id: 1\nid: 2\ndata\n\n", &[(Some("2"), "message", "")]),
    ("an id with NUL is ignored",
     "id: 1\nid: 2\0\ndata\n\nid: \0\ndata\n\n",
     &[(Some("1"), "message", ""), message("")]),
    ("names that begin or end like known ones",
     "dat: 1\ndatas: 2\ni: 3\nids: 4\neventual: 5\n: 6\ndata\n\n",
     &[message("")]),
];

#[test]
fn the_grammar() {
    for (about, stream, expected) in GRAMMAR {
        let frames = whole(stream.as_bytes());
        assert_eq!(borrowed(&frames), *expected, "{about}");
        assert_eq!(model(stream.as_bytes()), frames, "the model: {about}");
        assert_eq!(parse(stream.as_bytes().chunks(1)).unwrap(), frames, "byte by byte: {about}");
    }
}

#[test]
fn broken_utf8_is_replaced() {
    let data = |value: &[u8]| whole(&[b"data:", value, b"\n\n"].concat())[0].2.clone();
    assert_eq!(data("é€😀".as_bytes()), "é€😀");
    assert_eq!(data(b"\xFF"), "\u{FFFD}");
    assert_eq!(data(b"a\xE2\x82b"), "a\u{FFFD}b", "one for a cut sequence");
    assert_eq!(data(b"\xE2\x82\n"), "\u{FFFD}", "cut by the line's end");
    assert_eq!(data(b"\xC0\xAF"), "\u{FFFD}\u{FFFD}", "overlong");
    assert_eq!(data(b"\xED\xA0\x80"), "\u{FFFD}\u{FFFD}\u{FFFD}", "a surrogate");
    assert_eq!(data(b"\xE2\ndata:\x82\xAC"), "\u{FFFD}\n\u{FFFD}\u{FFFD}", "not joined over lines");
    let frames = whole(b"id: \xFF\nevent: \xFE\ndata\n\n");
    assert_eq!(borrowed(&frames), [(Some("\u{FFFD}"), "\u{FFFD}", "")]);
}

#[test]
fn the_frames_do_not_depend_on_the_chunks() {
    let stream = ": c\nretry: 5\nid: 1\nevent: é\ndata: 😀\ndata:b\n\n\ndata\nid\n\nid:2\n\ndata: x";
    let expected = [(Some("1"), "é", "😀\nb"), (Some(""), "message", "")];
    for line_end in ["\n", "\r", "\r\n"] {
        for bom in ["", "\u{FEFF}"] {
            let stream = format!("{bom}{}", stream.replace('\n', line_end)).into_bytes();
            let frames = whole(&stream);
            assert_eq!(borrowed(&frames), expected);
            for i in 0..=stream.len() {
                for j in i..=stream.len() {
                    let chunks = [&stream[..i], &stream[i..j], &stream[j..]];
                    assert_eq!(parse(chunks).unwrap(), frames, "cut at {i} and {j}");
                }
            }
            assert_eq!(parse(stream.chunks(1)).unwrap(), frames, "byte by byte");
        }
    }
}

#[test]
fn an_event_is_complete_at_a_cr_without_waiting_for_an_lf() {
    let mut parser = Parser::new();
    assert_eq!(parser.next(&mut &b"data\r\n\r"[..]).unwrap().unwrap().data, "");
    assert_eq!(parser.next(&mut &b"\n"[..]), Ok(None), "the same line end, not a blank line");
}

#[test]
fn the_parser_stops_after_each_event() {
    let mut parser = Parser::new();
    let mut input = &b"data: 1\n\ndata: 2\n\nrest"[..];
    assert_eq!(parser.next(&mut input).unwrap().unwrap().data, "1");
    assert_eq!(input, b"data: 2\n\nrest");
    assert_eq!(parser.next(&mut input).unwrap().unwrap().data, "2");
    assert_eq!(input, b"rest");
    assert_eq!(parser.next(&mut input), Ok(None));
    assert!(input.is_empty());
}

/// Parses `head`, then `byte` repeated `len` times, then `tail`, in chunks of 64 KiB and all at once.
fn long(head: &[u8], byte: u8, len: usize, tail: &[u8]) -> Result<Vec<Seen>, TooLarge> {
    let body = vec![byte; len];
    let frames = parse([head].into_iter().chain(body.chunks(64 * 1024)).chain([tail]));
    assert_eq!(parse([[head, &body, tail].concat().as_slice()]), frames);
    frames
}

#[test]
fn data_at_the_limit_passes_and_one_byte_more_fails() {
    for head in ["data:", "data: ", "\u{FEFF}data: "] {
        let frames = long(head.as_bytes(), b'x', MAX_EVENT, b"\n\n").unwrap();
        assert_eq!(frames[0].2.len(), MAX_EVENT);
        assert_eq!(long(head.as_bytes(), b'x', MAX_EVENT + 1, b"\n\n"), Err(TooLarge));
    }
}

#[test]
fn the_lf_between_data_lines_counts_towards_the_limit() {
    let fits = long(b"data: ", b'x', MAX_EVENT - 3, b"\ndata\ndata:\ndata: \n\n").unwrap();
    assert_eq!(fits[0].2.len(), MAX_EVENT);
    assert_eq!(long(b"data: ", b'x', MAX_EVENT - 3, b"\ndata\ndata\ndata\ndata\n"), Err(TooLarge));
}

#[test]
fn the_limit_holds_for_an_event_not_for_the_stream() {
    let mut parser = Parser::new();
    let event = [b"data: ".as_slice(), &vec![b'x'; MAX_EVENT / 2 + 1], b"\n\n"].concat();
    for _ in 0..3 {
        assert!(parser.next(&mut event.as_slice()).unwrap().is_some());
    }
}

#[test]
fn data_that_is_too_long_after_its_utf8_was_repaired_fails() {
    let fits = long(b"data:xx", 0xFF, MAX_EVENT / 3, b"\n\n").unwrap();
    assert_eq!(fits[0].2.len(), MAX_EVENT);
    assert_eq!(long(b"data:xxx", 0xFF, MAX_EVENT / 3, b"\n\n"), Err(TooLarge));
}

#[test]
fn a_skipped_line_has_a_limit_too() {
    for head in [":", "unknown: ", "retry: ", "", "xyz"] {
        let len = MAX_LINE - head.len();
        let frames = long(head.as_bytes(), b'x', len, b"\ndata: 1\n\n").unwrap();
        assert_eq!(borrowed(&frames), [message("1")]);
        for tail in [&b""[..], b"\n"] {
            assert_eq!(long(head.as_bytes(), b'x', len + 1, tail), Err(TooLarge), "{head}");
        }
    }
}

#[test]
fn ids_and_names_have_a_limit() {
    for field in ["id", "event"] {
        let head = format!("{field}: ");
        assert!(long(head.as_bytes(), b'1', MAX_VALUE, b"\n\n").is_ok());
        assert_eq!(long(head.as_bytes(), b'1', MAX_VALUE + 1, b"\n"), Err(TooLarge));
    }
}

#[test]
fn skipped_fields_leave_no_memory_behind() {
    for head in [":", "unknown:", "retry:", "", "\ndata\n:"] {
        let mut parser = Parser::new();
        parser.next(&mut head.as_bytes()).unwrap();
        for _ in 0..100 {
            parser.next(&mut &[b'x'; 10_000][..]).unwrap();
        }
        parser.next(&mut &b"\n"[..]).unwrap();
        assert!(parser.line.capacity() <= KEEP && parser.block.data.capacity() < 100, "{head}");
    }
}

#[test]
fn memory_stays_bounded_and_is_given_back() {
    let mut parser = Parser::new();
    parser.next(&mut &b"data:xyz"[..]).unwrap();
    for piece in vec![b'x'; MAX_EVENT - 3].chunks(9_999) {
        parser.next(&mut &*piece).unwrap();
        let line = &parser.line;
        assert!(line.capacity() <= (2 * line.len()).min(MAX_LINE));
    }
    assert!(parser.next(&mut &b"\n\n"[..]).unwrap().is_some());
    assert!(parser.line.capacity() <= KEEP);
    assert!(parser.block.data.capacity() <= MAX_LINE);
    parser.next(&mut &b""[..]).unwrap();
    assert!(parser.block.data.capacity() <= KEEP);
}

#[test]
fn the_bounds_are_the_documented_ones() {
    assert_eq!(MAX_EVENT, 8_388_608);
    assert_eq!(MAX_LINE, MAX_EVENT + "\u{FEFF}event: ".len());
    assert_eq!([MAX_VALUE, KEEP], [65_536; 2]);
    assert!(TooLarge.to_string().contains("8 MiB") && TooLarge.to_string().contains("64 KiB"));
}

#[test]
fn buffers_are_reused_from_event_to_event() {
    let mut parser = Parser::new();
    let event = b"id: 17\nevent: message\ndata: {\"type\":\"TextDelta\"}\n\n";
    let mut buffers = Vec::new();
    for _ in 0..3 {
        assert!(parser.advance(&mut event.as_slice()).unwrap());
        let block = &parser.block;
        buffers.push([block.data.as_ptr(), block.event.as_ptr(), block.id.as_ptr(), parser.line.as_ptr()]);
    }
    assert_eq!(buffers[1], buffers[2]);
}

#[test]
fn the_error_is_one_lowercase_line() {
    let line = TooLarge.to_string();
    assert!(!line.contains('\n') && line.starts_with(char::is_lowercase) && !line.ends_with('.'));
}

/// Returns random streams of fields, line ends and bytes with a meaning in the grammar or in UTF-8.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    #[rustfmt::skip]
    let words: Vec<&[u8]> = vec![
        b"\n", b"\n\n", b"\r", b"\r\n", b"\r\r\n", b":", b" ", b": ", b"\0", b"x", b"0",
        b"data", b"data:", b"data: ", b"\ndata: x\n\n", b"event", b"event:", b"event: a",
        b"id", b"id:", b"id: 1", b"id: 2\n", b"retry", b"retry: 1", b"retry:25\n", b"da", b"ta",
        BOM, b"\xEF", b"\xBB", b"\xBF", b"\xFF", b"\xE2\x82", b"\xAC", b"\xF0\x9F\x98", b"\xC3\xA9",
    ];
    let word = prop_oneof![
        9 => select(words).prop_map(<[u8]>::to_vec),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ];
    (any::<bool>(), vec(word, 0..60)).prop_map(|(bom, words)| {
        let bom: &[u8] = if bom { BOM } else { b"" };
        [bom, &words.concat()].concat()
    })
}

/// Cuts `stream` at these places. Chunks may be empty.
fn cut<'a>(stream: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    places.sort_unstable();
    places.push(stream.len());
    let mut start = 0;
    places.into_iter().map(|end| &stream[mem::replace(&mut start, end)..end]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_stream_in_any_chunks_reads_as_the_model_reads_it(
        stream in soup(),
        cuts in vec(any::<Index>(), 0..20),
    ) {
        let frames = model(&stream);
        prop_assert_eq!(&whole(&stream), &frames);
        prop_assert_eq!(&parse(cut(&stream, &cuts)).unwrap(), &frames);
        prop_assert_eq!(&parse(stream.chunks(1)).unwrap(), &frames);
    }
}

#[test]
fn between_events_no_part_of_the_next_one_has_been_read() {
    for (stream, between) in [
        ("", true),
        ("i", false),
        ("id: 1", false),
        ("id: 1\n", false),
        ("id\n", false),
        ("event: e\n", false),
        ("data: x\n", false),
        ("data\n", false),
        ("data: x\n\n", true),
        ("data: x\n\ni", false),
        ("data: x\n\nevent: e\n", false),
        ("id: 1\n\n", true),
        (": a comment", false),
        (": a comment\n", true),
        ("retry: 5\n", true),
        ("\n", true),
    ] {
        let mut parser = Parser::new();
        let mut input = stream.as_bytes();
        let mut last = true;
        while !input.is_empty() {
            while parser.next(&mut input).unwrap().is_some() {
                assert!(parser.is_between_events(), "{stream:?}: right after an event");
                if input.is_empty() {
                    break;
                }
            }
            last = parser.is_between_events();
        }
        assert_eq!(last, between, "{stream:?}");
    }
}
