//! The sources that `build --fetch-only` could not have: in goes the outcome, out come lines. It never prints.

use anstyle::AnsiColor;

use super::super::{output::paint, wrap::width};
use crate::model::{BuildId, FailedTask, Kind, Outcome};

/// The most columns of a recipe's name, and of a host's.
const COLUMN: usize = 32;

/// Each of them with host and reason, where that is why the build failed. Lines behind the first one of a text are indented by two more.
pub(super) fn listed(id: &BuildId, outcome: &Outcome, took: &str, smidr: &str) -> Option<Vec<String>> {
    let missing: Vec<(&FailedTask, &str)> =
        outcome.failed.iter().flat_map(|task| task.urls.iter().map(move |url| (task, url.as_str()))).collect();
    let first = missing.first().filter(|_| outcome.kind == Some(Kind::Outside))?;
    let word = paint(AnsiColor::Red, "error:");
    let count = if missing.len() == 1 { "1 source".into() } else { format!("{} sources", missing.len()) };
    let mut texts = vec![format!("{word} {id} could not fetch {count} ({took})")];
    let widest =
        |of: &dyn Fn(&(&FailedTask, &str)) -> usize| missing.iter().map(of).max().unwrap_or_default().min(COLUMN);
    let names = widest(&|(task, _)| width(&task.name.recipe));
    let hosts = widest(&|(_, url)| width(host(url)));
    texts.extend(missing.iter().map(|(task, url)| {
        // The rules say one reason of a task, which is that of its first source.
        let is_first = task.urls.first().is_some_and(|first| first == url);
        let reason = if is_first { format!("  {}", reason(task, outcome)) } else { String::new() };
        let place = format!("{:<names$}  {:<hosts$}{reason}", task.name.recipe, host(url));
        format!("missing    {}\n         {url}", place.trim_end())
    }));
    texts.push(format!("log:    {smidr} logs {id} --task {}", first.0.name));
    texts.push(format!("why:    {smidr} explain {id} --all"));
    Some(texts)
}

/// What went wrong: the kind that rules give it, and the line that says it.
fn reason(task: &FailedTask, outcome: &Outcome) -> String {
    let known = outcome.diagnoses.iter().find(|one| one.is_of(&task.name) || one.also.contains(&task.name));
    let first = known.and_then(|one| one.first_error.as_ref()).map(|first| &first.text);
    let line = first.or_else(|| task.reasons.iter().find(|line| !line.contains("for URL: '"))).or(task.reasons.first());
    let words = [known.map(|one| one.kind.as_str()), line.map(|line| line.trim())];
    words.into_iter().flatten().collect::<Vec<_>>().join(": ")
}

/// The server in an address.
fn host(url: &str) -> &str {
    let place = url.split_once("://").map_or("", |(_, rest)| rest).split(['/', ';', '?']).next().unwrap_or_default();
    let place = place.rsplit('@').next().unwrap_or_default();
    if place.is_empty() { "-" } else { place }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{State, TaskName};

    #[test]
    fn each_source_has_its_host_and_reason() {
        let task = |recipe: &str, urls: &[&str], reasons: &[&str]| FailedTask {
            name: TaskName { recipe: recipe.into(), task: "do_fetch".into() },
            log: None,
            reasons: reasons.iter().map(|&line| line.to_owned()).collect(),
            urls: urls.iter().map(|&url| url.to_owned()).collect(),
        };
        let failed = vec![
            task(
                "zlib",
                &["https://user@zlib.example/a.tar.gz", "https://b.example/second.patch"],
                &["Fetcher failure for URL: 'x'.", "ERROR 404: Not Found."],
            ),
            task("mc:x:linux", &["git://git.example:9418;branch=main"], &["Fetcher failure for URL: 'y'."]),
        ];
        let mut outcome = Outcome { failed, kind: Some(Kind::Outside), ..Outcome::new(State::Failed) };
        let id: BuildId = "x-00000001".parse().expect("an id");
        let told = listed(&id, &outcome, "3 s", "smidr").expect("a list").join("\n");
        let expected = "\
error: x-00000001 could not fetch 3 sources (3 s)
missing    zlib        zlib.example      ERROR 404: Not Found.
         https://user@zlib.example/a.tar.gz
missing    zlib        b.example
         https://b.example/second.patch
missing    mc:x:linux  git.example:9418  Fetcher failure for URL: 'y'.
         git://git.example:9418;branch=main
log:    smidr logs x-00000001 --task zlib:do_fetch
why:    smidr explain x-00000001 --all";
        assert_eq!(told, expected.replacen("error:", &paint(AnsiColor::Red, "error:"), 1));
        outcome.kind = Some(Kind::Build);
        assert_eq!(listed(&id, &outcome, "3 s", "smidr"), None);
        assert_eq!([host("file:///a"), host("nothing")], ["-", "-"]);
    }
}
