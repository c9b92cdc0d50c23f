//! Where submodules come from, and which addresses are refused.
//!
//! Turns `.gitmodules` and the address of its repository into addresses that are safe to fetch from. Pure.

use gix::bstr::{BString, ByteSlice as _};

use super::error::RefusedUrl;
use crate::model::{is_ambiguous, scp_parts};

/// The largest .gitmodules, in bytes.
pub(super) const MAX_GITMODULES: usize = 1 << 20;

/// A submodule, as `.gitmodules` names it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Declared {
    /// Its name, which is often its path.
    pub name: String,
    /// Its folder.
    pub path: BString,
    /// Its address, as written there.
    pub url: String,
    /// Whether it is not to be checked out: `update = none` (gitmodules(5)).
    pub unwanted: bool,
}

/// Reads `.gitmodules`. Incomplete entries are left out.
///
/// # Errors
///
/// When it is no git configuration.
pub(super) fn declared(text: &[u8]) -> Result<Vec<Declared>, RefusedUrl> {
    let read = gix::config::File::from_bytes_no_includes(text, gix::config::file::Metadata::api(), Default::default());
    let file = read.map_err(|_| RefusedUrl::Unreadable)?;
    let mut found = Vec::new();
    for section in file.sections_by_name("submodule").into_iter().flatten() {
        let name = section.header().subsection_name().and_then(|name| name.to_str().ok().map(str::to_owned));
        let url = section.value("url").and_then(|url| url.to_str().ok().map(str::to_owned));
        let unwanted = section.value("update").is_some_and(|update| update == "none");
        if let (Some(name), Some(path), Some(url)) = (name, section.value("path"), url) {
            found.push(Declared { name, path, url, unwanted });
        }
    }
    Ok(found)
}

/// The address of a submodule of the repository at `parent`.
///
/// # Errors
///
/// When it must not be fetched from.
pub(super) fn resolve(parent: &str, declared: &Declared) -> Result<String, RefusedUrl> {
    let (name, url) = (&declared.name, declared.url.as_str());
    // As git refuses since CVE-2018-11235.
    if name.is_empty() || name.split(['/', '\\']).any(|part| part == "..") {
        return Err(RefusedUrl::Name(name.clone()));
    }
    let url = if is_relative(url) { relative(parent, url)? } else { url.to_owned() };
    check(parent, &url)?;
    Ok(url)
}

/// The same submodule beside each mirror of the repository that it belongs to, if its address is relative.
pub(super) fn beside(mirrors: &[String], declared: &Declared) -> Vec<String> {
    let mirrors = mirrors.iter().filter(|_| is_relative(&declared.url));
    mirrors.filter_map(|mirror| resolve(mirror, declared).ok()).collect()
}

/// Whether an address is relative to that of the repository which names it.
pub(super) fn is_relative(url: &str) -> bool {
    url.starts_with("./") || url.starts_with("../")
}

fn check(parent: &str, url: &str) -> Result<(), RefusedUrl> {
    let no_address = || RefusedUrl::NoAddress(url.into());
    // HTTP clients take a backslash for a slash; a comparison of hosts does not.
    if is_ambiguous(url) || url.is_empty() || url.starts_with('-') || url.chars().any(|c| c.is_control() || c == '\\') {
        return Err(no_address());
    }
    if url.starts_with('/') || url.starts_with("file://") {
        let at_home = parent.starts_with('/') || parent.starts_with("file://");
        return if at_home { Ok(()) } else { Err(RefusedUrl::Local(url.into())) };
    }
    if let Some((scheme, rest)) = url.split_once("://") {
        if !["https", "http", "ssh", "git", "git+ssh", "ssh+git"].contains(&scheme) {
            return Err(RefusedUrl::Scheme(url.into()));
        }
        // The host becomes an argument of ssh (CVE-2017-1000117).
        let authority = rest.split('/').next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        let is_option = authority.starts_with('-') || host.starts_with('-');
        return if host.is_empty() || is_option { Err(no_address()) } else { Ok(()) };
    }
    match scp_parts(url) {
        // `ext::` and its like name programs (gitremote-helpers(7)).
        Some((host, path)) if path.starts_with(':') || path.contains("::") && !host.contains('[') => {
            Err(RefusedUrl::Scheme(url.into()))
        }
        Some((host, path)) if !host.contains('/') && !host.is_empty() && !path.is_empty() => {
            let is_option = host.split(['@', '[']).any(|part| part.starts_with('-'));
            if is_option { Err(no_address()) } else { Ok(()) }
        }
        _ => Err(no_address()),
    }
}

// As git-submodule(1) does it: each `../` removes one component, up to the host.
fn relative(parent: &str, url: &str) -> Result<String, RefusedUrl> {
    let above = || RefusedUrl::Above(url.into());
    let (fixed, path) = split(parent);
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let mut rest = url;
    loop {
        if let Some(shorter) = rest.strip_prefix("./") {
            rest = shorter;
        } else if let Some(shorter) = rest.strip_prefix("../") {
            parts.pop().ok_or_else(above)?;
            rest = shorter;
        } else if rest == ".." {
            parts.pop().ok_or_else(above)?;
            rest = "";
        } else {
            break;
        }
    }
    parts.extend(rest.split('/').filter(|part| !part.is_empty() && *part != "."));
    if parts.contains(&"..") || parts.is_empty() {
        return Err(above());
    }
    Ok(format!("{fixed}{}", parts.join("/")))
}

