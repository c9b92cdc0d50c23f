//! Which credentials are sent, and to which hosts.

use super::*;
use crate::{
    image::registry::{
        Registry as _, Wanted,
        testing::{Demand, Fault},
    },
    model::{Kind, UserError as _},
};

fn token(user: &'static str, password: &'static str) -> Demand {
    Demand::Token { user, password, uses: 99, life: 300, realm: None }
}

fn get(registry: &HttpRegistry) -> Result<(), RegistryError> {
    registry.document(Wanted::Tag("12"), 100).map(drop)
}

fn start(tls: bool, demand: Demand) -> FaultyRegistry {
    let server = if tls { FaultyRegistry::start_tls() } else { FaultyRegistry::start() };
    server.add_manifest("12", MANIFEST, b"{}");
    server.demand(demand);
    server
}

#[test]
fn a_token_is_fetched_once_and_kept() {
    let server = start(false, token("", ""));
    let registry = server.open("a/b");
    for _ in 0..3 {
        get(&registry).expect("a document");
    }
    let asked = server.seen("/token");
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].path, "/token?service=faulty&scope=repository%3Aa%2Fb%3Apull", "our scope, not the registry's");
    assert_eq!(asked[0].header("authorization"), None);
    assert_eq!(server.seen("manifests").len(), 4);
}

#[test]
fn a_token_that_is_not_taken_any_more_is_renewed() {
    let server = start(false, Demand::Token { user: "", password: "", uses: 1, life: 300, realm: None });
    let registry = server.open("a/b");
    for _ in 0..3 {
        get(&registry).expect("a document");
    }
    assert_eq!(server.seen("/token").len(), 3);
}

#[test]
fn a_token_is_not_used_after_its_life() {
    let server = start(false, Demand::Token { user: "", password: "", uses: 99, life: 0, realm: None });
    let registry = server.open("a/b");
    get(&registry).expect("a document");
    get(&registry).expect("a document");
    let shown: Vec<_> = server.seen("manifests").iter().map(|seen| seen.header("authorization").is_some()).collect();
    assert_eq!(shown, [false, true, false, true]);
}

#[test]
fn threads_share_a_token() {
    let server = start(false, token("", ""));
    let registry = server.open("a/b");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| get(&registry).expect("a document"));
        }
    });
    assert_eq!(server.seen("/token").len(), 1);
}

