//! Fetching over HTTP from servers that require logins, refuse, redirect, are slow or break off; and kills, stops and races.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use smidr::{
    layers::GitError,
    model::{Kind, Logins, UserError},
    plan::PlannedGit,
};

use super::{
    fetch_fixture::{Manners, Origin, Server, Yard, git, locked, wanted},
    support::{HintText as _, LONG, smidr_bin, wait_for},
};

/// A repository that is large enough to be interrupted: half a megabyte that cannot be compressed.
fn large(yard: &Yard) -> Origin {
    let origin = yard.repository("large");
    let mut seed = 1_u64;
    for number in 0..64 {
        let mut text = String::new();
        while text.len() < 8000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            text.push_str(&format!("{seed:x}"));
        }
        fs::write(origin.path.join(format!("file{number}")), text).expect("a file");
    }
    layer(&origin, "large");
    origin
}

fn main_of(url: &str) -> PlannedGit {
    PlannedGit { branch: Some("main".into()), ..wanted(url) }
}

#[test]
fn a_correct_server() {
    let Some(yard) = Yard::new("layers_http::a_correct_server") else { return };
    let origin = large(&yard);
    let server = Server::start(&yard);
    let (mirror, commit) = yard.pin(&main_of(&server.url("large"))).expect("fetched");
    assert_eq!(commit, origin.at("main"));
    git(mirror.path(), &["fsck", "--strict"]);
    let error =
        yard.pin(&PlannedGit { branch: Some("mian".into()), ..main_of(&server.url("large")) }).expect_err("no such");
    assert!(matches!(&error, GitError::Unknown { near, .. } if *near == ["main"]), "{error:?}");
    let old = origin.at("main~1");
    assert_eq!(yard.pin(&locked(main_of(&server.url("large")), &old)).expect("by its id").1, old);
    let error = yard.pin(&main_of(&server.url("nothing"))).expect_err("no repository");
    assert!(matches!(error, GitError::NoRepository { .. }), "{error:?}");
    assert!(!server.log().contains("uthorization"));
}

#[test]
fn a_server_that_refuses_ids() {
    let Some(yard) = Yard::new("layers_http::a_server_that_refuses_ids") else { return };
    let origin = large(&yard);
    let old = origin.at("main");
    origin.commit("newer", "x");
    let server = Server::start(&yard);
    server.behave(Manners { old: true, ..Manners::default() });
    let url = server.url("large");
    assert_eq!(yard.pin(&locked(main_of(&url), &old)).expect("on the branch").1, old);
    origin.git(&["checkout", "-q", "-b", "other", "main~1"]);
    let aside = origin.commit("aside", "x");
    origin.commit("after", "x");
    let by_id = PlannedGit { commit: Some(aside.clone()), ..wanted(&url) };
    assert_eq!(yard.pin(&by_id).expect("among everything").1, aside);
}

