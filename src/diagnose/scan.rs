//! One pass over a log: the lines that a rule matches, with their words. Memory does not grow with the log, and no line can be too long.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, Read},
};

use encoding_rs::{Decoder, UTF_16BE, UTF_16LE};

use super::{
    line::Line,
    rules::{At, RULES, Rule, Words},
};
use crate::model::Quote;

/// How much of a log is in memory, in bytes: at least two of the longest lines that are looked at.
const BUFFER: usize = 512 * 1024;
/// How much before a line may be looked at, in bytes.
const BEFORE: usize = 4 * 1024;
/// How many lines before one are looked at.
const ABOVE: usize = 8;
/// How many lines behind one are looked at for more words.
const BEHIND: usize = 14;
/// How many lines behind one are kept as what shows it.
const SHOWN: usize = 3;
/// How often a rule may match for one task, and how many matches are kept at all.
const PER_TASK: usize = 3;
const ALL: usize = 20_000;
/// How much of a line is kept, and of all of them, in bytes.
const LINE: usize = 1000;
const STORED: usize = 32 << 20;

/// Recipe and task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    /// As it was said: PN, or PN-PV-PR.
    pub(super) package: String,
    pub(super) task: String,
}

/// A line that a rule matches.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) rule: &'static Rule,
    pub(super) words: Words,
    pub(super) quote: Quote,
    pub(super) evidence: Vec<Quote>,
    pub(super) owner: Option<Owner>,
    pub(super) at: At,
    pub(super) is_kas: bool,
    /// The address that the task failed to fetch last.
    pub(super) url: Option<String>,
    /// The file of a recipe that was named last.
    pub(super) named: Option<String>,
}

/// Where a line stands.
#[derive(Clone, Copy)]
pub(super) struct Stands<'a> {
    pub(super) at: At,
    pub(super) file: Option<&'a str>,
    pub(super) number: u64,
    pub(super) owner: Option<&'a Owner>,
    pub(super) url: Option<&'a String>,
    pub(super) named: Option<&'a String>,
}

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) findings: Vec<Finding>,
    // Those that look on, and at how many lines.
    open: Vec<(usize, usize)>,
    counts: HashMap<(*const Rule, Option<Owner>), usize>,
    // In bytes.
    stored: usize,
}

/// What is kept of a line.
pub(super) fn beginning(text: &str) -> &str {
    let end = (0..=LINE.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}

impl Scan {
    /// Looks at a line. `before` has the lines before it, the nearest last. Says how many lines behind it must be looked at too.
    pub(super) fn look(&mut self, line: &Line, stands: Stands<'_>, before: &[(u64, Line)]) -> usize {
        let quote = |number: u64, line: &Line| Quote {
            text: beginning(&line.text).to_owned(),
            file: stands.file.map(str::to_owned),
            line: number,
        };
        self.look_on(line, &quote(stands.number, line));
        // What configure and CMake try, and is meant to fail.
        if ["conftest", "CMakeTmp", "CMakeScratch", "TryCompile"].iter().any(|probe| line.text.contains(probe)) {
            return self.wanted();
        }
        for index in RULES.of_line(&line.text) {
            let Some(rule) = RULES.all.get(index) else { continue };
            if rule.at.is_some_and(|at| at != stands.at)
                || !rule.wants(line.level)
                || self.findings.len() >= ALL
                || self.stored >= STORED
            {
                continue;
            }
            let Some(mut words) = rule.matches(line.body()) else { continue };
            let count = self.counts.entry((std::ptr::from_ref(rule), stands.owner.cloned())).or_default();
            *count += 1;
            if *count > PER_TASK {
                continue;
            }
            let mut first = quote(stands.number, line);
            let mut evidence = vec![first.clone()];
            if let Some((back, is_first)) = rule.above(before.iter().map(|(_, line)| line.body()), &mut words)
                && let Some((number, line)) = before.iter().rev().nth(back)
            {
                evidence.insert(0, quote(*number, line));
                if is_first {
                    first = quote(*number, line);
                }
            }
            words.insert("message".into(), beginning(line.body().trim()).to_owned());
            words.values_mut().for_each(|word| word.truncate(beginning(word).len()));
            self.stored += 2 * first.text.len() + words.values().map(String::len).sum::<usize>();
            self.open.push((self.findings.len(), rule.lines(if rule.looks_on() { BEHIND } else { SHOWN })));
            self.findings.push(Finding {
                rule,
                words,
                quote: first,
                evidence,
                owner: stands.owner.cloned(),
                at: stands.at,
                is_kas: line.is_kas,
                url: stands.url.cloned(),
                named: stands.named.cloned(),
            });
        }
        self.wanted()
    }

    /// How many lines behind must be looked at.
    fn wanted(&self) -> usize {
        self.open.iter().map(|(_, left)| *left).max().unwrap_or_default()
    }

    fn look_on(&mut self, line: &Line, quote: &Quote) {
        for (index, left) in &mut self.open {
            *left -= 1;
            let Some(finding) = self.findings.get_mut(*index) else { continue };
            // A message of BitBake ends where the next begins.
            if !line.goes_on() && finding.at == At::Console {
                *left = 0;
                continue;
            }
            if finding.rule.looks_on() {
                if let Some(is_first) = finding.rule.then(&line.text, &mut finding.words) {
                    if is_first && finding.evidence.len() == 1 {
                        finding.quote = quote.clone();
                    }
                    finding.evidence.push(quote.clone());
                }
            } else if !line.text.trim().is_empty() && line.level.is_none() {
                finding.evidence.push(quote.clone());
            }
        }
        self.open.retain(|(_, left)| *left > 0);
    }

    /// The log ends here: what comes next is another one.
    pub(super) fn end(&mut self) {
        self.open.clear();
    }
}

/// Reads a log that UTF-16 may be, and calls `look` with each line that a rule may match and with the lines behind it that it asks for, or with all. It gets a line's number,
/// the line, and some of what stands before it. Gives the last lines.
pub(super) fn read(
    mut source: impl Read,
    all: bool,
    mut look: impl FnMut(u64, &[u8], &[u8]) -> usize,
) -> io::Result<Vec<Vec<u8>>> {
    let mut buffer = vec![0; BUFFER];
    let (mut start, mut end) = (0, 0);
    let (mut number, mut wanted, mut inside) = (0_u64, 0_usize, false);
    let mut decoder = Decode::default();
    loop {
        // What was looked at goes, but for a little before the next line.
        let room = buffer.len().saturating_sub(1 + end - start);
        let keep = start.min(BEFORE).min(room);
        buffer.copy_within(start - keep..end, 0);
        (start, end) = (keep, end - start + keep);
        let count = decoder.read(&mut source, buffer.get_mut(end..).unwrap_or_default())?;
        end += count;
        let is_end = count == 0;
        let filled = buffer.get(..end).unwrap_or_default();
        let complete = match memrchr(filled.get(start..).unwrap_or_default()) {
            _ if is_end => end,
            Some(at) => start + at + 1,
            // A line that is longer than the buffer: its beginning is the line.
            None if end == buffer.len() => end,
            None => continue,
        };
        let mut at = start;
        while at < complete {
            let rest = filled.get(at..complete).unwrap_or_default();
            if !all && wanted == 0 && !inside {
                let next = RULES.next_in(rest).unwrap_or(rest.len());
                let skipped = rest.get(..next).and_then(memrchr).map_or(0, |newline| newline + 1);
                number += count_lines(rest.get(..skipped).unwrap_or_default());
                at += skipped;
                if next == rest.len() {
                    // No line of the rest matters, nor the beginning of one that is cut.
                    number += u64::from(at < complete && !inside);
                    inside = at < complete && !is_end && filled.get(complete - 1) != Some(&b'\n');
                    at = complete;
                    continue;
                }
            }
            let rest = filled.get(at..complete).unwrap_or_default();
            let length = memchr(rest).map_or(rest.len(), |newline| newline + 1);
            let is_whole = rest.get(length - 1) == Some(&b'\n');
            if !inside {
                number += 1;
                let line = rest.get(..length - usize::from(is_whole)).unwrap_or_default();
                let before = filled.get(at.saturating_sub(BEFORE)..at).unwrap_or_default();
                wanted = wanted.saturating_sub(1).max(look(number, line, before));
            }
            inside = !is_whole;
            at += length;
        }
        start = complete;
        if is_end {
            let last = filled.get(end.saturating_sub(4 * BEFORE)..).unwrap_or_default();
            return Ok(last.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect());
        }
    }
}

fn memchr(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes)
}

