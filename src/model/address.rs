//! Addresses as they may be shown and written down.

/// A text whose addresses have no passwords, and no users where those could be secrets.
pub fn without_secrets(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        let end = after.find(|c: char| c.is_whitespace() || "/\"'<>`?#".contains(c)).unwrap_or(after.len());
        clean.push_str(before);
        rest = match after[..end].rfind('@') {
            // Over ssh a name alone is needed to recognise the address, and is no secret.
            Some(who) if before.ends_with("ssh://") => {
                clean.push_str(after[..who].split(':').next().unwrap_or_default());
                &after[who..]
            }
            Some(who) => &after[who + 1..],
            None => after,
        };
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_passwords() {
        for (text, clean) in [
            ("https://me:hunter2@host/x", "https://host/x"),
            ("https://ghp_token@host/x?a@b", "https://host/x?a@b"),
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
}
