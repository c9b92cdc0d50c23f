//! Addresses of repositories: their parts, and the form in which they may be shown and written down.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

/// A text whose addresses have no passwords, and no users where those could be secrets.
pub fn without_secrets(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        rest = match split_login(after) {
            // Over ssh a name alone is needed to recognise the address, and is no secret.
            Some((login, host)) if before.ends_with("ssh://") => {
                clean.push_str(login.split(':').next().unwrap_or_default());
                host
            }
            Some((_, host)) => host.trim_start_matches('@'),
            None => after,
        };
    }
    clean.push_str(rest);
    clean
}

/// Splits what follows `://` at the `@` behind `user:password`. Passwords are found whether or not their special characters are
/// encoded: a `/` belongs to one if what stands before it ends in no valid port, so that it cannot be a host.
pub(super) fn split_login(after: &str) -> Option<(&str, &str)> {
    let word = after.split(char::is_whitespace).next().unwrap_or_default().split("://").next().unwrap_or_default();
    let (mut start, mut at) = (0, None);
    for part in word.split('/') {
        let login = part.rfind('@');
        at = login.map(|login| start + login).or(at);
        if (start == 0 || login.is_some()) && has_valid_port(part.rsplit('@').next().unwrap_or_default()) {
            break;
        }
        start += part.len() + 1;
    }
    at.map(|at| after.split_at(at))
}

/// Whether a host names no port, or a number.
fn has_valid_port(host: &str) -> bool {
    // An IPv6 address stands in brackets.
    let rest = host.rsplit_once(']').filter(|_| host.starts_with('[')).map_or(host, |(_, rest)| rest);
    rest.split_once(':').is_none_or(|(_, port)| !port.is_empty() && port.chars().all(|c| c.is_ascii_digit()))
}

/// Whether programs could disagree about the host of an address: some end it at a `?`, `#` or `\`, or at a `/` in a password,
/// others look for it behind the next `@`.
pub fn is_ambiguous(address: &str) -> bool {
    let (is_url, rest) = address.split_once("://").map_or((false, address), |(_, rest)| (true, rest));
    rest.split('/').next().unwrap_or_default().contains(['?', '#', '\\'])
        || is_url && split_login(rest).is_some_and(|(login, _)| login.contains('/'))
}

/// The folder of a `file://` address, decoded as git decodes it.
pub fn folder_of(address: &str) -> Option<PathBuf> {
    let path = address.strip_prefix("file://")?;
    Some(OsString::from_vec(percent_encoding::percent_decode_str(path).collect()).into())
}

/// The `file://` address of a folder.
pub fn address_of(folder: &Path) -> String {
    const ESCAPED: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%').add(b' ');
    format!("file://{}", percent_encoding::percent_encode(folder.as_os_str().as_bytes(), ESCAPED))
}

/// The host of `USER@HOST:PATH` as scp(1) and git write it, with its user and port, and the path; none for addresses of other forms. What has a
/// colon of its own stands in brackets: `USER@[::1]:PATH`, `[USER@HOST:PORT]:PATH`.
pub fn scp_parts(address: &str) -> Option<(&str, &str)> {
    if address.contains("://") {
        return None;
    }
    let user = address
        .split_once('[')
        .filter(|(user, _)| user.is_empty() || user.ends_with('@') && !user.contains([':', '/']));
    let end = match user {
        Some(_) => address.find("]:")? + 1,
        None => address.find(':')?,
    };
    let (host, path) = address.split_at_checked(end)?;
    Some((host, path.strip_prefix(':')?))
}

/// The last part of an address, which is what people call a repository.
pub fn last_part(address: &str) -> &str {
    let last = address.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
    last.strip_suffix(".git").unwrap_or(last)
}

