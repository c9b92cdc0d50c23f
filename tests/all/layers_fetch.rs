//! Fetching the commit of a config into a mirror, with real git on the other side.

use std::{
    fs,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::Path,
    time::Instant,
};

use smidr::{
    layers::GitError,
    model::{Activity, Event, Kind, UserError},
    plan::PlannedGit,
};

use super::fetch_fixture::{Origin, Yard, git, locked, wanted};
use super::support::{HintText as _, LONG, wait_for};

/// `main` with three commits, `next` with one more, tags of both kinds.
fn history(yard: &Yard) -> Origin {
    let origin = yard.repository("meta-x");
    origin.commit("conf/layer.conf", "BBPATH = \"x\"");
    origin.git(&["tag", "light"]);
    origin.git(&["tag", "-a", "-m", "a release", "heavy"]);
    origin.git(&["tag", "-a", "-m", "a tag of a tag", "heavier", "heavy"]);
    origin.commit("recipes/a/a.bb", "SUMMARY = \"a\"");
    origin.git(&["checkout", "-q", "-b", "next"]);
    origin.commit("recipes/b/b.bb", "SUMMARY = \"b\"");
    origin.git(&["checkout", "-q", "main"]);
    origin
}

#[test]
fn branches_tags_and_commits() {
    let Some(yard) = Yard::new("layers_fetch::branches_tags_and_commits") else { return };
    let origin = history(&yard);
    let tag = |name: &str| PlannedGit { tag: Some(name.into()), ..origin.wanted() };
    let commit = |of: &str| PlannedGit { commit: Some(origin.at(of)), ..origin.wanted() };
    let on = |wanted: PlannedGit, branch: &str| PlannedGit { branch: Some(branch.into()), ..wanted };
    let rows = [
        (origin.branch("main"), "main"),
        (origin.branch("next"), "next"),
        (tag("light"), "light"),
        (tag("heavy"), "heavy"),
        (tag("heavier"), "heavy"),
        (commit("light"), "light"),
        (on(tag("heavy"), "main"), "heavy"),
        (on(commit("main"), "next"), "main"),
        (PlannedGit { tag: Some("heavy".into()), ..commit("light") }, "heavy"),
        (origin.wanted(), "main"),
    ];
    for (wanted, expected) in rows {
        let (mirror, found) = yard.pin(&wanted).unwrap_or_else(|error| panic!("{wanted:?}: {error}"));
        assert_eq!(found, origin.at(expected), "{wanted:?}");
        assert!(mirror.has(&found).expect("a look"));
    }
    let all = yard.mirrors().list().expect("a list");
    let [mirror] = all.as_slice() else { panic!("one mirror for one address, not {all:?}") };
    assert_eq!((mirror.url(), mirror.bytes().expect("bytes") > 0), (origin.url().as_str(), true));
    assert!(mirror.fetched().is_some());
    assert_eq!(git(mirror.path(), &["config", "gc.auto"]), "0");
    git(mirror.path(), &["fsck", "--strict"]);
    for pack in fs::read_dir(mirror.path().join("objects/pack")).expect("packs").flatten() {
        assert_eq!(pack.metadata().expect("a file").permissions().mode() & 0o777, 0o444, "{pack:?}");
    }
    let fetches = yard.events().into_iter().filter(
        |event| matches!(event, Event::Progress { activity: Activity::Fetch, subject, .. } if subject == "meta-x"),
    );
    assert!(fetches.count() > 1);
}

#[test]
fn only_what_is_needed_is_fetched() {
    let Some(yard) = Yard::new("layers_fetch::only_what_is_needed_is_fetched") else { return };
    let origin = history(&yard);
    for number in 0..50 {
        fs::write(origin.path.join(format!("file{number}")), format!("{number}")).expect("a file");
    }
    origin.commit("more", "x");
    origin.git(&["checkout", "-q", "next"]);
    origin.git(&["merge", "-q", "main"]);
    let (mirror, first) = yard.pin(&origin.branch("main")).expect("fetched");
    let count = |of: &str| git(mirror.path(), &["rev-list", "--count", of]);
    assert_eq!(count(&first.to_string()), "1", "the past is not needed");
    assert!(!mirror.has(&origin.at("next")).expect("a look"));
    // One more branch shares nearly everything.
    let (_, next) = yard.pin(&origin.branch("next")).expect("fetched");
    assert_eq!(count(&next.to_string()), "1");
    // To check a commit against a branch, the history is needed.
    let claim = PlannedGit { commit: Some(origin.at("light")), ..origin.branch("next") };
    yard.pin(&claim).expect("fetched");
    assert_eq!(count("refs/heads/next"), "6");
}

