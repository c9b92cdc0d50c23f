//! Annotations of GitHub's runner, which Forgejo's and Gitea's obey too: a line for each failure. A pure function.

use super::told::{Failed, Told, line};
use crate::model::Shown;

/// How many errors of a step GitHub shows.
const MOST: usize = 10;

/// The lines.
pub(super) fn of(told: &[Told]) -> Vec<Shown> {
    let all: Vec<&Failed> = told.iter().flat_map(|one| &one.failures).collect();
    let shown = if all.len() > MOST { MOST - 1 } else { MOST };
    let mut lines: Vec<Shown> = all.iter().take(shown).map(|one| error(one)).collect();
    let more = all.len().saturating_sub(shown);
    if more > 0 {
        lines.push(Shown::annotation("error", &[("title", "smidr")], &format!("{more} more failures")));
    }
    lines
}

fn error(failed: &Failed) -> Shown {
    let (title, number) = (failed.title(), failed.place.as_ref().map(|(_, line)| line.to_string()));
    let mut properties = Vec::new();
    if let (Some((file, _)), Some(number)) = (&failed.place, &number) {
        properties.extend([("file", file.as_str()), ("line", number.as_str())]);
    }
    properties.push(("title", &title));
    let first = failed.why.first_error.iter().map(|quote| line(&quote.text));
    let text: Vec<String> = [line(&failed.why.cause)].into_iter().chain(first).chain(failed.next().take(2)).collect();
    Shown::annotation("error", &properties, &text.join("\n"))
}