/// An address with the user and password of another one, if both are on the same host.
pub fn with_secrets_of(address: &str, other: &str) -> String {
    let parts = |address: &str| {
        let (scheme, rest) = address.split_once("://")?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, host) = host.rsplit_once('@').map_or((None, host), |(user, host)| (Some(user), host));
        Some((scheme.to_owned(), user.map(str::to_owned), host.to_owned(), path.to_owned()))
    };
    match (parts(address), parts(other)) {
        (Some((scheme, _, host, path)), Some((same, Some(user), there, _))) if scheme == same && host == there => {
            format!("{scheme}://{user}@{host}{path}")
        }
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_passwords() {
        for (text, clean) in [
            ("https://me:hunter2@host/x", "https://host/x"),
            ("https://ghp_token@host/x?a@b", "https://host/x?a@b"),
            ("https://me:pa'ss\"<w>`#?@host/x", "https://host/x"),
            ("fatal: 'http://a:b@h:80/x' and http://c:d@i/", "fatal: 'http://h:80/x' and http://i/"),
            ("ssh://git@host/x", "ssh://git@host/x"),
            ("ssh://git:pw@host/x", "ssh://git@host/x"),
            ("git@host:x/y.git", "git@host:x/y.git"),
            ("https://host/a@b", "https://host/a@b"),
            ("https://me:pa/ss@host/x", "https://host/x"),
            ("https://me:/p/s@s@host:80/x", "https://host:80/x"),
            ("https://me:1/2@3@host/x", "https://me:1/2@3@host/x"),
            ("https://me:1@2:x/3@host/a@b", "https://host/a@b"),
            ("ssh://git:p/w@host/x", "ssh://git@host/x"),
            ("see 'https://me:p/w@host:80': no", "see 'https://host:80': no"),
            ("https://a:b,https://c:d/e@f", "https://a:b,https://f"),
            ("https://host:8080/a@b and https://[::1]:80/a@b", "https://host:8080/a@b and https://[::1]:80/a@b"),
            ("ssh://git@host:group/x", "ssh://git@host:group/x"),
            ("://", "://"),
        ] {
            assert_eq!(without_secrets(text), clean);
        }
    }

    #[test]
    fn parts_of_addresses() {
        for (address, parts) in [
            ("git@host:group/x.git", Some(("git@host", "group/x.git"))),
            ("host:a b", Some(("host", "a b"))),
            ("u@[::1]:p:q", Some(("u@[::1]", "p:q"))),
            ("[::1]:p", Some(("[::1]", "p"))),
            ("[u@host:22]:p", Some(("[u@host:22]", "p"))),
            ("host:a/[b]:c", Some(("host", "a/[b]:c"))),
            ("u@[::1]", None),
            ("[::1:p", None),
            ("ssh://host/x", None),
            ("/srv/x", None),
        ] {
            assert_eq!(scp_parts(address), parts, "{address}");
        }
        for (address, folder) in [
            ("file:///a%20b/%C3%A9/100%", Some("/a b/\u{e9}/100%")),
            ("file:///a b", Some("/a b")),
            ("https://h/a%20b", None),
        ] {
            assert_eq!(folder_of(address), folder.map(PathBuf::from), "{address}");
        }
    }

    #[test]
    fn an_address_with_two_possible_hosts_is_ambiguous() {
        for address in ["https://a?@b/x", "https://a#@b", "https://a\\@b", "https://me:pa/ss@host", "https://a:+80/x@b"]
        {
            assert!(is_ambiguous(address), "{address}");
        }
        for address in [
            "https://a:80/x@b",
            "https://me:pw@a:80/x@b?c",
            "https://[::1]/x@b",
            "a:b/c@d",
            "../a@b",
            "file:///a@b/c@d",
        ] {
            assert!(!is_ambiguous(address), "{address}");
        }
    }

    #[test]
    fn secrets_stay_on_their_host() {
        let parent = "https://me:hunter2@host/a/b";
        assert_eq!(with_secrets_of("https://host/c", parent), "https://me:hunter2@host/c");
        for other in ["https://elsewhere/c", "http://host/c", "https://host.elsewhere/c", "git@host:c"] {
            assert_eq!(with_secrets_of(other, parent), other);
        }
        assert_eq!(with_secrets_of("https://host/c", "https://host/a"), "https://host/c");
    }
}