#[test]
fn passwords() {
    let Some(mut yard) = Yard::new("layers_http::passwords") else { return };
    let origin = large(&yard);
    let server = Server::start(&yard);
    let login = Some(("me".to_owned(), "hunter2".to_owned()));
    server.behave(Manners { login: login.clone(), ..Manners::default() });
    let url = server.url("large");
    let error = yard.pin(&main_of(&url)).expect_err("not without");
    assert!(matches!(&error, GitError::Denied { tried, .. } if tried.contains("without credentials")), "{error:?}");
    assert_eq!(error.kind(), Kind::Outside);
    let within = url.replace("http://", "http://me:hunter2@");
    let (mirror, commit) = yard.pin(&main_of(&within)).expect("with the password in the address");
    assert_eq!(commit, origin.at("main"));
    origin.git(&["branch", "odd"]);
    // By the host's git, and in no argument of a program; with special characters of addresses and shells.
    let odd = Some(("m@e".to_owned(), "p'a/s\"s %$1".to_owned()));
    server.behave(Manners { login: odd, ..Manners::default() });
    let shim = yard.path().join("shim");
    fs::create_dir_all(&shim).expect("a folder");
    let arguments = yard.path().join("arguments");
    let real = super::support::tool("git").expect("git");
    fs::write(
        shim.join("git"),
        format!("#!/bin/sh\necho \"$@\" >> {}\nexec {} \"$@\"\n", arguments.display(), real.display()),
    )
    .expect("a shim");
    fs::set_permissions(shim.join("git"), fs::Permissions::from_mode(0o755)).expect("executable");
    let path = std::env::var("PATH").expect("PATH");
    yard.set("PATH", &format!("{}:{path}", shim.display()));
    let encoded = url.replace("http://", "http://m%40e:p'a%2Fs%22s%20%25$1@");
    assert_eq!(
        yard.pin(&PlannedGit { branch: Some("odd".into()), ..wanted(&encoded) }).expect("with an odd password").1,
        origin.at("odd")
    );
    let seen = fs::read_to_string(&arguments).expect("the shim ran");
    assert!(seen.contains("fetch") && !seen.contains("p'a") && !seen.contains("m%40e"), "{seen}");
    yard.set("PATH", &path);
    server.behave(Manners { login: login.clone(), ..Manners::default() });
    let config = fs::read_to_string(mirror.path().join("config")).expect("a config");
    assert!(!config.contains("hunter2") && !mirror.url().contains("hunter2"), "{config}");
    let wrong = url.replace("http://", "http://me:hunter3@");
    let other = PlannedGit { branch: Some("other".into()), ..wanted(&wrong) };
    let error = yard.pin(&other).expect_err("another password");
    assert!(matches!(error, GitError::Denied { .. }), "{error:?}");
    assert!(!format!("{error} {error:?} {}", yard.warned()).contains("hunter"), "{error}");
    // From a credential helper of the user's configuration.
    let helper = "[credential]\n\thelper = \"!f() { echo username=me; echo password=hunter2; }; f\"\n";
    fs::write(yard.home().join(".gitconfig"), helper).expect("a file");
    let again = server.url("large/.").replace("/./", "/");
    assert_eq!(yard.pin(&main_of(&again)).expect("with a helper").1, commit);
    // Elsewhere they are not sent.
    let thief = Server::start(&yard);
    server.behave(Manners { login, redirect: Some(thief.base()), ..Manners::default() });
    thief.behave(Manners { login: Some(("x".into(), "y".into())), ..Manners::default() });
    let away = PlannedGit { branch: Some("away".into()), ..wanted(&within) };
    yard.pin(&away).expect_err("the thief asks in vain");
    let (user, log) = ("bWU6aHVudGVyMg", thief.log());
    assert!(log.contains("GET /large") && !log.contains(user), "{log}");
    // Without git, the error says what git is needed for.
    yard.set("PATH", "/nonexistent");
    server.behave(Manners { login: Some(("me".into(), "hunter2".into())), ..Manners::default() });
    let error = yard.pin(&away).expect_err("no git");
    assert!(matches!(&error, GitError::NoGit { why, .. } if why.contains("plain http")), "{error:?}");
    assert!(error.hint().expect("a hint").contains("install git"));
}

#[test]
fn faulty_servers_are_reported() {
    let Some(yard) = Yard::new("layers_http::faulty_servers_are_reported") else { return };
    let origin = large(&yard);
    let server = Server::start(&yard);
    let wanted = main_of(&server.url("large"));
    let expect = |manners: Manners| {
        server.behave(manners);
        let error = yard.pin(&wanted).expect_err("ill");
        assert_eq!(error.kind(), Kind::Outside, "{error:?}");
        assert!(yard.names().is_empty(), "{:?}", yard.names());
        error.to_string()
    };
    for breaks_after in [0, 100, 100_000] {
        let said = expect(Manners { breaks_after: Some(breaks_after), ..Manners::default() });
        assert!(said.contains("cannot fetch from") || said.contains("cannot reach"), "{said}");
    }
    let said = expect(Manners { status: Some(500), ..Manners::default() });
    assert!(said.contains("500"), "{said}");
    let said = expect(Manners { status: Some(403), ..Manners::default() });
    assert!(said.contains("denies access"), "{said}");
    server.behave(Manners::default());
    assert_eq!(yard.pin(&wanted).expect("well again").1, origin.at("main"));
    drop(server);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("an address");
    for url in [format!("http://{closed}/x"), "http://no-such-host.invalid/x".into(), format!("git://{closed}/x")] {
        let error = yard.pin(&main_of(&url)).expect_err("nobody is there");
        assert!(matches!(error, GitError::Unreachable { .. }), "{url}: {error:?}");
        assert_eq!(error.kind(), Kind::Outside);
    }
}