#[test]
fn pinned_commits_stay() {
    let Some(yard) = Yard::new("layers_fetch::pinned_commits_stay") else { return };
    let origin = history(&yard);
    let old = origin.at("main");
    let pinned = locked(origin.branch("main"), &old);
    assert_eq!(yard.pin(&pinned).expect("fetched").1, old);
    let new = origin.commit("recipes/c/c.bb", "c");
    assert_eq!(yard.pin(&pinned).expect("pinned").1, old, "a branch that has moved changes nothing");
    assert_eq!(yard.pin(&origin.branch("main")).expect("fetched").1, new);
    // A lock from before, on another machine.
    let elsewhere = Yard::new("layers_fetch::pinned_commits_stay").expect("git is here");
    assert_eq!(elsewhere.pin(&pinned).expect("fetched by its id").1, old);
    // Only this mirror has it.
    origin.git(&["reset", "-q", "--hard", "HEAD~2"]);
    let other = origin.commit("x", "another way");
    origin.git(&["reflog", "expire", "--expire=now", "--all"]);
    origin.git(&["branch", "-D", "next"]);
    origin.git(&["gc", "-q", "--prune=now"]);
    assert_eq!(yard.pin(&pinned).expect("pinned").1, old);
    assert_eq!(yard.pin(&origin.branch("main")).expect("fetched").1, other);
    assert!(yard.mirrors().mirror(&origin.url()).has(&new).expect("a look"), "what is here stays");
    let third = Yard::new("layers_fetch::pinned_commits_stay").expect("git is here");
    let gone = third.pin(&pinned).expect_err("nobody has it");
    assert!(matches!(&gone, GitError::Gone { name, .. } if name == "meta-x"), "{gone:?}");
    assert!(gone.hint().expect("a hint").contains("smidr lock --update meta-x"));
    assert_eq!(third.mirrors().list().expect("a list"), [], "a first fetch that failed leaves no mirror");
    // A repository that has vanished.
    fs::remove_dir_all(&origin.path).expect("removed");
    assert_eq!(yard.pin(&pinned).expect("pinned").1, old);
    assert_eq!(yard.warned(), "");
}

#[test]
fn pinned_commits_need_no_fetch() {
    let Some(yard) = Yard::new("layers_fetch::pinned_commits_need_no_fetch") else { return };
    let origin = history(&yard);
    let (_, commit) = yard.pin(&origin.branch("main")).expect("fetched");
    let pinned = locked(origin.branch("main"), &commit);
    let (mirrors, begun) = (yard.mirrors(), Instant::now());
    for _ in 0..100 {
        mirrors.pin(&pinned, yard.access(true)).expect("pinned");
    }
    assert!(begun.elapsed().as_millis() < 100, "a hundred took {:?}", begun.elapsed());
}

#[test]
fn offline_uses_the_mirror_only() {
    let Some(yard) = Yard::new("layers_fetch::offline_uses_the_mirror_only") else { return };
    let origin = history(&yard);
    let offline = |wanted: &PlannedGit| yard.mirrors().pin(wanted, yard.access(false));
    let error = offline(&origin.branch("main")).expect_err("nothing is here");
    assert!(matches!(error, GitError::Offline { .. }), "{error:?}");
    assert!(error.hint().expect("a hint").contains("smidr layers sync"));
    let (_, commit) = yard.pin(&origin.branch("main")).expect("fetched");
    origin.commit("later", "later");
    assert_eq!(offline(&origin.branch("main")).expect("known").1, commit);
    assert!(yard.warned().contains("`main` of") && yard.warned().contains("UTC"), "{}", yard.warned());
    assert_eq!(offline(&locked(origin.branch("main"), &commit)).expect("pinned").1, commit);
    for missing in [origin.branch("next"), locked(origin.branch("main"), &origin.at("main"))] {
        assert!(matches!(offline(&missing), Err(GitError::Offline { .. })), "{missing:?}");
    }
}

