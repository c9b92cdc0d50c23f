//! What a git server says itself is in the error: over ssh, in the protocol, and over http.

use std::{fs, os::unix::fs::PermissionsExt as _};

use smidr::plan::PlannedGit;

use super::{
    fetch_fixture::{Manners, Server, Yard, wanted},
    support::HintText as _,
};

fn main_of(url: &str) -> PlannedGit {
    PlannedGit { branch: Some("main".into()), ..wanted(url) }
}

#[test]
fn over_ssh() {
    let Some(mut yard) = Yard::new("layers_words::over_ssh") else { return };
    let program = yard.path().join("fake-ssh");
    let url = "ssh://git@git.example.org:2222/group/meta-x";
    let rows: [(&str, &[&str], &str); 6] = [
        (
            "printf 'remote: \\nremote: =====\\nremote: ERROR: Your account is blocked.\\nremote: Ask it@example.org.\\n' >&2; exit 1",
            &["ERROR: Your account is blocked.", "Ask it@example.org."],
            "git clone",
        ),
        (
            "echo 'FATAL: R any meta-x u DENIED by fallthru' >&2; echo '(or you mis-spelled it)' >&2; exit 1",
            &["DENIED by fallthru", "mis-spelled"],
            "git clone",
        ),
        (
            "echo 'Welcome to git.example.org' >&2; echo 'git@git.example.org: Permission denied (publickey).' >&2; exit 255",
            &["denies access", "Welcome to git.example.org", "Permission denied (publickey)"],
            "-p 2222 git@git.example.org",
        ),
        (
            "echo 'Maintenance until 14:00' >&2; echo 'Connection closed by 192.0.2.1 port 22' >&2; exit 255",
            &["cannot reach", "Maintenance until 14:00"],
            "",
        ),
        ("printf '002aERR access denied: licence has expired'", &["licence has expired"], "git clone"),
        (
            "echo 'ERROR: Repository not found.' >&2; exit 1",
            &["no git repository", "ERROR: Repository not found."],
            "check the address",
        ),
    ];
    for (script, words, hint) in rows {
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
        yard.set("GIT_SSH_COMMAND", &program.display().to_string());
        for wanted in
            [main_of(url), PlannedGit { commit: Some("12".repeat(20).parse().expect("an id")), ..wanted(url) }]
        {
            let error = yard.pin(&wanted).expect_err("refused");
            let (text, given) = (error.to_string(), error.hint().unwrap_or_default());
            for word in words {
                assert!(text.contains(word), "{script}: {text}");
            }
            assert!(given.contains(hint), "{script}: {given}");
            assert!(!text.contains("====") && !text.contains("remote:"), "{text}");
        }
    }
}

#[test]
fn over_http() {
    let Some(yard) = Yard::new("layers_words::over_http") else { return };
    yard.repository("meta-x");
    let server = Server::start(&yard);
    let url = server.url("meta-x");
    let page = "<!DOCTYPE html><html><head>\n<title>Sign in \u{b7}  Example</title></head><body>x</body></html>";
    let rows: [(Manners, &[&str]); 6] = [
        (
            Manners {
                status: Some(403),
                page: Some(("text/plain; charset=utf-8", "Your IP is not allowed.\nSee https://example.org/ip\n")),
                ..Manners::default()
            },
            &["denies access", "403", "Your IP is not allowed.", "https://example.org/ip"],
        ),
        (
            Manners {
                status: Some(404),
                page: Some(("text/plain", "Repository has moved to another server")),
                ..Manners::default()
            },
            &["no git repository", "moved to another server"],
        ),
        (
            Manners { status: Some(503), page: Some(("text/html", page)), ..Manners::default() },
            &["503", "Sign in \u{b7} Example"],
        ),
        (
            Manners { status: Some(200), page: Some(("text/html", page)), ..Manners::default() },
            &["a web page", "Sign in"],
        ),
        (
            Manners {
                status: Some(429),
                page: Some(("text/plain", "Rate limit: \u{1b}[2J https://me:hunter2@example.org")),
                ..Manners::default()
            },
            &["429", "Rate limit", "\\u{1b}"],
        ),
        (
            Manners {
                status: Some(401),
                page: Some(("text/plain", "HTTP Basic: Access denied. Use a token.")),
                ..Manners::default()
            },
            &["denies access", "Use a token."],
        ),
    ];
    for (manners, words) in rows {
        server.behave(manners);
        let error = yard.pin(&main_of(&url)).expect_err("refused");
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert!(!text.contains("hunter2") && !text.contains('\u{1b}'), "{text}");
        assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "{text}");
    }
    // A redirect to a page to sign in, elsewhere.
    let other = Server::start(&yard);
    other.behave(Manners { status: Some(200), page: Some(("text/html", page)), ..Manners::default() });
    server.behave(Manners { redirect: Some(format!("{}/sign_in?to=", other.base())), ..Manners::default() });
    let error = yard.pin(&main_of(&url)).expect_err("a page");
    let text = error.to_string();
    assert!(text.contains(&format!("{}/sign_in", other.base())), "{text}");
}

/// What is found is named, not a part of the protocol.
#[test]
fn a_repository_of_sha256() {
    let Some(yard) = Yard::new("layers_words::a_repository_of_sha256") else { return };
    let origin = yard.repository("other");
    fs::remove_dir_all(origin.path.join(".git")).expect("removed");
    origin.git(&["init", "-q", "-b", "main", "--object-format=sha256"]);
    origin.git(&["add", "-A"]);
    origin.git(&["commit", "-qm", "x"]);
    let server = Server::start(&yard);
    for old in [false, true] {
        server.behave(Manners { old, ..Manners::default() });
        for url in [origin.url(), server.url("other")] {
            let error = yard.pin(&main_of(&url)).expect_err("of another kind");
            assert!(error.to_string().contains("a repository of SHA-256"), "{url}: {error}");
            assert!(error.hint().expect("a hint").contains("SHA-1"), "{error}");
        }
    }
}
