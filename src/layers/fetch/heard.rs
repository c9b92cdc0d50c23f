//! What an http server says where it gives no repository: its status, its own text or the title of its page, where it leads to.
//!
//! gix drops the content of such an answer, so the server is asked once more, for the same as git asks first. Nothing is followed, and no
//! password is sent in the open.

use std::{io::Read as _, time::Duration};

use reqwest::{
    blocking::Response,
    header::{CONTENT_TYPE, LOCATION},
    redirect::Policy,
};

use super::super::git_error::shown;
use crate::model::without_secrets;

/// How long the server may take: the failure itself is known already.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much of its answer is read.
const BYTES: u64 = 64 << 10;

/// An answer that is no repository.
pub(super) struct Heard {
    /// In one line.
    pub words: String,
    /// Whether the server has a text, and not only a status.
    pub has_text: bool,
    /// Where it leads to.
    pub leads_to: Option<String>,
}

/// Asks the server of an address. None where it does not answer, or answers as a repository does.
pub(super) fn listen(url: &gix::Url) -> Option<Heard> {
    let mut address =
        reqwest::Url::parse(&format!("{}/info/refs", url.to_bstring().to_string().trim_end_matches('/'))).ok()?;
    address.set_query(Some("service=git-upload-pack"));
    if address.scheme() == "http" {
        address.set_username("").ok()?;
        address.set_password(None).ok()?;
    }
    let client = super::inside::configure(reqwest::blocking::Client::builder()).ok()?;
    let client = client.redirect(Policy::none()).timeout(PATIENCE).build().ok()?;
    // Servers answer git in plain text, and others with a page.
    let answer = client.get(address).header("User-Agent", "git/0 (smidr)").send().ok()?;
    heard(answer)
}

fn heard(answer: Response) -> Option<Heard> {
    let status = answer.status();
    let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (kind, location) = (header(CONTENT_TYPE), header(LOCATION));
    if status.is_redirection() && !location.is_empty() {
        let base = answer.url().clone();
        let to = base.join(&location).map_or(location, |to| to.to_string());
        let to = shown(&without_secrets(to.split(['?', '#']).next().unwrap_or_default()));
        return Some(Heard { words: format!("it leads to {to}"), has_text: true, leads_to: Some(to) });
    }
    let (is_text, is_page) = (kind.starts_with("text/plain"), kind.starts_with("text/html"));
    if status.is_success() && !is_page {
        return None;
    }
    let mut bytes = Vec::new();
    if is_text || is_page {
        answer.take(BYTES).read_to_end(&mut bytes).ok()?;
    }
    let content = String::from_utf8_lossy(&bytes);
    let text = shown(if is_page { title(&content) } else { &content });
    let what = if status.is_success() { "a web page".into() } else { status.to_string() };
    let has_text = !text.is_empty();
    let words = if has_text { format!("it answers {what}: {text}") } else { format!("it answers {what}") };
    Some(Heard { words, has_text: has_text || status.is_success(), leads_to: None })
}

/// The title of a page.
fn title(page: &str) -> &str {
    // Lower case in ASCII keeps every place.
    let lower = page.to_ascii_lowercase();
    let found = || {
        let start = lower.find("<title")?;
        let start = start + lower.get(start..)?.find('>')? + 1;
        let end = start + lower.get(start..)?.find("</title")?;
        page.get(start..end)
    };
    found().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_of_pages() {
        for (page, expected) in [
            ("<html><TITLE lang=x>\u{130} a</Title>", "\u{130} a"),
            ("<title>", ""),
            ("<title>x", ""),
            ("x</title><title", ""),
            ("", ""),
        ] {
            assert_eq!(title(page), expected, "{page}");
        }
    }
}