#[test]
fn unknown_branches_and_tags_are_refused() {
    let Some(yard) = Yard::new("layers_fetch::unknown_branches_and_tags_are_refused") else { return };
    let origin = history(&yard);
    origin.git(&["branch", "scarthgap"]);
    origin.git(&["branch", "kirkstone"]);
    let with_tag = |tag: &str| PlannedGit { tag: Some(tag.into()), ..origin.wanted() };
    let unborn = PlannedGit { commit: Some("12".repeat(20).parse().expect("an id")), ..origin.wanted() };
    let not_on = PlannedGit { commit: Some(origin.at("next")), ..origin.branch("main") };
    let other_tag = PlannedGit { commit: Some(origin.at("next")), ..with_tag("heavy") };
    origin.git(&["tag", "tree", "HEAD^{tree}"]);
    let rows = [
        (origin.branch("scarthgab"), "has no branch `scarthgab`", "`scarthgap`"),
        (with_tag("heavvy"), "has no tag `heavvy`", "`heavy`"),
        (origin.branch("heavy"), "has no branch `heavy`", "it is a tag: write `tag: heavy`"),
        (with_tag("kirkstone"), "has no tag `kirkstone`", "it is a branch: write `branch: kirkstone`"),
        (unborn, "has no commit 1212", "check the commit"),
        (not_on, "on the branch `main`", "leave out `branch:`"),
        (other_tag, "the tag `heavy` of", "leave out"),
        (with_tag("tree"), "is not a commit", ""),
    ];
    for (wanted, text, hint) in rows {
        let error = yard.pin(&wanted).expect_err("no such thing");
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(error.kind(), Kind::Request, "{error}");
        assert!(error.hint().unwrap_or_default().contains(hint), "{:?}", error.hint());
    }
    // A server that lacks the commit of its own branch.
    git(yard.path(), &["clone", "-q", "--depth=1", "--branch=main", &origin.url(), "srv/shallow"]);
    let cut = wanted(&format!("file://{}/srv/shallow", yard.path().display()));
    let error = yard.pin(&PlannedGit { commit: Some(origin.at("main~1")), branch: Some("main".into()), ..cut });
    let error = error.expect_err("nobody can tell");
    assert!(error.to_string().contains("on the branch `main`: its own past is cut off"), "{error}");
    assert_eq!(error.hint().as_deref(), Some("leave out `branch:`"));
    let error = yard.pin(&wanted("file:///no/such/repository.git")).expect_err("no repository");
    assert!(matches!(error, GitError::NoRepository { .. }), "{error:?}");
    assert_eq!(error.kind(), Kind::Outside);
    fs::create_dir(yard.path().join("srv/empty")).expect("a folder");
    let error = yard.pin(&wanted(&format!("file://{}/srv/empty", yard.path().display()))).expect_err("no repository");
    assert!(matches!(error, GitError::NoRepository { .. }), "{error:?}");
}

#[test]
fn a_branch_replaced_by_a_folder_of_branches() {
    let Some(yard) = Yard::new("layers_fetch::a_branch_replaced_by_a_folder_of_branches") else { return };
    let origin = history(&yard);
    origin.git(&["branch", "feature", "next"]);
    let (mirror, _) = yard.pin(&origin.branch("feature")).expect("fetched");
    git(mirror.path(), &["pack-refs", "--all"]);
    origin.git(&["branch", "-D", "feature"]);
    origin.git(&["branch", "feature/x", "main"]);
    assert_eq!(yard.pin(&origin.branch("feature/x")).expect("fetched").1, origin.at("main"));
    origin.git(&["branch", "-D", "feature/x"]);
    origin.git(&["branch", "feature", "next"]);
    assert_eq!(yard.pin(&origin.branch("feature")).expect("fetched").1, origin.at("next"));
    // An unknown commit makes it fetch everything: refs that the server lacks are removed.
    origin.git(&["branch", "-D", "feature"]);
    let nowhere = PlannedGit { commit: Some("12".repeat(20).parse().expect("an id")), ..origin.wanted() };
    yard.pin(&nowhere).expect_err("nowhere");
    let refs = git(mirror.path(), &["for-each-ref", "--format=%(refname)", "refs/heads"]);
    assert_eq!(refs, "refs/heads/main\nrefs/heads/next");
}