#[test]
fn no_answer_is_good_enough_for_some() {
    let server = start(true, Demand::Token { user: "", password: "", uses: 0, life: 300, realm: None });
    let error = get(&server.open("a/b")).expect_err("it never lets us in");
    let expected = format!(
        "{0} does not allow smidr to use {0}/a/b with no credentials: UNAUTHORIZED: who are you",
        server.host()
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!((error.kind(), server.seen("manifests").len(), server.seen("/token").len()), (Kind::Request, 2, 1));
    assert!(error.hint().is_some_and(|hint| hint.contains("log in")));
}

#[test]
fn passwords_go_over_tls() {
    for demand in [Demand::Basic("me", "pass:word"), token("me", "pass:word")] {
        let server = start(true, demand);
        let registry = server.open("a/b");
        assert!(get(&registry).is_err() && !registry.used_login(), "there is none yet");
        log_in(&server, &server.host(), "me", "pass:word");
        let registry = server.open("a/b");
        get(&registry).expect("a document");
        assert!(registry.used_login());
    }
}

#[test]
fn a_login_that_nobody_asks_for_is_not_used() {
    let server = start(true, Demand::Nothing);
    log_in(&server, &server.host(), "me", "pass:word");
    let registry = server.open("a/b");
    get(&registry).expect("a document");
    assert!(!registry.used_login());
}

#[test]
fn logins_that_are_not_granted_are_not_shown() {
    for demand in [token("me", "hunter2"), Demand::Basic("me", "hunter2")] {
        let server = start(true, demand);
        log_in(&server, &server.host(), "me", "hunter2");
        let granted = server.settings();
        get(&server.open_with("a/b", &granted).expect("good settings")).expect("with the login");
        let before = server.seen("").len();
        let settings = super::super::Settings { logins: false, ..granted };
        let error = get(&server.open_with("a/b", &settings).expect("good settings")).expect_err("not without");
        assert!(matches!(&error, RegistryError::NeedsLogin(name) if name.ends_with("/a/b")), "{error:?}");
        assert_eq!(error.kind(), Kind::Request);
        assert!(error.hint().expect("a hint").contains("smidr trust --login"));
        assert!(server.seen("")[before..].iter().all(|seen| seen.header("authorization").is_none()));
    }
    let public = start(true, token("", ""));
    get(&public
        .open_with("a/b", &super::super::Settings { logins: false, ..public.settings() })
        .expect("good settings"))
    .expect("public");
}

#[test]
fn a_wrong_password_is_not_shown_and_not_tried_again() {
    for (demand, times) in [(Demand::Basic("me", "x"), 2), (token("me", "x"), 1)] {
        let server = start(true, demand);
        log_in(&server, &server.host(), "me", "hidden");
        let error = get(&server.open("a/b")).expect_err("a wrong password");
        let text = format!("{error} {error:?}");
        assert!(
            text.contains("a password from") && text.contains(".docker/config.json") && !text.contains("hidden"),
            "{text}"
        );
        assert_eq!(server.seen("manifests").len(), times);
    }
}

#[test]
fn over_plain_http_we_are_nobody() {
    for demand in [Demand::Basic("me", "hidden"), token("me", "hidden")] {
        let server = start(false, demand);
        log_in(&server, &server.host(), "me", "hidden");
        let error = get(&server.open("a/b")).expect_err("nobody gets nothing");
        assert!(error.to_string().contains("over which smidr sends none"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("https")));
        let sent = server.seen("/").iter().filter_map(|seen| seen.header("authorization").map(String::from)).count();
        assert_eq!(sent, 0);
    }
}

#[test]
fn a_token_bought_with_a_password_does_not_go_over_plain_http() {
    let tokens = start(true, token("me", "hidden"));
    let realm = Some(format!("{}/token", tokens.url()));
    let server = start(false, Demand::Token { user: "", password: "", uses: 0, life: 1, realm });
    log_in(&server, &server.host(), "me", "hidden");
    let mut settings = server.settings();
    settings.ca_bundle = Some(tokens.certificate());
    let error = get(&server.open_with("a/b", &settings).expect("settings")).expect_err("no");
    assert!(matches!(error, RegistryError::PlainCredentials(_)), "{error}");
    assert_eq!(tokens.seen("/token")[0].header("authorization"), None);
}

#[test]
fn realms_are_reached_over_https() {
    let server = FaultyRegistry::start_tls();
    log_in(&server, &server.host(), "me", "hidden");
    let other = FaultyRegistry::start();
    for realm in [format!("{}/token", other.url()), "ftp://x/".into(), "no URL".into(), String::new()] {
        server.demand(Demand::Token { user: "", password: "", uses: 9, life: 9, realm: Some(realm.clone()) });
        let error = get(&server.open("a/b")).expect_err(&realm);
        assert!(matches!(error, RegistryError::Realm { .. }), "{realm}: {error}");
    }
    assert!(other.seen("/").is_empty());
    // Another host over plain http is no better when the registry itself is reached that way.
    let plain = FaultyRegistry::start();
    let realm = Some("http://token.invalid/".to_owned());
    plain.demand(Demand::Token { user: "", password: "", uses: 9, life: 9, realm });
    assert!(matches!(get(&plain.open("a/b")), Err(RegistryError::Realm { .. })));
}

#[test]
fn an_identity_token_is_exchanged() {
    let server = start(true, token("me", "refresh-me"));
    let text = format!(r#"{{"auths":{{"{}":{{"identitytoken":"refresh-me"}}}}}}"#, server.host());
    write(&server.home.path().join(".config/containers/auth.json"), &text);
    get(&server.open("a/b")).expect("a document");
    let asked = &server.seen("POST /token")[0];
    let form = String::from_utf8_lossy(&asked.body);
    assert!(form.starts_with("grant_type=refresh_token&service=faulty&client_id=smidr&scope="), "{form}");
}

#[test]
fn either_field_may_hold_the_token() {
    for fields in [
        r#""token":"good","access_token":"""#,
        r#""token":"","access_token":"good""#,
        r#""token":null,"access_token":"good","expires_in":null"#,
        r#""access_token":"good""#,
    ] {
        let server = start(false, token("", ""));
        server.fault("/token", 1, Fault::Content(format!("{{{fields}}}").into()));
        // The server itself knows nothing of this token: it only matters that it is sent.
        let _ = get(&server.open("a/b"));
        assert!(
            server.seen("manifests").iter().any(|ask| ask.header("authorization") == Some("Bearer good")),
            "{fields}"
        );
    }
}

#[test]
fn tokens_can_be_nonsense() {
    let rows = [("{}", "there is none"), ("[", "not as expected"), ("{\"token\":\"a\\nb\"}", "not fit for a header")];
    for (answer, why) in rows {
        let server = start(false, token("", ""));
        server.fault("/token", 9, Fault::Content(answer.into()));
        let error = get(&server.open("a/b")).expect_err(why);
        assert!(error.to_string().contains(why), "{error}");
    }
    let server = start(false, token("", ""));
    server.fault("/token", 9, Fault::Endless);
    assert!(matches!(get(&server.open("a/b")), Err(RegistryError::Token { .. })));
    let server = start(false, token("", ""));
    server.fault("/token", 2, Fault::Status(503, vec![], ""));
    get(&server.open("a/b")).expect("the third time");
}

#[test]
fn unknown_ways_to_authenticate_are_named() {
    let server = start(true, Demand::Nothing);
    for challenge in ["Negotiate", ""] {
        server.fault("manifests", 1, Fault::Status(401, vec![("www-authenticate", challenge.into())], ""));
        assert!(matches!(get(&server.open("a/b")), Err(RegistryError::Challenge(_))), "{challenge}");
    }
}