// The fixed part, and the path after it: `https://host/`, `file:///`, `/`, `user@host:`.
fn split(url: &str) -> (&str, &str) {
    let at = match url.split_once("://") {
        Some((scheme, rest)) => rest.find('/').map_or(url.len(), |slash| scheme.len() + 3 + slash + 1),
        None if url.starts_with('/') => 1,
        None => scp_parts(url).map_or(0, |(host, path)| host.len() + 1 + usize::from(path.starts_with('/'))),
    };
    url.split_at(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Declared {
        Declared { name: "sub".into(), path: "sub".into(), url: url.into(), unwanted: false }
    }

    #[test]
    fn addresses_are_resolved_as_git_does() {
        let https = "https://git.example.org/group/meta-x.git";
        for (parent, url, expected) in [
            (https, "../lib.git", "https://git.example.org/group/lib.git"),
            (https, "../../other/lib", "https://git.example.org/other/lib"),
            (https, "./inner", "https://git.example.org/group/meta-x.git/inner"),
            ("https://git.example.org/group/meta-x/", "../lib", "https://git.example.org/group/lib"),
            (https, "https://elsewhere.example.org/a", "https://elsewhere.example.org/a"),
            (https, "ssh://git@host:2222/a", "ssh://git@host:2222/a"),
            (https, "git@host:group/a.git", "git@host:group/a.git"),
            (https, "git@[::1]:a.git", "git@[::1]:a.git"),
            ("git@[::1]:g/a.git", "../b.git", "git@[::1]:g/b.git"),
            ("git@host:group/a.git", "../b.git", "git@host:group/b.git"),
            ("git@host:a.git", "../b.git", "git@host:b.git"),
            ("git@host:/srv/a.git", "../b.git", "git@host:/srv/b.git"),
            ("file:///srv/git/a", "../b", "file:///srv/git/b"),
            ("/srv/git/a", "../b", "/srv/git/b"),
            ("/srv/git/a", "file:///elsewhere", "file:///elsewhere"),
        ] {
            assert_eq!(resolve(parent, &of(url)), Ok(expected.to_owned()), "{url} from {parent}");
        }
    }

    #[test]
    fn mirrors_have_what_is_relative() {
        let mirrors = ["ssh://git@mirror.example.org/all/meta-x.git".to_owned(), "/srv/meta-x".into(), "/".into()];
        assert_eq!(beside(&mirrors, &of("../lib.git")), ["ssh://git@mirror.example.org/all/lib.git", "/srv/lib.git"]);
        assert!(beside(&mirrors, &of("https://git.example.org/lib.git")).is_empty());
    }

    #[test]
    fn hostile_addresses_are_refused() {
        let parent = "https://git.example.org/group/meta-x.git";
        for url in [
            "",
            "-x",
            "--upload-pack=touch /tmp/x",
            "ext::sh -c id",
            "fd::3",
            "file:///etc",
            "/etc",
            "a/b",
            "FILE:///etc",
            "ftp://host/a",
            "ssh://-oProxyCommand=id/a",
            "ssh://git@-oProxyCommand=id/a",
            "-oProxyCommand=id:a",
            "git@-oProxyCommand=id:a",
            "git@[-oProxyCommand=id]:a",
            "https:///a",
            "../../../../a",
            "../../..",
            "./a/../../../b",
            "https://host/a\nb",
            "https://host/\0",
            "https://evil\\@host/x",
            "https://evil?@host/x",
            "https://evil#@host/x",
        ] {
            assert!(resolve(parent, &of(url)).is_err(), "`{url}` was taken");
        }
        let trap = Declared { name: "../../modules/x".into(), ..of("https://host/a") };
        assert_eq!(resolve(parent, &trap), Err(RefusedUrl::Name("../../modules/x".into())));
    }

    #[test]
    fn gitmodules_is_a_git_configuration() {
        let text = b"[submodule \"a b\"]\n\tpath = lib/a\n\turl = ../a ; comment\n\tupdate = rebase\n[core]\n\tpath = x\n[submodule \"c\"]\n\tpath = c\n[submodule \"d\"]\n\tpath = d\n\turl = x\n\tupdate = none\n";
        let expected = Declared { name: "a b".into(), path: "lib/a".into(), ..of("../a") };
        let unwanted = Declared { name: "d".into(), path: "d".into(), unwanted: true, ..of("x") };
        assert_eq!(declared(text), Ok(vec![expected, unwanted]));
        assert_eq!(declared(b"[submodule"), Err(RefusedUrl::Unreadable));
        assert_eq!(declared(b""), Ok(vec![]));
    }
}