#[test]
fn mirrors_are_tried_in_order() {
    let Some(mut yard) = Yard::new("layers_fetch::mirrors_are_tried_in_order") else { return };
    let origin = history(&yard);
    let with = |url: &str, mirrors: &[&str]| PlannedGit {
        mirrors: mirrors.iter().map(|url| (*url).into()).collect(),
        ..PlannedGit { branch: Some("main".into()), ..wanted(url) }
    };
    let helped = with("file:///nowhere/meta-x", &["file:///no/where/else", &origin.url()]);
    assert_eq!(yard.pin(&helped).expect("fetched").1, origin.at("main"));
    assert!(yard.warned().contains("/nowhere/meta-x") && yard.warned().contains("/no/where/else"), "{}", yard.warned());
    let error = yard.pin(&with("file:///nowhere/a", &["file:///nowhere/b"])).expect_err("nobody has it");
    let text = error.to_string();
    assert!(text.contains("/nowhere/a") && text.contains("/nowhere/b"), "{text}");
    assert_eq!(error.kind(), Kind::Outside);
    // url.<base>.insteadOf, from the configuration that the given environment leads to.
    let base = format!("[url \"file://{}/srv/\"]\n\tinsteadOf = https://git.example.com/\n", yard.path().display());
    fs::write(yard.home().join("base"), &base).expect("a file");
    let home = yard.home();
    fs::write(home.join(".gitconfig"), "[include]\n\tpath = ~/base\n").expect("a file");
    let far = with("https://git.example.com/meta-x", &[]);
    assert_eq!(yard.pin(&far).expect("fetched").1, origin.at("main"));
    let config = home.join("elsewhere");
    fs::write(&config, base.replace("example.com", "example.org")).expect("a file");
    yard.set("GIT_CONFIG_GLOBAL", &config.display().to_string());
    assert!(yard.pin(&with("https://git.example.org/meta-x", &[])).is_ok());
}

#[test]
fn changes_between_two_commits() {
    let Some(yard) = Yard::new("layers_fetch::changes_between_two_commits") else { return };
    let origin = history(&yard);
    let old = origin.at("main");
    let wanted = origin.branch("main");
    yard.pin(&wanted).expect("fetched");
    for number in 1..=5 {
        origin.commit(&format!("file{number}"), "x");
    }
    origin.git(&["merge", "-q", "--no-ff", "-m", "a merge\u{1b}[2J", "next"]);
    let (_, new) = yard.pin(&wanted).expect("fetched");
    let ask =
        |from, to, limit, online| yard.mirrors().changes(&wanted, from, to, limit, yard.access(online)).expect("told");
    let unknown = ask(&old, &new, 3, false);
    assert!(!unknown.is_whole, "{unknown:?}");
    let changes = ask(&old, &new, 3, true);
    assert!(changes.is_whole && !changes.is_rewritten, "{changes:?}");
    assert_eq!((changes.commits.len(), changes.total), (3, 7));
    let subjects: Vec<&str> = changes.commits.iter().map(|change| change.subject.as_str()).collect();
    assert_eq!(subjects[0], "a merge\\u{1b}[2J");
    assert_eq!(changes.commits[0].short(), new.short());
    assert!(changes.commits[0].authored.is_some());
    assert_eq!(ask(&new, &new, 3, true).total, 0);
    // Rewritten: the new one does not descend from the old one.
    origin.git(&["reset", "-q", "--hard", "light"]);
    let other = origin.commit("other", "x");
    yard.pin(&wanted).expect("fetched");
    let changes = ask(&new, &other, 10, true);
    assert!(changes.is_rewritten && changes.total == 1, "{changes:?}");
    // The server is gone, and so is the past.
    let lonely = Yard::new("layers_fetch::changes_between_two_commits").expect("git is here");
    lonely.pin(&wanted).expect("fetched");
    fs::remove_dir_all(&origin.path).expect("removed");
    let told = lonely.mirrors().changes(&wanted, &old, &other, 10, lonely.access(true)).expect("told");
    assert!(!told.is_whole && lonely.warned().contains("cannot be fetched"), "{told:?}");
}

fn damage(mirror: &Path) {
    for entry in fs::read_dir(mirror.join("objects/pack")).expect("packs").flatten() {
        if entry.path().extension().is_some_and(|kind| kind == "pack") {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o644)).expect("open");
            let file = fs::File::options().write(true).open(entry.path()).expect("a pack");
            let length = file.metadata().expect("a length").len();
            for at in (12..length - 20).step_by(7) {
                file.write_all_at(b"!", at).expect("written");
            }
        }
    }
}

#[test]
fn a_damaged_mirror_is_replaced() {
    let Some(yard) = Yard::new("layers_fetch::a_damaged_mirror_is_replaced") else { return };
    let origin = history(&yard);
    let wanted = origin.branch("main");
    let (mirror, old) = yard.pin(&wanted).expect("fetched");
    let mend = |commit| yard.mirrors().mend(&wanted, commit, yard.access(true));
    mend(&old).expect("sound");
    assert_eq!(yard.warned(), "", "what is sound is left alone");
    damage(mirror.path());
    assert!(mend(&old).expect("made anew").has(&old).expect("a look"));
    assert!(yard.warned().contains("is damaged"), "{}", yard.warned());
    assert_eq!(yard.names().len(), 1, "the damaged one is gone: {:?}", yard.names());
    git(mirror.path(), &["fsck", "--strict"]);
}