#[test]
fn git_and_smidr_fetch_the_same() {
    let Some(yard) = Yard::new("layers_http::git_and_smidr_fetch_the_same") else { return };
    let origin = large(&yard);
    origin.git(&["tag", "-a", "-m", "x", "v1"]);
    origin.git(&["branch", "side/way"]);
    origin.commit("more", "x");
    let server = Server::start(&yard);
    let url = server.url("large");
    let at = |wanted: PlannedGit, commit: &str| PlannedGit { commit: Some(origin.at(commit)), ..wanted };
    let wishes = [
        main_of(&url),
        PlannedGit { tag: Some("v1".into()), ..wanted(&url) },
        PlannedGit { branch: Some("side/way".into()), ..wanted(&url) },
        at(main_of(&url), "main~1"),
        at(wanted(&url), "main~2"),
        PlannedGit { commit: Some("12".repeat(20).parse().expect("an id")), ..wanted(&url) },
    ];
    // git's configuration names a proxy (none, in fact), which gix would not follow.
    let other = Yard::new("layers_http::git_and_smidr_fetch_the_same").expect("git is here");
    fs::write(other.home().join(".gitconfig"), "[http]\n\tproxy = \"\"\n").expect("a file");
    for wish in wishes {
        let (ours, theirs) = (yard.pin(&wish), other.pin(&wish));
        let commit =
            |pinned: &Result<(_, _), GitError>| pinned.as_ref().map(|(_, commit)| format!("{commit}")).map_err(kind_of);
        assert_eq!(commit(&ours), commit(&theirs), "{wish:?}");
        let (one, two) = (state(&yard, &url), state(&other, &url));
        assert_eq!(one, two, "{wish:?}");
    }
    let log = server.log();
    assert!(log.contains("git/oxide") && log.contains("git/2"), "both have fetched");
}

fn kind_of(error: &GitError) -> String {
    format!("{:?}", std::mem::discriminant(error))
}

// Refs, and every object by its name.
fn state(yard: &Yard, url: &str) -> (String, Vec<String>) {
    let mirror = yard.mirrors().mirror(url);
    let refs = git(mirror.path(), &["for-each-ref"]);
    let objects = git(mirror.path(), &["cat-file", "--batch-check", "--batch-all-objects"]);
    (refs, objects.lines().map(String::from).collect())
}

#[test]
fn ten_concurrent_processes() {
    let Some(yard) = Yard::new("layers_http::ten_concurrent_processes") else { return };
    let urls: Vec<String> = (0..10)
        .map(|number| {
            let origin = yard.repository(&format!("meta-{number}"));
            layer(&origin, &format!("layer{number}"));
            origin.url()
        })
        .collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    assert!(order(&yard, &urls).status().expect("a process").success());
    let known: Vec<String> = yard.mirrors().list().expect("a list").iter().map(|mirror| mirror.url().into()).collect();
    assert_eq!(known.len(), 10);
    assert!(urls.iter().all(|url| known.iter().any(|one| one == url)), "{known:?}");
}

/// What a repository needs to be a layer, the machine of [`order`]'s project included.
fn layer(origin: &Origin, name: &str) {
    origin.commit("conf/machine/m.conf", "");
    let conf = format!("BBFILE_COLLECTIONS += \"{name}\"\nBBFILE_PATTERN_{name} = \"\"\n");
    origin.commit("conf/layer.conf", &conf);
}

fn start(yard: &Yard, url: &str) -> Child {
    order(yard, &[url]).spawn().expect("a process")
}

/// smidr itself, which fetches `main` of addresses into the yard's store, for a new project.
fn order(yard: &Yard, urls: &[&str]) -> Command {
    let project = tempfile::Builder::new().prefix("project-").tempdir_in(yard.path()).expect("a folder").keep();
    let layers = urls.iter().enumerate();
    let layers: String =
        layers.map(|(number, url)| format!("- {{name: l{number}, git: \"{url}\", branch: main}}\n")).collect();
    let config = format!("name: x\nbase: {{machine: m}}\nbuild: {{image: i}}\nlayers:\n{layers}");
    fs::write(project.join("smidr.yaml"), config).expect("a config");
    let mut command = Command::new(smidr_bin());
    command.args(["layers", "sync"]).current_dir(project).env_clear().envs(yard.environment.iter().cloned());
    command.env("SMIDR_HOME", yard.path().join("smidr")).env("SMIDR_TRUST", "1").stdout(Stdio::null());
    command
}

