//! Takes secrets out of texts, events and logs before they can be read: in goes what must not be seen, out come copies with
//! `***` in its place.

use std::{
    borrow::Cow,
    io::{self, Read, Write},
};

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use serde_json::Value;

use crate::model::{Event, Secrets};

/// What stands in the place of a secret.
const MASK: &str = "***";

/// How much of a log is looked at at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// Replaces secrets. Reads each text once, however many secrets there are.
#[derive(Clone, Default)]
pub struct Redactor(Option<Search>);

#[derive(Clone)]
struct Search {
    patterns: AhoCorasick,
    /// The longest of them, in bytes.
    longest: usize,
}

impl Redactor {
    /// Knows all forms of these secrets; where one begins like another one, the longer is meant.
    pub fn new(secrets: &Secrets) -> Self {
        let forms = secrets.forms();
        let Some(longest) = forms.iter().map(String::len).max() else { return Self(None) };
        // The fastest one to search takes longer to make than a short command takes in all.
        let kind = Some(AhoCorasickKind::ContiguousNFA);
        let patterns = AhoCorasick::builder().kind(kind).match_kind(MatchKind::LeftmostLongest).build(forms);
        let patterns =
            patterns.expect("a few files of at most a mebibyte are less than the 2^31 states that there can be");
        Self(Some(Search { patterns, longest }))
    }

    /// Whether there is anything to look for.
    pub fn knows_any(&self) -> bool {
        self.0.is_some()
    }

