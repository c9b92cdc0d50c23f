//! Where credentials are found, and which of them wins.

use std::cell::RefCell;

use super::*;

fn password(user: &str, word: &str) -> Login {
    Login::Password { user: user.into(), password: Secret::new(word) }
}

fn auth(text: &str) -> String {
    format!(r#"{{"auth":"{}"}}"#, BASE64_STANDARD.encode(text))
}

/// Searches texts, in their order. Helpers answer with their name and the server; `none` knows nothing, `bad` fails.
fn find_in(texts: &[&str], host: &str, repository: &str) -> (Result<Option<Credential>, RegistryError>, Vec<String>) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut files: Vec<_> = (0..texts.len()).map(|at| folder.path().join(format!("{at}.json"))).collect();
    for (path, text) in files.iter().zip(texts) {
        fs::write(path, text).expect("a file");
    }
    files.insert(0, folder.path().join("missing.json"));
    let ask = |name: &str, server: &str| match name {
        "none" => Ok(None),
        "bad" => Err(helper::HelperError::Answer),
        _ => Ok(Some(password(name, server))),
    };
    let warnings = RefCell::new(Vec::new());
    let warn = |warning| warnings.borrow_mut().push(warning);
    let found = search(&files, host, repository, &ask, &warn);
    (found, warnings.into_inner())
}

fn login_in(texts: &[&str], host: &str, repository: &str) -> Option<Login> {
    find_in(texts, host, repository).0.unwrap_or_else(|error| panic!("{error}")).map(|found| found.login)
}

#[test]
fn the_most_specific_entry_wins() {
    let text = format!(
        r#"{{"auths":{{"r.io":{},"r.io/team":{},"r.io/team/app":{},"https://index.docker.io/v1/":{},"r.io:5000":{}}}}}"#,
        auth("host:1"),
        auth("team:2"),
        auth("app:3:x"),
        auth("hub:4"),
        auth("port:5"),
    );
    let rows = [
        ("r.io", "other", Some(("host", "1"))),
        ("r.io", "team/x", Some(("team", "2"))),
        ("r.io", "team/app", Some(("app", "3:x"))),
        ("r.io", "teams/app", Some(("host", "1"))),
        ("r.io:5000", "team/app", Some(("port", "5"))),
        ("docker.io", "library/debian", Some(("hub", "4"))),
        ("x.r.io", "team/app", None),
        ("io", "team", None),
    ];
    for (host, repository, expected) in rows {
        let expected = expected.map(|(user, word)| password(user, word));
        assert_eq!(login_in(&[&text], host, repository), expected, "{host}/{repository}");
    }
}

#[test]
fn helpers_come_before_entries_and_files_in_their_order() {
    let entry = format!(r#""auths":{{"r.io":{}}}"#, auth("file:1"));
    let special = format!(r#"{{{entry},"credHelpers":{{"r.io":"special"}},"credsStore":"store"}}"#);
    let store = format!(r#"{{{entry},"credsStore":"store"}}"#);
    let silent = format!(r#"{{{entry},"credHelpers":{{"r.io":"none"}},"credsStore":"bad"}}"#);
    let plain = format!("{{{entry}}}");
    let rows = [
        (vec![special.as_str(), &plain], password("special", "r.io")),
        (vec![&store], password("store", "r.io")),
        (vec![&silent], password("file", "1")),
        (vec!["{}", "", r#"{"auths":{"r.io":{}}}"#, &store], password("store", "r.io")),
        (vec![&plain, &special], password("file", "1")),
    ];
    for (texts, expected) in rows {
        assert_eq!(login_in(&texts, "r.io", "a/b"), Some(expected), "{texts:?}");
    }
    let (_, warnings) = find_in(&[&silent], "r.io", "a/b");
    assert!(warnings.len() == 1 && warnings[0].contains("`bad`") && warnings[0].contains("0.json"), "{warnings:?}");
    let hub = r#"{"credHelpers":{"docker.io":"h"}}"#;
    assert_eq!(login_in(&[hub], "docker.io", "a/b"), Some(password("h", "https://index.docker.io/v1/")));
}

#[test]
fn an_entry_has_several_shapes() {
    let rows = [
        (r#"{"identitytoken":"t","auth":"eDp5"}"#, Some(Login::Identity(Secret::new("t")))),
        (r#"{"username":"u","password":"p"}"#, Some(password("u", "p"))),
        (r#"{"username":"u"}"#, None),
        (r#"{"auth":""}"#, None),
        (r#"{"email":"x@y"}"#, None),
    ];
    for (entry, expected) in rows {
        assert_eq!(login_in(&[&format!(r#"{{"auths":{{"r.io":{entry}}}}}"#)], "r.io", "a"), expected, "{entry}");
    }
    let padded = format!(r#"{{"auths":{{"r.io":{}}}}}"#, auth("u:p\0\0"));
    assert_eq!(login_in(&[&padded], "r.io", "a"), Some(password("u", "p")));
}

#[test]
fn a_malformed_file_is_named_and_not_quoted() {
    let rows = [
        r#"{"auths":{"r.io":{"auth":"hidden"}}}"#,
        r#"{"auths":{"r.io":{"auth":["hidden"]}}}"#,
        r#"{"auths":"hidden"}"#,
        "hidden",
    ];
    for text in rows {
        let error = find_in(&[text], "r.io", "a").0.expect_err(text);
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("0.json") && !shown.contains("hidden"), "{shown}");
    }
    let large = format!("{{}}{}", " ".repeat(1 << 20));
    assert!(find_in(&[&large], "r.io", "a").0.is_err());
}

#[test]
fn secrets_are_never_shown() {
    let credential = Credential { login: password("me", "hidden"), origin: "x".into() };
    assert!(!format!("{credential:?}").contains("hidden"));
}

#[test]
fn files_come_in_their_order() {
    let server = crate::image::registry::testing::FaultyRegistry::start();
    let mut settings = server.settings();
    settings.home = "/h".into();
    let shown = |settings: &Settings| files(settings).iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    assert_eq!(shown(&settings), ["/h/.config/containers/auth.json", "/h/.docker/config.json"]);
    let set =
        [("REGISTRY_AUTH_FILE", "/r"), ("XDG_RUNTIME_DIR", "/x"), ("XDG_CONFIG_HOME", "/c"), ("DOCKER_CONFIG", "/d")];
    settings.environment = set.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let expected = ["/r", "/x/containers/auth.json", "/c/containers/auth.json", "/d/config.json"];
    assert_eq!(shown(&settings), expected);
}