#[test]
fn a_killed_fetch_leaves_no_visible_mirror() {
    let Some(yard) = Yard::new("layers_http::a_killed_fetch_leaves_no_visible_mirror") else { return };
    let origin = large(&yard);
    let server = Server::start(&yard);
    let url = server.url("large");
    let slow = Manners { drip: Some(Duration::from_millis(10)), ..Manners::default() };
    let kill_in_the_middle = || {
        let before = server.log().matches("POST").count();
        let mut child = start(&yard, &url);
        wait_for("a fetch", LONG, || server.log().matches("POST").count() >= before + 2);
        thread::sleep(Duration::from_millis(500));
        child.kill().expect("killed");
        child.wait().expect("gone");
    };
    server.behave(slow.clone());
    kill_in_the_middle();
    let visible = || yard.names().into_iter().filter(|name| !name.starts_with('.')).count();
    assert_eq!(visible(), 0, "{:?}", yard.names());
    assert_eq!(yard.names().len(), 1, "{:?}", yard.names());
    server.behave(Manners::default());
    let (mirror, first) = yard.pin(&main_of(&url)).expect("fetched");
    assert_eq!(yard.names().len(), 1, "{:?}", yard.names());
    // In a mirror that others use already.
    for number in 0..64 {
        let text = fs::read_to_string(origin.path.join(format!("file{number}"))).expect("a file");
        let text: String = text.chars().rev().collect();
        fs::write(origin.path.join(format!("new{number}")), text).expect("a file");
    }
    let second = origin.commit("second", "x");
    server.behave(slow);
    kill_in_the_middle();
    assert!(mirror.has(&first).expect("a look") && !mirror.has(&second).expect("a look"));
    fs::write(mirror.path().join("packed-refs.lock"), "").expect("a stale lock");
    fs::write(mirror.path().join("shallow.lock"), "").expect("a stale lock");
    server.behave(Manners::default());
    assert_eq!(yard.pin(&main_of(&url)).expect("fetched").1, second);
    let left = walkdir::WalkDir::new(mirror.path()).into_iter().flatten();
    let left: Vec<_> = left.filter(|entry| entry.file_name().to_string_lossy().contains("tmp")).collect();
    assert!(left.is_empty(), "{left:?}");
    git(mirror.path(), &["fsck", "--strict"]);
}

#[test]
fn two_processes_fetch_once() {
    let Some(yard) = Yard::new("layers_http::two_processes_fetch_once") else { return };
    let origin = large(&yard);
    let server = Server::start(&yard);
    server.behave(Manners { drip: Some(Duration::from_millis(1)), ..Manners::default() });
    let url = server.url("large");
    let mut children = [start(&yard, &url), start(&yard, &url), start(&yard, &url)];
    // And this one, which reports that it waits.
    wait_for("a fetch", LONG, || server.log().contains("POST"));
    let (mirror, commit) = yard.pin(&main_of(&url)).expect("fetched");
    for child in &mut children {
        assert!(child.wait().expect("it ends").success());
    }
    assert_eq!(commit, origin.at("main"));
    let waited = yard.events().into_iter().any(|event| matches!(event, smidr::model::Event::Waiting { .. }));
    assert!(waited, "{:?}", yard.events());
    let packs = fs::read_dir(mirror.path().join("objects/pack")).expect("packs").count();
    assert_eq!(packs, 2, "one pack, with its index");
    git(mirror.path(), &["fsck", "--strict"]);
}

#[test]
fn a_fetch_stops_at_once() {
    for configured in ["", "[http]\n\tproxy = \"\"\n"] {
        let Some(yard) = Yard::new("layers_http::a_fetch_stops_at_once") else { return };
        fs::write(yard.home().join(".gitconfig"), configured).expect("a file");
        large(&yard);
        let server = Server::start(&yard);
        server.behave(Manners { drip: Some(Duration::from_secs(5)), ..Manners::default() });
        let url = server.url("large");
        thread::scope(|scope| {
            let fetching = scope.spawn(|| yard.pin(&main_of(&url)).map(|(_, commit)| commit));
            wait_for("a fetch", LONG, || server.log().contains("POST"));
            thread::sleep(Duration::from_millis(200));
            let asked = Instant::now();
            yard.stop.escalate();
            let stopped = fetching.join().expect("no panic").expect_err("stopped");
            assert!(asked.elapsed() < Duration::from_millis(1500), "{:?}", asked.elapsed());
            assert_eq!(stopped.kind(), Kind::Cancelled, "{stopped:?}");
        });
        assert!(yard.names().iter().all(|name| name.starts_with('.')), "{:?}", yard.names());
    }
}

