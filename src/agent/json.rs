//! Parses JSON from the server within bounds.

use serde::de::{DeserializeOwned, Error};

/// The longest text that an error may quote, in bytes.
const LONG: usize = 64 * 1024;

/// Parses the body of an answer, which must be an object: serde would also accept a list of the fields' values.
///
/// # Errors
/// A short description of why the body is not what `T` needs.
pub fn object<T: DeserializeOwned>(body: &[u8]) -> serde_json::Result<T> {
    let body = str::from_utf8(body).map_err(Error::custom)?;
    if !body.trim_ascii_start().starts_with('{') {
        return Err(Error::custom("it is not an object"));
    }
    if let Some(short) = without_long_texts(body) {
        serde_json::from_str::<T>(&short)?;
    }
    serde_json::from_str(body)
}

/// Returns the JSON with each text of more than 64 KiB replaced by an empty one, or `None` if it has no such text.
///
/// Where a text has the wrong type, serde's error quotes all of it, escaped, in up to six times its length. So large
/// JSON is first parsed in this form: an error about that is short, and without an error the full JSON has the right
/// types.
pub fn without_long_texts(json: &str) -> Option<String> {
    if json.len() <= LONG {
        return None;
    }
    let mut short: Option<String> = None;
    let mut rest = json;
    // The start of what has not been copied yet.
    let mut kept = 0;
    while let Some(start) = memchr::memchr(b'"', rest.as_bytes()) {
        let text = &rest[start + 1..];
        let length = text_length(text.as_bytes());
        let at = json.len() - text.len();
        if length > LONG {
            short.get_or_insert_default().push_str(&json[kept..at]);
            kept = at + length;
        }
        rest = text.get(length + 1..).unwrap_or_default();
    }
    short.map(|short| short + &json[kept..])
}

/// Returns where a text ends, its closing quote not included; without a closing quote, the length of the rest.
fn text_length(text: &[u8]) -> usize {
    let mut from = 0;
    while let Some(at) = memchr::memchr2(b'"', b'\\', text.get(from..).unwrap_or_default()) {
        if text[from + at] == b'"' {
            return from + at;
        }
        // A backslash and the character that it escapes.
        from += at + 2;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_left_out_and_short_ones_stay() {
        let long = "x".repeat(LONG + 1);
        let short = "y".repeat(LONG);
        for (json, expected) in [
            (r#"{"a":"SHORT"}"#, None),
            ("", None),
            ("17", None),
            (r#"{"a":"LONG"}"#, Some(r#"{"a":""}"#)),
            (r#""LONG""#, Some(r#""""#)),
            (r#"{"LONG":1,"b":["SHORT","LONG"],"c":"\"LONG"}"#, Some(r#"{"":1,"b":["SHORT",""],"c":""}"#)),
            (r#"["\\","LONG\\","a\"b"]"#, Some(r#"["\\","","a\"b"]"#)),
            // Broken JSON stays broken.
            (r#"{"a":"LONG"#, Some(r#"{"a":""#)),
            (r#"{"a":"LONG\"#, Some(r#"{"a":""#)),
            (r#"LONG"a"#, None),
        ] {
            let fill = |text: &str| text.replace("LONG", &long).replace("SHORT", &short);
            assert_eq!(without_long_texts(&fill(json)), expected.map(fill), "{json}");
        }
    }

    #[test]
    fn an_object_is_an_object() {
        type Map = std::collections::BTreeMap<String, u8>;
        assert_eq!(object::<Map>(b" {\"a\":1}").unwrap()["a"], 1);
        for (body, why) in [(&b"[1]"[..], "not an object"), (b"\"{\"", "not an object"), (b"{\"\xFF\":1}", "utf-8")]
        {
            let error = object::<Map>(body).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn an_error_quotes_no_long_text() {
        let long = "\u{7f}".repeat(LONG + 1);
        let error = object::<std::collections::BTreeMap<String, u8>>(format!(r#"{{"a":"{long}"}}"#).as_bytes());
        assert!(error.unwrap_err().to_string().len() < 100);
        let short = "x".repeat(LONG);
        let error = object::<std::collections::BTreeMap<String, u8>>(format!(r#"{{"a":"{short}"}}"#).as_bytes());
        assert!(error.unwrap_err().to_string().contains(&short));
    }
}