fn memrchr(bytes: &[u8]) -> Option<usize> {
    memchr::memrchr(b'\n', bytes)
}

fn count_lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

/// The lines before one, in what stands before it, the nearest last.
pub(super) fn before(bytes: &[u8], number: u64) -> Vec<(u64, Line)> {
    let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let lines = text.rsplit(|byte| *byte == b'\n').take(ABOVE).filter(|_| !text.is_empty());
    let mut lines: Vec<(u64, Line)> =
        lines.zip(1..).map(|(line, back)| (number.saturating_sub(back), Line::new(line))).collect();
    lines.reverse();
    lines
}

/// Keeps the last lines for the one that comes.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<(u64, Line)>);

impl Recent {
    pub(super) fn push(&mut self, number: u64, line: Line) {
        if self.0.len() >= ABOVE {
            self.0.pop_front();
        }
        self.0.push_back((number, line));
    }

    pub(super) fn lines(&mut self) -> &[(u64, Line)] {
        self.0.make_contiguous()
    }
}

/// Makes UTF-8 of UTF-16, which PowerShell writes.
#[derive(Default)]
struct Decode {
    begun: bool,
    decoder: Option<Decoder>,
    raw: Vec<u8>,
    has_ended: bool,
}

impl Decode {
    fn read(&mut self, source: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
        if !self.begun {
            self.begun = true;
            let mut mark = [0; 2];
            let mut count = 0;
            while let Some(rest) = mark.get_mut(count..).filter(|rest| !rest.is_empty()) {
                match source.read(rest)? {
                    0 => break,
                    more => count += more,
                }
            }
            let encoding = match mark {
                [0xff, 0xfe] => Some(UTF_16LE),
                [0xfe, 0xff] => Some(UTF_16BE),
                _ => None,
            };
            self.decoder = encoding.map(encoding_rs::Encoding::new_decoder_without_bom_handling);
            if self.decoder.is_none() {
                let count = count.min(into.len());
                into.get_mut(..count).unwrap_or_default().copy_from_slice(mark.get(..count).unwrap_or_default());
                return if count == 0 { Ok(0) } else { Ok(count) };
            }
        }
        let Some(decoder) = &mut self.decoder else { return source.read(into) };
        // UTF-8 has at most three bytes for two of UTF-16.
        self.raw.resize((into.len() / 4).max(2), 0);
        while !self.has_ended {
            let count = source.read(&mut self.raw)?;
            let part = self.raw.get(..count).unwrap_or_default();
            self.has_ended = count == 0;
            let (_, _, written, _) = decoder.decode_to_utf8(part, into, self.has_ended);
            if written > 0 {
                return Ok(written);
            }
        }
        Ok(0)
    }
}