/// Credentials in the user's git configuration reach a server only where that was granted.
#[test]
fn logins_go_only_where_granted() {
    let Some(mut yard) = Yard::new("layers_http::logins_go_only_where_granted") else { return };
    let origin = large(&yard);
    let server = Server::start(&yard);
    let (url, base) = (server.url("large"), server.base());
    let host = base.trim_start_matches("http://").to_owned();
    let login = || Manners { login: Some(("me".into(), "hunter2".into())), ..Manners::default() };
    let header = "[http]\n\textraHeader = \"Authorization: Basic bWU6aHVudGVyMg==\"\n";
    let helper = "[credential]\n\thelper = \"!f() { echo username=me; echo password=hunter2; }; f\"\n";
    let proxy = "[http]\n\tproxy = \"\"\n";
    for (config, netrc) in [
        (helper.to_owned(), ""),
        (header.to_owned(), ""),
        // With what only the host's git follows.
        (format!("{proxy}{helper}"), ""),
        (format!("{proxy}{header}"), ""),
        (proxy.to_owned(), "machine 127.0.0.1 login me password hunter2\n"),
        (String::new(), "machine 127.0.0.1 login me password hunter2\n"),
        (format!("[url \"http://me:hunter2@{host}/\"]\n\tinsteadOf = {base}/\n"), ""),
    ] {
        fs::write(yard.home().join(".gitconfig"), &config).expect("a file");
        fs::write(yard.home().join(".netrc"), netrc).expect("a file");
        yard.logins = Logins::default();
        server.behave(login());
        let before = server.log().len();
        let error = yard.pin(&main_of(&url)).expect_err("not without a login");
        assert!(matches!(&error, GitError::NeedsLogin { .. }), "{config}: {error:?}");
        assert_eq!(error.kind(), Kind::Request);
        assert!(error.hint().expect("a hint").ends_with(&format!("smidr trust --login {url}")));
        assert!(!server.log()[before..].to_lowercase().contains("authorization"), "{config}: {}", server.log());
        // Public repositories need no grant.
        server.behave(Manners::default());
        assert_eq!(yard.pin(&main_of(&url)).expect("public").1, origin.at("main"), "{config}");
        assert!(!server.log()[before..].to_lowercase().contains("authorization"), "{config}: {}", server.log());
        fs::remove_dir_all(yard.path().join("smidr")).expect("a store");
        server.behave(login());
        yard.logins = Logins::Below(vec![base.clone()]);
        assert_eq!(yard.pin(&main_of(&url)).expect("granted").1, origin.at("main"), "{config}");
        fs::remove_dir_all(yard.path().join("smidr")).expect("a store");
    }
    // A grant for one server does not cover the target of its redirect.
    let other = Server::start(&yard);
    other.behave(login());
    server.behave(Manners { redirect: Some(other.base()), ..Manners::default() });
    let any = "[credential]\n\thelper = \"!f() { echo username=me; echo password=hunter2; }; f\"\n";
    for config in
        [any.to_owned(), format!("{proxy}{any}"), format!("{proxy}[http \"{base}/\"]\n\tfollowRedirects = true\n{any}")]
    {
        fs::write(yard.home().join(".gitconfig"), &config).expect("a file");
        yard.logins = Logins::Below(vec![base.clone()]);
        let error = yard.pin(&main_of(&url)).expect_err("led elsewhere");
        assert!(matches!(error, GitError::Elsewhere { .. }), "{error:?}");
        assert!(error.to_string().contains("leads to http") || config.contains("proxy"), "{error:?}");
        assert!(!other.log().to_lowercase().contains("authorization"), "{}", other.log());
    }
    yard.logins = Logins::All;
    assert_eq!(yard.pin(&main_of(&url)).expect("all is granted").1, origin.at("main"));
    fs::remove_dir_all(yard.path().join("smidr")).expect("a store");
    // A public address is not made one that needs the user's keys.
    fs::write(yard.home().join(".gitconfig"), format!("[url \"ssh://git@{host}/\"]\n\tinsteadOf = {base}/\n"))
        .expect("a file");
    fs::remove_file(yard.home().join(".netrc")).expect("a file");
    yard.logins = Logins::default();
    server.behave(Manners::default());
    assert_eq!(yard.pin(&main_of(&url)).expect("public").1, origin.at("main"));
}

