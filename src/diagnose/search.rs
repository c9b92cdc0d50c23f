//! The search for the lines of a task's log that may matter. A log may have gigabytes, and nearly none of it matters.

use std::fmt;

use aho_corasick::{
    Anchored,
    automaton::{Automaton as _, StateID},
    dfa::DFA,
};

/// How much is searched at once, in bytes, in two halves. Where the first has a match, what was searched of the second is searched again.
const WINDOW: usize = 16 * 1024;

/// A search for texts without newlines.
pub(super) struct Search {
    dfa: DFA,
    start: StateID,
}

impl fmt::Debug for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Search").finish_non_exhaustive()
    }
}

impl Search {
    /// One for these texts.
    pub(super) fn new<'a>(texts: impl Iterator<Item = &'a String>) -> Self {
        // Larger than other forms, and twice as fast.
        let dfa = DFA::builder().prefilter(false).build(texts).expect("few texts");
        let start = dfa.start_state(Anchored::No).expect("a search that begins anywhere");
        Self { dfa, start }
    }

    /// A place in the first line that has one of the texts.
    pub(super) fn first(&self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let window = rest.get(..WINDOW).unwrap_or(rest);
            let end = behind_newline(window).or_else(|| memchr::memchr(b'\n', rest).map(|at| at + 1));
            let lines = rest.get(..end.unwrap_or(rest.len())).unwrap_or(rest);
            let middle = lines.get(..lines.len() / 2).and_then(behind_newline).unwrap_or_default();
            let (before, behind) = lines.split_at_checked(middle).unwrap_or((&[], lines));
            if let Some(found) = self.in_halves(before, behind) {
                return Some(at + found);
            }
            at += lines.len();
        }
        None
    }

    /// In the first of two pieces, or else in the second one. Both are searched in turns: each step needs the state before it, and a processor takes
    /// steps that do not need each other at the same time.
    fn in_halves(&self, before: &[u8], behind: &[u8]) -> Option<usize> {
        let (mut first, mut second) = (self.start, self.start);
        let mut taken = 0;
        for (one, other) in before.iter().zip(behind) {
            first = self.dfa.next_state(Anchored::No, first, *one);
            second = self.dfa.next_state(Anchored::No, second, *other);
            taken += 1;
            if self.dfa.is_special(first) || self.dfa.is_special(second) {
                break;
            }
        }
        let in_second = || Some(before.len() + self.on(second, behind, taken)?);
        self.on(first, before, taken).or_else(in_second)
    }

    /// Where a search has a match that is in this state and took so many bytes: there, or behind it.
    fn on(&self, mut state: StateID, bytes: &[u8], taken: usize) -> Option<usize> {
        if self.dfa.is_match(state) {
            return Some(taken - 1);
        }
        let rest = bytes.get(taken..)?.iter().position(|byte| {
            state = self.dfa.next_state(Anchored::No, state, *byte);
            self.dfa.is_special(state) && self.dfa.is_match(state)
        });
        Some(taken + rest?)
    }
}

fn behind_newline(bytes: &[u8]) -> Option<usize> {
    memchr::memrchr(b'\n', bytes).map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_line_is_found(lines in prop::collection::vec("[ab]{0,9}|[ab]{0,4}xyz[ab]{0,4}", 0..40), long in 0_usize..60_000, at in 0_usize..40) {
            let texts = ["xyz".to_owned(), "xy".to_owned(), "bab".to_owned()];
            let search = Search::new(texts.iter());
            let mut lines = lines;
            if let Some(line) = lines.get_mut(at) {
                line.insert_str(0, &"a".repeat(long));
            }
            let text = lines.join("\n");
            let wanted = lines.iter().position(|line| texts.iter().any(|one| line.contains(one.as_str())));
            let found = search.first(text.as_bytes()).map(|at| text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count());
            prop_assert_eq!(found, wanted);
        }
    }
}
