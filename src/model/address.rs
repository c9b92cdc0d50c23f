//! Addresses as they may be shown and written down.

/// A text whose addresses have no passwords, and no users where those could be secrets.
pub fn without_secrets(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        // A password may hold quotes, and whoever forgets to encode a `#` in his has not made it public.
        let place = after.split(|c: char| c.is_whitespace() || c == '/').next().unwrap_or_default();
        clean.push_str(before);
        rest = match place.rfind('@').map(|at| after.split_at(at)) {
            // Over ssh a name alone is needed to recognise the address, and is no secret.
            Some((who, host)) if before.ends_with("ssh://") => {
                clean.push_str(who.split(':').next().unwrap_or_default());
                host
            }
            Some((_, host)) => host.trim_start_matches('@'),
            None => after,
        };
    }
    clean.push_str(rest);
    clean
}

/// Whether an address has a `?` or `#` where its host stands: clients end the host there, and readers look for it behind the `@` that may follow.
pub fn is_ambiguous(address: &str) -> bool {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default().contains(['?', '#', '\\'])
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
            ("://", "://"),
        ] {
            assert_eq!(without_secrets(text), clean);
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