// In a process of its own: where certificates are is read from the environment. No git is asked, gix sends passwords over https itself.
#[test]
fn passwords_over_https_go_only_to_their_host() {
    let Some(yard) = Yard::new("layers_http::passwords_over_https_go_only_to_their_host") else { return };
    large(&yard);
    let (server, one) = Server::start_tls(&yard);
    let (thief, two) = Server::start_tls(&yard);
    let authorities = yard.path().join("ca.pem");
    fs::write(&authorities, format!("{one}{two}")).expect("a file");
    let fetch = |url: &str, trusted: bool| {
        let mut command = order(&yard, &[url]);
        command.env("SSL_CERT_DIR", yard.home());
        command.env("SSL_CERT_FILE", if trusted { authorities.clone() } else { "/dev/null".into() });
        command.status().expect("a process").success()
    };
    let login = Some(("me".to_owned(), "hunter2".to_owned()));
    server.behave(Manners { login: login.clone(), ..Manners::default() });
    let with = |password: &str| server.url("large").replace("https://", &format!("https://me:{password}@"));
    assert!(!fetch(&server.url("large"), true), "not without a password");
    assert!(!fetch(&with("hunter3"), true), "not with another one");
    assert!(!fetch(&with("hunter2"), false), "not with an unknown certificate");
    server.behave(Manners { redirect: Some(thief.base()), ..Manners::default() });
    thief.behave(Manners { login, ..Manners::default() });
    assert!(!fetch(&with("hunter2"), true), "the thief is not given what it asks for");
    assert!(thief.log().contains("GET /large") && !thief.log().contains("uthorization"), "{}", thief.log());
    server.behave(Manners { login: Some(("me".into(), "hunter2".into())), ..Manners::default() });
    assert!(fetch(&with("hunter2"), true));
    assert!(server.log().contains("git/oxide") && !server.log().contains("git/2"), "{}", server.log());
}

/// A store can lie in a project, and come with it.
#[test]
fn a_mirrors_configuration_is_ignored_by_the_hosts_git() {
    let Some(mut yard) = Yard::new("layers_http::a_mirrors_configuration_is_ignored_by_the_hosts_git") else { return };
    let origin = large(&yard);
    let server = Server::start(&yard);
    let url = server.url("large");
    let (mirror, _) = yard.pin(&main_of(&url)).expect("brought");
    let ran = yard.path().join("ran");
    let touch = format!("touch {}", ran.display());
    let config = format!(
        "[credential]\n\thelper = \"!{touch}\"\n[core]\n\tfsmonitor = {touch}\n\talternateRefsCommand = {touch}\n[http]\n\tproxy =\n"
    );
    fs::OpenOptions::new()
        .append(true)
        .open(mirror.path().join("config"))
        .expect("a config")
        .write_all(config.as_bytes())
        .expect("written");
    let hooks = mirror.path().join("hooks");
    fs::create_dir_all(&hooks).expect("a folder");
    for hook in ["reference-transaction", "post-merge", "pre-auto-gc"] {
        fs::write(hooks.join(hook), format!("#!/bin/sh\n{touch}\n")).expect("a hook");
        fs::set_permissions(hooks.join(hook), fs::Permissions::from_mode(0o755)).expect("executable");
    }
    origin.commit("more", "x");
    // By the host's git.
    fs::write(yard.home().join(".gitconfig"), "[http]\n\tproxy = \"\"\n").expect("a file");
    server.behave(Manners { login: Some(("me".into(), "hunter2".into())), ..Manners::default() });
    yard.pin(&main_of(&url)).expect_err("without the password");
    server.behave(Manners::default());
    assert_eq!(yard.pin(&main_of(&url)).expect("brought").1, origin.at("main"));
    assert!(!ran.exists());
    // A public address does not become one for the user's keys.
    fs::write(
        yard.home().join(".gitconfig"),
        format!("[core]\n\tsshCommand = {touch}\n[url \"ssh://git@127.0.0.1:1/\"]\n\tinsteadOf = git://127.0.0.1:1/\n"),
    )
    .expect("a file");
    yard.logins = Logins::default();
    yard.pin(&main_of("git://127.0.0.1:1/x")).expect_err("nothing is there");
    assert!(!ran.exists());
}

