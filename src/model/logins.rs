//! Which servers may be shown the user's logins and ssh keys for a project.

use serde::{Deserialize, Serialize};

use super::{is_ambiguous, without_secrets};

/// Addresses that are reached with the user's logins: git's credential helpers and `insteadOf`, registries' passwords, ssh keys. Others are
/// reached anonymously.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Logins {
    /// All that the project names.
    All,
    /// Those that are one of these, or lie below it.
    Below(Vec<String>),
}

impl Default for Logins {
    fn default() -> Self {
        Self::Below(Vec::new())
    }
}

impl Logins {
    /// Whether an address, as users write it, may be reached with logins.
    pub fn reach(&self, address: &str) -> bool {
        let Self::Below(granted) = self else { return true };
        if is_ambiguous(address) {
            return false;
        }
        let address = without_secrets(address);
        // What a server could read as a way up is below nothing.
        let is_plain = !address.contains("..") && !address.contains(['%', '\\']);
        let address = lower_host(&address);
        let is_below = |granted: &String| {
            let granted = lower_host(granted);
            let rest = address.strip_prefix(granted.trim_end_matches('/'));
            let is_below = |rest: &str| is_plain && (rest.starts_with('/') || granted.ends_with(':'));
            rest.is_some_and(|rest| rest.is_empty() || rest == ".git" || is_below(rest))
        };
        granted.iter().any(is_below)
    }
}

/// Servers' names know no case.
fn lower_host(address: &str) -> String {
    let start = address.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = address.split_at_checked(start).unwrap_or((address, ""));
    let (host, path) = rest.split_at_checked(rest.find(['/', ':']).unwrap_or(rest.len())).unwrap_or((rest, ""));
    format!("{scheme}{}{path}", host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_reaches_what_lies_below_it() {
        let granted = ["https://h/acme/", "ssh://git@h/a", "git@h:", "r.example/team"];
        let logins = Logins::Below(granted.map(String::from).into());
        for (address, reached) in [
            ("https://h/acme", true),
            ("https://H/acme.git", true),
            ("https://H/Acme", false),
            ("https://h/acme/meta-x.git", true),
            ("https://me:pw@h/acme/x", true),
            ("https://h/acme-evil/x", false),
            ("https://h/acme/../other", false),
            ("https://h/acme/%2e%2e/other", false),
            ("https://h/acme/..\\other", false),
            ("http://h/acme/x", false),
            ("https://h.evil/acme", false),
            ("https://evil?@h/acme", false),
            ("https://evil#@h/acme/x", false),
            ("https://evil\\@h/acme", false),
            ("ssh://git@h/a/b", true),
            ("ssh://git@h/ab", false),
            ("git@h:any/x", true),
            ("git@h.evil:x", false),
            ("r.example/team/image", true),
            ("r.example/other", false),
        ] {
            assert_eq!(logins.reach(address), reached, "{address}");
        }
        assert!(!Logins::default().reach("https://h/x"));
        assert!(Logins::All.reach("https://h/x"));
    }
}