#[test]
fn what_cannot_be_fetched_any_more_is_kept_aside() {
    let Some(yard) = Yard::new("layers_fetch::what_cannot_be_fetched_any_more_is_kept_aside") else { return };
    let origin = history(&yard);
    let wanted = origin.branch("main");
    let (mirror, old) = yard.pin(&wanted).expect("fetched");
    origin.git(&["reset", "-q", "--hard", "light"]);
    origin.git(&["branch", "-D", "next"]);
    let new = origin.commit("recipes/z/z.bb", "z");
    origin.git(&["reflog", "expire", "--expire=now", "--all"]);
    origin.git(&["gc", "-q", "--prune=now"]);
    assert_eq!(yard.pin(&wanted).expect("fetched").1, new);
    damage(mirror.path());
    yard.mirrors().mend(&wanted, &new, yard.access(true)).expect("made anew");
    assert!(mirror.has(&new).expect("a look") && !mirror.has(&old).expect("a look"));
    let name = mirror.path().file_name().expect("a name").to_string_lossy();
    let aside = mirror.path().with_file_name(format!(".{name}.damaged-1"));
    assert!(aside.join("HEAD").is_file(), "{:?}", yard.names());
    let kept = format!("{} cannot be fetched any more; what is left of the damaged mirror is kept in ", old.short());
    assert!(yard.warned().contains(&kept), "{}", yard.warned());
    // Pruning tells of it and leaves it.
    let store = smidr::layers::Store::at(mirror.path().parent().and_then(Path::parent).expect("the store"));
    let all = smidr::layers::prune::Keep { used_within: Default::default(), dry_run: false };
    let access = yard.access(true);
    let later = jiff::Timestamp::now() + std::time::Duration::from_secs(400 * 24 * 60 * 60);
    // A process that another test has just started may hold the mirror's lock until it executes its program.
    wait_for("the mirror to go", LONG, || {
        store.checkouts.prune(all, later, access.on, access.stop).expect("pruned");
        !mirror.path().exists()
    });
    assert!(aside.is_dir(), "{:?}", yard.names());
    assert!(yard.warned().contains(&format!("{} is left of a damaged mirror", aside.display())), "{}", yard.warned());
}

#[test]
fn commits_of_the_old_mirror_only_are_kept() {
    let Some(yard) = Yard::new("layers_fetch::commits_of_the_old_mirror_only_are_kept") else { return };
    let origin = history(&yard);
    let wanted = origin.branch("main");
    let (mirror, old) = yard.pin(&wanted).expect("fetched");
    let sound: Vec<_> = packs(mirror.path());
    origin.git(&["reset", "-q", "--hard", "light"]);
    origin.git(&["branch", "-D", "next"]);
    let new = origin.commit("recipes/z/z.bb", "z");
    origin.git(&["reflog", "expire", "--expire=now", "--all"]);
    origin.git(&["gc", "-q", "--prune=now"]);
    assert_eq!(yard.pin(&wanted).expect("fetched").1, new);
    // Only the newest pack is damaged.
    for path in packs(mirror.path()).into_iter().filter(|path| !sound.contains(path)) {
        fs::remove_file(path).expect("removed");
    }
    assert!(!mirror.has(&new).expect("a look"));
    yard.mirrors().mend(&wanted, &new, yard.access(true)).expect("made anew");
    assert!(mirror.has(&new).expect("a look"));
    assert!(mirror.has(&old).expect("a look"), "no server has it, and some lock may name it");
    git(mirror.path(), &["fsck", "--strict"]);
    assert_eq!(yard.pin(&locked(wanted.clone(), &old)).expect("pinned").1, old);
    origin.commit("more", "x");
    assert!(yard.pin(&wanted).is_ok(), "and the mirror can be fetched into");
}

fn packs(mirror: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(mirror.join("objects/pack")).expect("packs").flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|kind| kind == "pack")).collect()
}