/// A program named ssh that logs its arguments and runs the remote command locally.
fn fake_ssh(yard: &Yard, last: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = yard.path().join("bin/ssh");
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    let log = yard.path().join("ssh.log");
    let script = format!("#!/bin/sh\necho \"$@\" >> '{}'\nfor last; do :; done\n{last}\n", log.display());
    fs::write(&path, script).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a program");
    path
}

#[test]
fn ssh_runs_in_batch_mode() {
    let Some(mut yard) = Yard::new("layers_http::ssh_runs_in_batch_mode") else { return };
    let origin = large(&yard);
    let ssh = fake_ssh(&yard, "shift $(($# - 2)); exec sh -c \"$*\"").display().to_string();
    let by_ssh = |host: &str| main_of(&format!("ssh://git@{host}{}", origin.path.display()));
    let log = || fs::read_to_string(yard_log(&ssh)).unwrap_or_default();
    // The `ssh` of PATH, in a process of its own, which can have another PATH.
    let path = format!("{}:{}", yard.path().join("bin").display(), std::env::var("PATH").expect("PATH"));
    let mut command = order(&yard, &[&by_ssh("host.example.com").url]);
    assert!(command.env("PATH", path).env_remove("GIT_SSH_COMMAND").status().expect("a process").success());
    assert!(log().contains("-o BatchMode=yes") && log().contains("git@host.example.com"), "{}", log());
    // Or the user's GIT_SSH_COMMAND.
    yard.set("GIT_SSH_COMMAND", &format!("{ssh} -o Own=yes"));
    let next = PlannedGit { commit: Some(origin.at("main~1")), ..wanted(&by_ssh("host.example.com").url) };
    assert_eq!(yard.pin(&next).expect("fetched").1, origin.at("main~1"));
    assert!(log().contains("-o Own=yes"), "{}", log());
    let rows = [
        ("echo 'ssh: Could not resolve hostname other: Name or service not known' >&2; exit 255", "cannot reach", ""),
        ("echo 'ssh: connect to host other port 22: Connection refused' >&2; exit 255", "cannot reach", ""),
        (
            "echo \"fatal: '/x' does not appear to be a git repository\" >&2; exit 128",
            "there is no git repository at",
            "",
        ),
        ("echo 'Your key is too old.' >&2; exit 1", "Your key is too old.", ""),
        (
            DENIED,
            "denies access with the keys that ssh has, without an agent: SSH_AUTH_SOCK is not set (ssh says: git@host: Permission denied (publickey).)",
            "ssh-add",
        ),
        (
            "echo 'No ED25519 host key is known for other.example.com and you have requested strict checking.' >&2; echo 'Host key verification failed.' >&2; exit 255",
            "ssh does not know the host key of other.example.com",
            "ssh-keyscan other.example.com >> ~/.ssh/known_hosts",
        ),
        (
            "echo '@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @' >&2; echo 'Host key verification failed.' >&2; exit 255",
            "the connection may be intercepted",
            "ssh-keygen -R other.example.com",
        ),
    ];
    for (script, said, hint) in rows {
        fake_ssh(&yard, script);
        let error = yard.pin(&by_ssh("other.example.com")).expect_err("no ssh");
        assert!(error.to_string().contains(said), "{error} {error:?}");
        assert_eq!(error.kind(), Kind::Outside);
        assert!(error.hint().is_some_and(|found| found.contains(hint)), "{:?}", error.hint());
    }
    // For ssh, another port is another host.
    let error = yard.pin(&by_ssh("other.example.com:2222")).expect_err("another key");
    assert_eq!(
        error.hint().as_deref(),
        Some("once you know why it has changed:  ssh-keygen -R '[other.example.com]:2222'")
    );
    yard.set("SSH_AUTH_SOCK", "/no/such/socket");
    fake_ssh(&yard, DENIED);
    let error = yard.pin(&by_ssh("other.example.com")).expect_err("denied");
    assert!(error.to_string().contains("with the keys that ssh has, and the agent (ssh says: "), "{error}");
}

const DENIED: &str = "echo 'git@host: Permission denied (publickey).' >&2; exit 255";

fn yard_log(ssh: &str) -> std::path::PathBuf {
    Path::new(ssh).parent().and_then(Path::parent).expect("the yard").join("ssh.log")
}