    /// A text without secrets.
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match &self.0 {
            Some(Search { patterns, .. }) if patterns.is_match(text) => {
                let mut out = String::with_capacity(text.len());
                patterns.replace_all_with(text, &mut out, |_, _, out| {
                    out.push_str(MASK);
                    true
                });
                Cow::Owned(out)
            }
            _ => Cow::Borrowed(text),
        }
    }

    /// Changes every text of an event.
    pub fn event(&self, event: &mut Event) {
        if self.0.is_some() {
            event.for_each_text(&mut |text| self.change(text));
        }
    }

    /// Changes every text of a document, but not the names of its fields.
    pub fn json(&self, value: &mut Value) {
        match value {
            Value::String(text) => self.change(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.json(item)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.json(field)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Copies bytes of any length, in bounded memory. A secret is found wherever it lies.
    ///
    /// # Errors
    ///
    /// When reading or writing fails.
    pub fn copy(&self, from: impl Read, to: impl Write) -> io::Result<()> {
        self.copy_by(CHUNK, from, to)
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "places of matches in the window that was searched, each behind the last"
    )]
    fn copy_by(&self, chunk: usize, mut from: impl Read, mut to: impl Write) -> io::Result<()> {
        let Some(Search { patterns, longest }) = &self.0 else { return io::copy(&mut from, &mut to).map(drop) };
        let mut window = Vec::new();
        loop {
            let read = from.by_ref().take((chunk + longest) as u64).read_to_end(&mut window)?;
            // A match that begins later could be longer than what has been read.
            let sure = if read == 0 { window.len() } else { (window.len() + 1).saturating_sub(*longest) };
            let mut done = 0;
            for found in patterns.find_iter(&window).take_while(|found| found.start() < sure) {
                to.write_all(&window[done..found.start()])?;
                to.write_all(MASK.as_bytes())?;
                done = found.end();
            }
            let sure = sure.max(done);
            to.write_all(&window[done..sure])?;
            window.drain(..sure);
            if read == 0 {
                return to.flush();
            }
        }
    }

    fn change(&self, text: &mut String) {
        if let Cow::Owned(changed) = self.text(text) {
            *text = changed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FailedTask, Outcome, State, TaskName};

    fn redactor(values: &[&str]) -> Redactor {
        let mut secrets = Secrets::default();
        values.iter().for_each(|value| secrets.add_variable("TOKEN", value));
        Redactor::new(&secrets)
    }

    #[test]
    fn the_longest_secret_goes_first() {
        let redactor = redactor(&["hunter", "hunter2", "hunter2000", "p@ss word"]);
        for (text, clean) in [
            ("hunter hunter2 hunter2000 hunter20", "*** *** *** ***0"),
            ("xhunter2x", "x***x"),
            ("p%40ss%20word and p%40ss%20wor", "*** and p%40ss%20wor"),
            ("Basic aHVudGVyMjAwMA==", "Basic ***=="),
            ("nothing at all", "nothing at all"),
            ("", ""),
        ] {
            assert_eq!(redactor.text(text), clean);
        }
        assert!(matches!(redactor.text("nothing"), Cow::Borrowed(_)));
        assert_eq!(Redactor::default().text("hunter2"), "hunter2");
    }

    #[test]
    #[expect(clippy::disallowed_macros, reason = "a literal")]
    fn events_and_documents() {
        let redactor = redactor(&["hunter2"]);
        let name = TaskName { recipe: "a-hunter2".into(), task: "do_x".into() };
        let failed = vec![FailedTask {
            name: name.clone(),
            log: Some("/srv/hunter2/log".into()),
            reasons: vec!["hunter2".into()],
            urls: vec!["https://hunter2@a.example/".into()],
        }];
        let reasons = vec!["it was hunter2".into()];
        let mut event = Event::Finished { outcome: Outcome { failed, reasons, ..Outcome::new(State::Failed) } };
        redactor.event(&mut event);
        let text = serde_json::to_string(&event).expect("JSON");
        // A path still leads where it led.
        assert!(
            text.contains("a-***")
                && text.contains("it was ***")
                && text.contains("//***@a.example")
                && text.contains("/srv/hunter2/log"),
            "{text}"
        );
        let mut log = Event::TaskLog { name, log: "/x".into(), tail: vec!["hunter2hunter2".into()] };
        redactor.event(&mut log);
        assert!(matches!(log, Event::TaskLog { tail, .. } if tail == ["******"]));
        let mut document = serde_json::json!({ "env": [["TOKEN", "hunter2"]], "n": 1, "x": null });
        redactor.json(&mut document);
        assert_eq!(document.to_string(), r#"{"env":[["TOKEN","***"]],"n":1,"x":null}"#);
    }

    /// Gives what it has in pieces, as a pipe does.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn a_log_of_any_length() {
        let redactor = redactor(&["hunter2", "hunter2000"]);
        let around = |at: usize| {
            let mut bytes = vec![0xff; at];
            bytes.extend(b"hunter2000hunter2");
            bytes.extend(vec![b'x'; 100]);
            bytes
        };
        for at in (CHUNK - 30..CHUNK + 30).chain([0, 1, 3 * CHUNK]) {
            for piece in [1000, CHUNK, usize::MAX] {
                let (mut out, bytes) = (Vec::new(), around(at));
                redactor.copy(Pieces(&bytes, piece), &mut out).expect("copied");
                let mut clean = vec![0xff; at];
                clean.extend(b"******");
                clean.extend(vec![b'x'; 100]);
                assert!(out == clean, "{at} in pieces of {piece}");
            }
        }
    }

    /// What is left of a text beside masks.
    fn left(redactor: &Redactor, text: &str) -> usize {
        redactor.text(text).replace(MASK, "").len()
    }

    proptest::proptest! {
        // In every spelling, for every user, nothing but quotes and the user's part is left of it.
        #[test]
        fn no_dress_of_a_secret_gets_through(
            secret in "[!-~\u{e4}\u{20ac}]([ -~\u{e4}\u{20ac}]{10,40})[!-~]",
            user in "[a-zA-Z0-9.@_-]{0,20}",
        ) {
            use base64::{Engine as _, engine::general_purpose::{STANDARD, URL_SAFE}};
            let redactor = redactor(&[&secret]);
            let encoded: String = secret.bytes().map(|byte| match byte {
                byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => char::from(byte).to_string(),
                byte => format!("%{byte:02X}"),
            }).collect();
            for dress in [
                secret.clone(),
                encoded,
                format!("'{}'", secret.replace('\'', "'\\''")),
                format!("'{}'", secret.replace('\'', "'\"'\"'")),
                format!("$'{}'", secret.replace('\\', "\\\\").replace('\'', "\\'")),
                Value::from(secret.as_str()).to_string(),
                secret.replace('$', "$$"),
            ] {
                proptest::prop_assert!(left(&redactor, &dress) <= 3, "{} of {}", redactor.text(&dress), dress);
            }
            for (before, after) in [("", ""), (":", ""), (":", "\n"), (":", ":x")] {
                let login = format!("{user}{before}{secret}{after}");
                for dress in [STANDARD.encode(&login), URL_SAFE.encode(&login)] {
                    let around = (user.len() + before.len()) * 4 / 3 + 2 + after.len() * 4 / 3 + 2 + 2;
                    proptest::prop_assert!(left(&redactor, &dress) <= around, "{} of {}", redactor.text(&dress), dress);
                }
            }
        }

        // Whatever is logged, in whatever pieces: the copy is what the whole text would have become.
        #[test]
        fn a_copy_is_the_text_without_secrets(
            text in "[ab]{0,200}",
            secrets in proptest::collection::vec("[ab]{6,9}", 1..4),
            chunk in 1..40_usize,
        ) {
            let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
            let redactor = redactor(&secrets);
            let mut out = Vec::new();
            redactor.copy_by(chunk, text.as_bytes(), &mut out).expect("copied");
            proptest::prop_assert_eq!(String::from_utf8(out).expect("text"), redactor.text(&text).into_owned());
            for secret in &secrets {
                proptest::prop_assert!(!redactor.text(secret).contains(secret));
            }
        }
    }
}