#[test]
fn a_mirror_that_cannot_be_replaced_stays() {
    let Some(yard) = Yard::new("layers_fetch::a_mirror_that_cannot_be_replaced_stays") else { return };
    let origin = history(&yard);
    let wanted = origin.branch("main");
    let (mirror, commit) = yard.pin(&wanted).expect("fetched");
    damage(mirror.path());
    fs::rename(&origin.path, yard.path().join("away")).expect("moved");
    yard.mirrors().mend(&wanted, &commit, yard.access(true)).expect_err("no server has it");
    let pack = fs::read_dir(mirror.path().join("objects/pack")).expect("packs").count();
    assert!(pack > 0, "the old one is still there");
    assert!(matches!(yard.mirrors().mend(&wanted, &commit, yard.access(false)), Err(GitError::Offline { .. })));
}

#[test]
fn a_store_that_cannot_be_written() {
    const TEST: &str = "layers_fetch::a_store_that_cannot_be_written";
    let Some(yard) = Yard::new(TEST) else { return };
    let origin = history(&yard);
    let (mirror, commit) = yard.pin(&origin.branch("main")).expect("fetched");
    if super::support::is_root() {
        return super::support::skip(TEST, "root writes everywhere");
    }
    let close = |mode| {
        for folder in
            walkdir::WalkDir::new(mirror.path()).into_iter().flatten().filter(|entry| entry.file_type().is_dir())
        {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).expect("changed");
        }
    };
    close(0o500);
    let pinned = yard.pin(&locked(origin.branch("main"), &commit));
    let refused = yard.pin(&origin.branch("next"));
    close(0o700);
    assert_eq!(pinned.expect("reading is enough").1, commit);
    let error = refused.expect_err("writing is not");
    assert_eq!(error.kind(), Kind::Host, "{error:?}");
}

#[test]
fn a_malformed_git_configuration_is_an_error() {
    let Some(yard) = Yard::new("layers_fetch::a_malformed_git_configuration_is_an_error") else { return };
    let origin = history(&yard);
    fs::write(yard.home().join(".gitconfig"), "[broken\n").expect("a file");
    let error = yard.pin(&origin.branch("main")).expect_err("broken");
    assert!(matches!(error, GitError::Config(_)) && error.to_string().contains(".gitconfig"), "{error}");
}

/// Addresses are what git takes.
#[test]
fn addresses_of_all_forms() {
    let Some(mut yard) = Yard::new("layers_fetch::addresses_of_all_forms") else { return };
    let origin = yard.repository("sp ace/100% r");
    let srv = origin.path.ancestors().nth(2).expect("a folder").to_owned();
    let folder = srv.display();
    for url in [format!("file://{folder}/sp%20ace/100% r"), format!("file://{folder}/sp ace/100%25%20r")] {
        assert_eq!(
            yard.pin(&PlannedGit { branch: Some("main".into()), ..wanted(&url) }).expect(&url).1,
            origin.at("main")
        );
        git(&srv, &["ls-remote", &url]);
    }
    // A server whose home is the folder of all repositories.
    let (program, heard) = (yard.path().join("ssh"), yard.path().join("heard"));
    let script = format!(
        "#!/bin/sh\necho \"$@\" > {}\ncd {folder}\nwhile [ \"${{1#git-upload-pack}}\" = \"$1\" ]; do shift; done\nexec sh -c \"$*\"\n",
        heard.display()
    );
    fs::write(&program, script).expect("a script");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    yard.set("GIT_SSH_COMMAND", &program.display().to_string());
    let whole = format!("{folder}/sp%20ace/100%25%20r");
    for (url, host) in [
        ("git@git.example.org:sp ace/100% r".to_owned(), "git@git.example.org "),
        ("git@[::1]:sp ace/100% r".into(), "git@::1 "),
        ("[git@git.example.org:2222]:sp ace/100% r".into(), "-p 2222 git@git.example.org "),
        (format!("git+ssh://git@git.example.org{whole}"), "git@git.example.org "),
        (format!("ssh+git://git@git.example.org:2222{whole}"), "-p 2222 git@git.example.org "),
        (format!("ssh://git@git.example.org{folder}/sp ace/100%25 r"), "git@git.example.org "),
    ] {
        let wanted = PlannedGit { branch: Some("main".into()), ..wanted(&url) };
        let pinned = yard.pin(&wanted).unwrap_or_else(|error| panic!("{url}: {error}"));
        assert_eq!(pinned.1, origin.at("main"), "{url}");
        let heard = fs::read_to_string(&heard).expect("ssh was called").replace("-p2222", "-p 2222");
        assert!(heard.contains(host), "{url}: {heard}");
    }
}
