//! Checkouts of commits: equal to git's, atomic, and safe with hostile repositories.

use std::{
    collections::HashMap,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{Timestamp, ToSpan as _};
use smidr::model::UserError as _;
use smidr::{
    layers::{
        checkout::{CheckoutError, Limits, RefusedUrl, SubmoduleFailed},
        prune::Keep,
    },
    model::{CommitId, Event},
    plan::Submodules as Choice,
    system::lock,
};

use super::{
    checkout_fixture::{URL, Yard, commit, git, object, patch, picture, told, tree, try_git},
    support::{HintText as _, has, skip},
};

fn no_git(test: &str) -> bool {
    let missing = !has("git");
    if missing {
        skip(test, "no git here to make repositories with");
    }
    missing
}

/// A repository with everything that git can check out, its submodules beside it.
fn fixture(folder: &Path) -> PathBuf {
    let (sub, top) = (folder.join("group/lib.git"), folder.join("group/meta-test.git"));
    for repository in [&sub, &top] {
        fs::create_dir_all(repository).expect("folders");
        git(repository, &["init", "-q", "."]);
    }
    fs::create_dir_all(sub.join("conf")).expect("a folder");
    fs::write(sub.join("conf/layer.conf"), "BBPATH\n").expect("a file");
    git(&sub, &["add", "."]);
    git(&sub, &["commit", "-qm", "sub"]);
    for folder in ["a/b/c", "bin", "empty"] {
        fs::create_dir_all(top.join(folder)).expect("folders");
    }
    fs::write(top.join(".gitattributes"), "*.bat text eol=crlf\n*.txt text=auto\n*.latin1 working-tree-encoding=ISO-8859-1\n*.png binary\nx.lfs filter=lfs\n").expect("a file");
    for (name, content) in [
        ("a/b/c/file.txt", &b"one\ntwo\n"[..]),
        ("a/x.bat", b"one\ntwo\n"),
        ("a/x.png", b"\x89PNG\r\n\x00\xff"),
        ("a.file", b"between a and a/b\n"),
        ("empty/.keep", b""),
        ("bin/run", b"#!/bin/sh\n"),
        ("no-end", b"no newline"),
        ("aux.c", b"a device elsewhere\n"),
        ("a b:c", b"odd\n"),
        ("x.lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    ] {
        fs::write(top.join(name), content).expect(name);
    }
    fs::write(top.join("a/x.latin1"), b"caf\xe9\n").expect("a file");
    fs::write(top.join(std::ffi::OsStr::from_bytes(b"caf\xe9-\xff")), "not UTF-8\n").expect("a file");
    fs::write(top.join("caf\u{e9}"), "UTF-8\n").expect("a file");
    git(&top, &["add", "."]);
    git(&top, &["update-index", "--chmod=+x", "bin/run"]);
    for (link, target) in
        [("to-file", "a/b/c/file.txt"), ("to-folder", "a"), ("dangling", "nowhere"), ("a/up", "../bin/run")]
    {
        symlink(target, top.join(link)).expect("a link");
    }
    git(&top, &["submodule", "add", "-q", "../lib.git", "modules/lib"]);
    git(&top, &["add", "."]);
    git(&top, &["commit", "-qm", "first"]);
    git(&top, &["tag", "-am", "tag", "v1"]);
    fs::write(top.join("second"), "second\n").expect("a file");
    git(&top, &["add", "."]);
    git(&top, &["commit", "-qm", "second"]);
    top
}

fn has_commit(top: &Path, revision: &str) -> CommitId {
    git(top, &["rev-parse", revision]).parse().expect("a commit")
}

#[test]
fn a_checkout_equals_git_checkout() {
    if no_git("checkouts::a_checkout_equals_git_checkout") {
        return;
    }
    let outside = tempfile::tempdir().expect("a folder");
    let top = fixture(outside.path());
    let url = format!("file://{}", top.display());
    let by_git = outside.path().join("by-git");
    git(outside.path(), &["clone", "-q", "--recurse-submodules", &url, "by-git"]);
    let commit = has_commit(&top, "HEAD");
    for depth in ["", "--depth=1"] {
        let yard = Yard::new();
        fs::remove_dir_all(&yard.mirror).expect("empty");
        let clone = ["clone", "-q", "--bare", depth, &url, yard.mirror.to_str().expect("text")];
        git(outside.path(), &clone.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>());
        let lib = outside.path().join("group/lib.git/.git");
        let mut asked = Vec::new();
        let mut submodule = |url: &str, _: &[String], commit: &CommitId| {
            asked.push((url.to_owned(), commit.clone()));
            Ok(lib.clone())
        };
        let made = yard.checkout_of(&url, &commit, &[], false, &mut submodule).expect("made");
        let inner = has_commit(&outside.path().join("group/lib.git"), "HEAD");
        assert_eq!(asked, [(format!("file://{}", top.with_file_name("lib.git").display()), inner.clone())]);
        assert_eq!(made.folder, yard.paths.layers().join(format!("checkouts/{commit}/meta-test")));
        assert_eq!(made.borrowed, [yard.mirror.clone(), lib.clone()]);
        // git uses the caller's umask, smidr does not.
        let modes = |mut picture: std::collections::BTreeMap<PathBuf, (u32, Vec<u8>)>| {
            picture.values_mut().for_each(|(mode, _)| *mode &= 0o170_100);
            picture
        };
        let (ours, gits) = (modes(picture(&made.folder)), modes(picture(&by_git)));
        assert_eq!(ours.keys().collect::<Vec<_>>(), gits.keys().collect::<Vec<_>>());
        for (path, entry) in &ours {
            assert_eq!(entry, &gits[path], "{}", path.display());
        }
        let all = picture(&made.folder);
        assert!(all.values().all(|(mode, _)| [0o100_644, 0o100_755, 0o040_755, 0o120_777].contains(mode)), "{all:?}");
        let shown = |arguments: &[&str]| git(&made.folder, arguments);
        assert_eq!(shown(&["rev-parse", "HEAD"]), commit.to_string());
        assert_eq!(shown(&["status", "--porcelain"]), "");
        assert_eq!(shown(&["diff", "HEAD", "--stat"]), "");
        assert_eq!(shown(&["log", "-1", "--format=%s"]), "second");
        assert_eq!(shown(&["describe", "--always"]), git(&yard.mirror, &["describe", "--always"]));
        assert_eq!(shown(&["rev-list", "--count", "HEAD"]), if depth.is_empty() { "2" } else { "1" });
        assert_eq!(shown(&["submodule", "status"]).split(' ').nth(1), Some(inner.to_string().as_str()));
        assert_eq!(git(&made.folder.join("modules/lib"), &["status", "--porcelain"]), "");
        assert_eq!(git(&made.folder.join("modules/lib"), &["rev-parse", "HEAD"]), inner.to_string());
        assert_eq!(
            yard.recorder.warnings(),
            ["1 files of meta-test are pointers of git-lfs, whose content is not fetched"]
        );
        let progress =
            |event: &Event| matches!(event, Event::Progress { done, total: Some(total), .. } if done == total);
        assert!(yard.recorder.0.lock().expect("a mutex").iter().any(progress));
        // There already: no submodule is asked for.
        let again = yard.checkout(&commit).expect("there");
        assert_eq!((again.folder, again.borrowed), (made.folder.clone(), made.borrowed.clone()));
        yard.is_clean(1);
    }
}

/// Modes that no git writes any more, or ever wrote: what git takes them for.
#[test]
fn modes_are_read_as_git_reads_them() {
    if no_git("checkouts::modes_are_read_as_git_reads_them") {
        return;
    }
    let yard = Yard::new();
    let at = yard.mirror.clone();
    let blob = object(&at, "blob", b"x\n");
    let inner = tree(&at, &[("100664", b"f", &blob)]);
    let files = [
        "100664", "100666", "104755", "100744", "100645", "100000", "0100644", "120777", "60000", "20000", "10644",
        "0", "644", "160755",
    ];
    for (mode, id) in files.map(|mode| (mode, &blob)).into_iter().chain([("40755", &inner), ("040000", &inner)]) {
        let odd = commit(&at, &tree(&at, &[(mode, b"e", id), ("100644", b"z", &blob)]));
        git(&at, &["update-ref", "refs/heads/main", &odd.to_string()]);
        let by_git = tempfile::tempdir().expect("a folder");
        git(by_git.path(), &["clone", "-q", "-b", "main", &format!("file://{}", at.display()), "c"]);
        let modes = |folder: &Path| -> Vec<(PathBuf, u32, Vec<u8>)> {
            // git uses the caller's umask, smidr does not.
            picture(folder).into_iter().map(|(path, (mode, content))| (path, mode & 0o170_100, content)).collect()
        };
        let made = yard.checkout(&odd).unwrap_or_else(|error| panic!("{mode}: {}", told(&error)));
        assert_eq!(modes(&made.folder), modes(&by_git.path().join("c")), "{mode}");
        let index = |folder: &Path| git(folder, &["ls-files", "-s"]);
        assert_eq!(index(&made.folder), index(&by_git.path().join("c")), "{mode}");
        assert_eq!(git(&made.folder, &["status", "--porcelain"]), "", "{mode}");
    }
}

/// Trees that no git would write, and the errors for them.
#[test]
fn hostile_trees_are_refused() {
    if no_git("checkouts::hostile_trees_are_refused") {
        return;
    }
    let yard = Yard::new();
    let at = yard.mirror.clone();
    let blob = object(&at, "blob", b"evil\n");
    let inner = tree(&at, &[("100644", b"config", &blob)]);
    let out = object(&at, "blob", yard.home.path().join("canary").as_os_str().as_bytes());
    let home = object(&at, "blob", yard.home.path().as_os_str().as_bytes());
    let names: [&[u8]; 17] = [
        b".git",
        b".GIT",
        b".Git ",
        b".git.",
        b"git~1",
        b"GIT~1",
        b".git::$INDEX_ALLOCATION",
        ".g\u{200c}it".as_bytes(),
        ".git\u{feff}".as_bytes(),
        b"..",
        b".",
        b"",
        b"a/b",
        b"/etc/passwd",
        b"../../../canary",
        b".git/hooks/post-checkout",
        b"../x",
    ];
    for name in names {
        for (mode, id) in [("100644", &blob), ("40000", &inner), ("120000", &out), ("160000", &blob)] {
            for nested in [false, true] {
                let mut hostile = tree(&at, &[(mode, name, id)]);
                if nested {
                    hostile = tree(&at, &[("40000", b"d", &hostile)]);
                }
                let error = yard.checkout(&commit(&at, &hostile)).expect_err("hostile");
                // A name without bytes is no entry for git's own format.
                assert!(
                    matches!(error, CheckoutError::Name { .. } | CheckoutError::Malformed { .. }),
                    "{name:?}: {}",
                    told(&error)
                );
                assert_eq!(error.kind().exit_code(), if matches!(error, CheckoutError::Name { .. }) { 2 } else { 4 });
            }
        }
    }
    let trees = [
        (vec![("100644", &b"a"[..], &blob), ("40000", b"a", &inner)], "holds two things called `a`"),
        (vec![("40000", b"a", &inner), ("120000", b"a", &home)], "holds two things called `a`"),
        (vec![("120000", b"a", &home), ("40000", b"a", &inner)], "holds two things called `a`"),
        (vec![("100644", b"a", &blob), ("100644", b"a", &blob)], "holds two things called `a`"),
        (vec![("120000", b".gitmodules", &out)], ".gitmodules"),
        (vec![("120000", b".GitModules", &out)], ".GitModules"),
        (vec![("120000", b"link", &out)], "leads out of it"),
    ];
    for (entries, expected) in trees {
        let entries: Vec<(&str, &[u8], &str)> =
            entries.iter().map(|(mode, name, id)| (*mode, *name, id.as_str())).collect();
        let error = yard.checkout(&commit(&at, &tree(&at, &entries))).expect_err("hostile");
        assert!(told(&error).contains(expected), "{entries:?}: {}", told(&error));
    }
    yard.is_clean(0);
}

#[test]
fn an_exceeded_limit_is_named() {
    if no_git("checkouts::an_exceeded_limit_is_named") {
        return;
    }
    let yard = Yard::new();
    let at = yard.mirror.clone();
    let blob = object(&at, "blob", &[b'x'; 1000]);
    let mut deep = tree(&at, &[("100644", b"file", &blob)]);
    for _ in 0..5 {
        deep = tree(&at, &[("40000", b"d", &deep), ("40000", b"e", &deep)]);
    }
    let commit = commit(&at, &deep);
    let limits = Limits::default();
    for (limits, expected) in [
        (Limits { depth: 5, ..limits }, "more than 5 folders inside each other"),
        (Limits { path: 9, ..limits }, "more than 9 bytes in the path of a file"),
        (Limits { entries: 93, ..limits }, "more than 93 files and folders"),
        (Limits { bytes: 31_999, ..limits }, "more than 31999 bytes"),
        (Limits { file: 999, ..limits }, "more than 999 bytes in one file"),
    ] {
        let mut yard = Yard { store: yard.store.clone().with_limits(limits), ..Yard::new() };
        yard.mirror.clone_from(&at);
        let error = yard.checkout(&commit).expect_err("too much");
        assert!(told(&error).contains(expected), "{}", told(&error));
    }
    let limits = Limits { depth: 6, path: 14, entries: 94, bytes: 32_000, file: 1000, ..limits };
    let exact = Yard { store: yard.store.clone().with_limits(limits), mirror: at, ..Yard::new() };
    exact.checkout(&commit).expect("just right");
    yard.is_clean(1);
}

#[test]
fn outside_links_need_permission() {
    if no_git("checkouts::outside_links_need_permission") {
        return;
    }
    let yard = Yard::new();
    let at = yard.mirror.clone();
    let (link, up) = (object(&at, "blob", b"d/../../x"), object(&at, "blob", b".."));
    let folder = tree(&at, &[("120000", b"up", &up)]);
    let fine = commit(&at, &tree(&at, &[("40000", b"d", &folder)]));
    let out = commit(&at, &tree(&at, &[("40000", b"d", &folder), ("120000", b"link", &link)]));
    yard.checkout(&fine).expect("inside");
    let refused = |error: CheckoutError| {
        assert_eq!(error.to_string(), format!("{URL} holds the link `link` -> `d/../../x`, which leads out of it"));
        assert!(error.hint().expect("a hint").contains("outside_links: true"));
    };
    refused(yard.checkout(&out).expect_err("out"));
    yard.is_clean(1);
    let made = yard.checkout_with(&out, &[], true).expect("allowed");
    assert_eq!(fs::read_link(made.folder.join("link")).expect("a link"), Path::new("d/../../x"));
    // The checkout exists now, and still needs permission.
    refused(yard.checkout(&out).expect_err("out"));
    // By a patch, and through a link that existed before.
    let text = b"diff --git a/e b/e\nnew file mode 120000\n--- /dev/null\n+++ b/e\n@@ -0,0 +1 @@\n+d/up/../x\n\\ No newline at end of file\n";
    let error = yard.checkout_with(&fine, &[patch("evil.patch", text)], false).expect_err("out");
    assert!(error.to_string().contains("`e` -> `d/up/../x`"), "{error}");
    yard.is_clean(2);
}

#[test]
fn damaged_objects_are_named_and_leave_nothing() {
    if no_git("checkouts::damaged_objects_are_named_and_leave_nothing") {
        return;
    }
    let yard = Yard::new();
    let at = yard.mirror.clone();
    let (blob, other) = (object(&at, "blob", b"content\n"), object(&at, "blob", b"another\n"));
    let inner = tree(&at, &[("100644", b"file", &blob)]);
    let commit = commit(&at, &tree(&at, &[("40000", b"d", &inner)]));
    let loose = |id: &str| at.join("objects").join(&id[..2]).join(&id[2..]);
    let named = |yard: &Yard, id: &str| match yard.checkout(&commit).expect_err("damaged") {
        CheckoutError::Damaged { object, mirror, .. } => assert_eq!((object.as_str(), mirror), (id, at.clone())),
        error => panic!("{}", told(&error)),
    };
    for id in [&blob, &inner, &commit.to_string()] {
        let good = fs::read(loose(id)).expect("an object");
        fs::remove_file(loose(id)).expect("removed");
        named(&yard, id);
        // A valid object under another one's name.
        fs::copy(loose(&other), loose(id)).expect("replaced");
        named(&yard, id);
        fs::remove_file(loose(id)).expect("removed");
        fs::write(loose(id), &good[..good.len() / 2]).expect("cut off");
        named(&yard, id);
        fs::write(loose(id), &good).expect("mended");
    }
    yard.is_clean(0);
    yard.checkout(&commit).expect("mended");
    yard.is_clean(1);
    let gone = Yard { mirror: yard.home.path().join("gone"), ..Yard::new() };
    assert!(matches!(gone.checkout(&commit), Err(CheckoutError::Damaged { .. })));
}

#[test]
fn hostile_submodule_urls_and_paths_are_refused() {
    if no_git("checkouts::hostile_submodule_urls_and_paths_are_refused") {
        return;
    }
    let yard = Yard::new();
    let at = yard.mirror.clone();
    let blob = object(&at, "blob", b"x\n");
    let inner = commit(&at, &tree(&at, &[("100644", b"file", &blob)])).to_string();
    let with = |modules: &str| {
        let modules = object(&at, "blob", modules.as_bytes());
        let entries: [(&str, &[u8], &str); 2] = [("100644", b".gitmodules", &modules), ("160000", b"sub", &inner)];
        commit(&at, &tree(&at, &entries))
    };
    let asked = |commit: &CommitId| {
        let mut asked = Vec::new();
        let made = yard.checkout_of(URL, commit, &[], false, &mut |url, _, _| {
            asked.push(url.to_owned());
            Ok(at.clone())
        });
        (made.map(|made| made.folder), asked)
    };
    for url in ["ext::sh -c 'touch pwned'", "-x", "file:///etc", "/etc", "../../../../x"] {
        let (made, asked) = asked(&with(&format!("[submodule \"sub\"]\n\tpath = sub\n\turl = \"{url}\"\n")));
        assert!(matches!(made, Err(CheckoutError::Submodule { .. })) && asked.is_empty(), "{url}");
    }
    let (made, _) = asked(&with("[submodule \"../../hooks\"]\n\tpath = sub\n\turl = https://example.org/a\n"));
    assert!(matches!(made, Err(CheckoutError::Submodule { why: RefusedUrl::Name(_), .. })));
    yard.is_clean(0);
    // A path in .gitmodules is only compared.
    let (made, urls) = asked(&with("[submodule \"sub\"]\n\tpath = ../../sub\n\turl = https://example.org/a\n"));
    assert!(made.expect("made").join("sub").is_dir() && urls.is_empty());
    assert_eq!(
        yard.recorder.warnings(),
        ["`sub` of meta-test is a submodule that .gitmodules does not know: it stays empty"]
    );
    let (made, urls) = asked(&with("[submodule \"sub\"]\n\tpath = sub\n\turl = ../other.git\n"));
    assert_eq!(fs::read_to_string(made.expect("made").join("sub/file")).expect("a file"), "x\n");
    assert_eq!(urls, ["https://git.example.org/group/other.git"]);
    // A submodule that git would not check out is not fetched, whatever its address.
    let (made, urls) = asked(&with("[submodule \"sub\"]\n\tpath = sub\n\turl = ext::x\n\tupdate = none\n"));
    let empty = made.expect("made").join("sub");
    assert!(fs::read_dir(&empty).expect("a folder").next().is_none() && urls.is_empty());
    assert_eq!(yard.recorder.warnings().len(), 1, "nothing more was said");
    assert!(try_git(empty.parent().expect("a folder"), &["status", "--porcelain"], b"").stdout.is_empty());
    // Hints where a submodule cannot be fetched.
    for (url, mirror) in [("../other.git", true), ("https://example.org/a", false)] {
        let wanted = with(&format!("[submodule \"sub\"]\n\tpath = sub\n\turl = {url}\n# gone\n"));
        let mut gone = |_: &str, _: &[String], _: &CommitId| {
            Err(SubmoduleFailed::new(CheckoutError::Malformed { repository: "x".into(), object: "y".into() }))
        };
        let error = yard.checkout_of(URL, &wanted, &[], false, &mut gone).expect_err("nowhere");
        let hint = error.hint().expect("a hint");
        assert!(hint.ends_with(":  submodules: false"), "{hint}");
        assert_eq!(hint.contains("`mirrors:`"), mirror, "{hint}");
    }
    // A submodule of a submodule, without end.
    let mut last = with("[submodule \"sub\"]\n\tpath = sub\n\turl = ../other.git\n");
    for _ in 0..11 {
        let inner = last.to_string();
        let modules = object(&at, "blob", b"[submodule \"sub\"]\n\tpath = sub\n\turl = ../other.git\n");
        let entries: [(&str, &[u8], &str); 2] = [("100644", b".gitmodules", &modules), ("160000", b"sub", &inner)];
        last = commit(&at, &tree(&at, &entries));
    }
    let (made, _) = asked(&last);
    assert!(told(&made.expect_err("deep")).contains("more than 10 submodules inside each other"));
}

/// A repository of repositories: a layer, one in a submodule, and submodules that are only for tests.
#[test]
fn submodules_are_brought_by_choice() {
    if no_git("checkouts::submodules_are_brought_by_choice") {
        return;
    }
    let yard = Yard::new();
    let at = yard.mirror.clone();
    let blob = object(&at, "blob", b"x\n");
    let conf = tree(&at, &[("100644", b"layer.conf", &blob)]);
    let layer = tree(&at, &[("40000", b"conf", &conf)]);
    let inner = commit(&at, &layer).to_string();
    let (lib, tests) = (tree(&at, &[("160000", b"lib", &inner)]), tree(&at, &[("160000", b"suite", &inner)]));
    let own = tree(&at, &[("40000", b"conf", &conf), ("40000", b"files", &lib)]);
    let with = |modules: &[u8]| {
        let modules = object(&at, "blob", modules);
        let entries: [(&str, &[u8], &str); 4] = [
            ("100644", b".gitmodules", &modules),
            ("160000", b"meta-b", &inner),
            ("40000", b"meta-own", &own),
            ("40000", b"tests", &tests),
        ];
        commit(&at, &tree(&at, &entries))
    };
    let declared: String = ["meta-b", "meta-own/files/lib", "tests/suite"]
        .map(|path| format!("[submodule \"{path}\"]\n\tpath = {path}\n\turl = ../{path}\n"))
        .concat();
    let whole = with(declared.as_bytes());
    let owned = |list: &[&str]| list.iter().map(|path| (*path).to_owned()).collect();
    let get = |choice: &Choice| {
        let mut asked = Vec::new();
        let mut bring = |url: &str, _: &[String], _: &CommitId| {
            let path = url.rsplit("group/").next().expect("a path").to_owned();
            asked.push(path);
            Ok(at.clone())
        };
        let made = yard.chosen(URL, &whole, (&[], false), choice, &mut bring);
        (made, asked)
    };
    let all = ["meta-b", "meta-own/files/lib", "tests/suite"];
    let mut folders = Vec::new();
    for (choice, expected) in [
        (Choice::None, &[][..]),
        (Choice::ForLayers(owned(&[])), &["meta-b", "meta-own/files/lib"]),
        (Choice::ForLayers(owned(&["meta-b"])), &["meta-b"]),
        (Choice::ForLayers(owned(&["meta-own"])), &["meta-own/files/lib"]),
        (Choice::Listed(owned(&["tests/suite"])), &["tests/suite"]),
        (Choice::All, &all),
    ] {
        let (made, asked) = get(&choice);
        let made = made.expect("made");
        assert_eq!(asked, expected, "{choice:?}");
        for path in all {
            assert_eq!(made.folder.join(path).join("conf/layer.conf").exists(), expected.contains(&path), "{path}");
            assert!(made.folder.join(path).is_dir(), "{path}");
        }
        assert_eq!(git(&made.folder, &["status", "--porcelain"]), "", "{choice:?}");
        // The same choice is the same checkout, another one is not.
        let (again, asked) = get(&choice);
        assert_eq!((again.expect("there").folder, asked.len()), (made.folder.clone(), 0));
        let found = yard.store.find((&yard.mirror, URL), &whole, &[], &choice).expect("found");
        assert_eq!(found.map(|checkout| checkout.folder), Some(made.folder.clone()));
        assert!(!folders.contains(&made.folder), "{choice:?}");
        folders.push(made.folder);
    }
    let said = yard.recorder.warnings();
    let left = |paths: &str| {
        format!(
            "submodules of meta-test outside of the layers that are used are left out: {paths}; `submodules:` brings those that it names"
        )
    };
    assert_eq!(said, [left("tests/suite"), left("meta-own/files/lib, tests/suite"), left("meta-b, tests/suite")]);
    // The error of one that cannot be had names the key, with what is to be kept.
    let other = with(format!("{declared}# other\n").as_bytes());
    let mut gone = |_: &str, _: &[String], _: &CommitId| {
        Err(SubmoduleFailed::new(CheckoutError::Malformed { repository: "x".into(), object: "y".into() }))
    };
    let mut failed = |choice| yard.chosen(URL, &other, (&[], false), &choice, &mut gone).expect_err("gone").hint();
    let hint = failed(Choice::All).expect("a hint");
    assert!(hint.ends_with("submodules: [meta-own/files/lib, tests/suite]"), "{hint}");
    let hint = failed(Choice::Listed(owned(&["tests/suite"]))).expect("a hint");
    assert!(hint.ends_with("submodules: false"), "{hint}");
    let (made, _) = get(&Choice::Listed(owned(&["tests/suit"])));
    let error = made.expect_err("no such submodule");
    assert_eq!(error.kind().exit_code(), 2);
    assert!(told(&error).contains("has no submodule `tests/suit`"), "{error}");
    assert_eq!(error.hint().as_deref(), Some("there is meta-b, meta-own/files/lib, tests/suite"));
    // A .gitmodules that cannot be read does not matter where none are wanted.
    let broken = with(b"[submodule");
    let mut none = |url: &str, _: &[String], _: &CommitId| -> Result<PathBuf, SubmoduleFailed> { panic!("{url}") };
    yard.chosen(URL, &broken, (&[], false), &Choice::None, &mut none).expect("made");
    // A repository without submodules is one checkout, whatever the choice.
    let plain = commit(&at, &layer);
    let one = yard.chosen(URL, &plain, (&[], false), &Choice::None, &mut none).expect("made").folder;
    assert_eq!(
        yard.chosen(URL, &plain, (&[], false), &Choice::ForLayers(owned(&[])), &mut none).expect("there").folder,
        one
    );
    yard.is_clean(8);
}

#[test]
fn differences_from_git_are_warned_about() {
    if no_git("checkouts::differences_from_git_are_warned_about") {
        return;
    }
    let yard = Yard::new();
    let at = yard.mirror.clone();
    let blob = object(&at, "blob", b"x\n");
    for (attributes, said) in
        [("*.c ident\n", true), ("*.ps1 working-tree-encoding=utf-16le\n", true), ("*.identity text\n", false)]
    {
        let attributes = object(&at, "blob", attributes.as_bytes());
        let entries: [(&str, &[u8], &str); 2] = [("100644", b".gitattributes", &attributes), ("100644", b"x", &blob)];
        let inner = tree(&at, &entries);
        yard.checkout(&commit(&at, &tree(&at, &[("40000", b"d", &inner)]))).expect("made");
        let said_so =
            yard.recorder.warnings().iter().any(|text| text.contains("`d/.gitattributes` of meta-test asks for"));
        assert_eq!(said_so, said, "{:?}", yard.recorder.warnings());
        yard.recorder.0.lock().expect("a mutex").clear();
    }
}

#[test]
fn concurrent_requests_make_one_checkout() {
    if no_git("checkouts::concurrent_requests_make_one_checkout") {
        return;
    }
    let yard = Yard::new();
    let at = yard.mirror.clone();
    let blobs: HashMap<String, String> =
        (0..300).map(|n| (format!("file-{n}"), object(&at, "blob", format!("{n}\n").as_bytes()))).collect();
    let entries: Vec<(&str, &[u8], &str)> =
        blobs.iter().map(|(name, id)| ("100644", name.as_bytes(), id.as_str())).collect();
    let commit = commit(&at, &tree(&at, &entries));
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(|| yard.checkout(&commit).expect("a checkout").folder)).collect();
        for one in all {
            assert_eq!(fs::read_dir(one.join().expect("no panic")).expect("a folder").count(), 301);
        }
    });
    let events = yard.recorder.0.lock().expect("a mutex").clone();
    let ended = |event: &&Event| matches!(event, Event::Progress { done: 300, total: Some(300), .. });
    assert!(events.iter().filter(ended).count() <= 2, "made more than once");
    yard.is_clean(1);
}

#[test]
fn waiting_for_a_checkout_names_its_maker() {
    if no_git("checkouts::waiting_for_a_checkout_names_its_maker") {
        return;
    }
    let yard = Yard::new();
    let blob = object(&yard.mirror, "blob", b"content\n");
    let commit = commit(&yard.mirror, &tree(&yard.mirror, &[("100644", b"file", &blob)]));
    let path = lock::path_in(&yard.locks(), &format!("checkout-{commit}@meta-test"));
    let first = lock::try_lock(&path, lock::Mode::Exclusive, "build of somebody").expect("a lock");
    std::thread::scope(|scope| {
        let second = scope.spawn(|| yard.checkout(&commit).map(|made| made.folder));
        let waits = |event: &Event| matches!(event, Event::Waiting { resource, holder } if resource.contains(&commit.short()) && holder.starts_with("build of somebody"));
        while !yard.recorder.0.lock().expect("a mutex").iter().any(waits) {
            assert!(!second.is_finished(), "it did not wait");
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(first);
        assert!(second.join().expect("no panic").is_ok());
    });
    yard.is_clean(1);
}

#[test]
fn a_fork_has_the_same_commit_under_its_own_name() {
    if no_git("checkouts::a_fork_has_the_same_commit_under_its_own_name") {
        return;
    }
    let yard = Yard::new();
    let blob = object(&yard.mirror, "blob", b"content\n");
    let commit = commit(&yard.mirror, &tree(&yard.mirror, &[("100644", b"file", &blob)]));
    // While the first is locked: one does not wait for the other.
    let first = yard.checkout(&commit).expect("made");
    for (url, name) in [
        ("https://example.org/me/fork.git/", "fork"),
        ("git@example.org:fork2", "fork2"),
        ("https://example.org/.git", "repository"),
        ("https://example.org/..", "repository"),
        ("https://example.org/a%2f..%2fb", "repository"),
    ] {
        let made = yard.checkout_of(url, &commit, &[], false, &mut |_, _, _| panic!("no submodule")).expect(name);
        assert_eq!(made.folder, first.folder.with_file_name(name));
        assert_eq!(picture(&made.folder), picture(&first.folder));
    }
    yard.is_clean(4);
}

#[test]
fn incomplete_checkouts_are_made_again() {
    if no_git("checkouts::incomplete_checkouts_are_made_again") {
        return;
    }
    let yard = Yard::new();
    let at = yard.mirror.clone();
    let blob = object(&at, "blob", b"content\n");
    let commit = commit(&at, &tree(&at, &[("100644", b"file", &blob)]));
    // Half-made, without a lock on it.
    let left = yard.paths.layers().join("checkouts/tmp/s-killed/fs/d");
    fs::create_dir_all(&left).expect("folders");
    fs::write(left.join("half"), "").expect("a file");
    // A place without a record.
    let place = yard.paths.layers().join(format!("checkouts/{commit}/meta-test"));
    fs::create_dir_all(place.join("stale")).expect("folders");
    // Not locked: a checkout in use is not made again.
    let made = yard.checkout(&commit).expect("made").folder;
    assert_eq!(picture(&made).keys().collect::<Vec<_>>(), [Path::new("file")]);
    yard.is_clean(1);
    // After a power cut the names are there and the content is not.
    let mark = made.join(".git/unsettled.json");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot");
    let earlier = || {
        let text = fs::read_to_string(&mark).expect("a mark");
        fs::write(&mark, text.replace(boot.trim(), "another")).expect("a mark");
    };
    earlier();
    fs::write(made.join("file"), "").expect("emptied");
    let again = yard.checkout(&commit).expect("made anew").folder;
    assert_eq!(fs::read_to_string(again.join("file")).expect("a file"), "content\n");
    earlier();
    yard.checkout(&commit).expect("counted");
    assert!(!mark.exists(), "good for ever");
    // Its mirror is gone, so git would fail there.
    let moved = at.with_extension("moved");
    fs::rename(&at, &moved).expect("moved");
    assert!(matches!(yard.checkout(&commit), Err(CheckoutError::Damaged { .. })));
    let elsewhere = Yard { mirror: moved.clone(), store: yard.store.clone(), ..Yard::new() };
    assert_eq!(elsewhere.checkout(&commit).expect("made anew").borrowed, [moved]);
}

#[test]
fn unused_checkouts_are_pruned() {
    if no_git("checkouts::unused_checkouts_are_pruned") {
        return;
    }
    let yard = Yard::new();
    let at = yard.mirror.clone();
    let blob = object(&at, "blob", b"content\n");
    let one = commit(&at, &tree(&at, &[("100644", b"one", &blob)]));
    let two = commit(&at, &tree(&at, &[("100644", b"two", &blob)]));
    let held = yard.checkout(&one).expect("made");
    drop(yard.checkout(&two).expect("made"));
    // A process that another test is just starting holds what is open here, for a moment: hence again and again.
    let eventually = |what: &mut dyn FnMut() -> bool| {
        let found = (0..200).any(|_| {
            what() || {
                std::thread::sleep(Duration::from_millis(20));
                false
            }
        });
        assert!(found, "not in four seconds");
    };
    eventually(&mut || {
        let listed = yard.store.list().expect("a list");
        assert_eq!(listed.iter().map(|found| found.bytes).collect::<Vec<_>>(), [8, 8]);
        listed.iter().all(|found| found.user.is_some() == (found.commit == one))
    });
    let prune = |days: i64, dry_run: bool| {
        let keep = Keep { used_within: Duration::from_secs(7 * 24 * 3600), dry_run };
        let now = Timestamp::now() + (24 * days).hours();
        yard.store.prune(keep, now, &yard.on, &Default::default()).expect("pruned")
    };
    // How many are in use after removing so many.
    let gone = |checkouts: usize, mirrors: usize| {
        let (mut sum, mut in_use) = ((0, 0), 0);
        eventually(&mut || {
            let gone = prune(8, false);
            sum = (sum.0 + gone.checkouts.len(), sum.1 + gone.mirrors.len());
            assert_eq!(gone.bytes() > 0, gone.checkouts.len() + gone.mirrors.len() > 0);
            in_use = gone.in_use.len();
            sum == (checkouts, mirrors)
        });
        in_use
    };
    let young = prune(6, false);
    assert_eq!((young.checkouts.len(), young.in_use.len(), young.mirrors.len()), (0, 0, 0));
    eventually(&mut || {
        let dry = prune(8, true);
        (dry.checkouts.len(), dry.in_use.len(), dry.mirrors.len()) == (1, 1, 0) && dry.bytes() == 8
    });
    yard.is_clean(2);
    assert_eq!(gone(1, 0), 1, "one is in use, and so is its mirror");
    yard.is_clean(1);
    assert!(held.folder.join("one").exists() && at.exists());
    drop(held);
    eventually(&mut || (prune(8, true).checkouts.len(), prune(8, true).mirrors.len()) == (1, 1));
    let writer = lock::path_in(&yard.locks(), "mirror-meta-test-1");
    let fetching = lock::try_lock(&writer, lock::Mode::Exclusive, "fetching");
    assert_eq!(gone(1, 0), 0);
    assert!(prune(8, false).mirrors.is_empty() && at.exists(), "the mirror is being written to");
    drop(fetching);
    assert_eq!(gone(0, 1), 0);
    assert!(!at.exists());
    yard.is_clean(0);
    eventually(&mut || {
        prune(8, false);
        let locks = fs::read_dir(yard.locks()).expect("locks").map(|entry| entry.expect("an entry").file_name());
        !locks.into_iter().any(|name| name.to_string_lossy().contains(&one.to_string()))
    });
}

#[test]
fn removal_blocks_no_checkout() {
    if no_git("checkouts::removal_blocks_no_checkout") {
        return;
    }
    let yard = Yard::new();
    let at = yard.mirror.clone();
    let blob = object(&at, "blob", b"content\n");
    let commit = commit(&at, &tree(&at, &[("100644", b"file", &blob)]));
    let folder = yard.checkout(&commit).expect("made").folder;
    // They are not counted before removal.
    for n in 0..30_000 {
        fs::write(folder.join(format!("{n}")), "").expect("a file");
    }
    let tmp = yard.paths.layers().join("checkouts/tmp");
    // Moved away by a process that was then killed.
    fs::create_dir_all(tmp.join("s-killed/fs/meta-test@0/.git")).expect("folders");
    let using = lock::path_in(&yard.locks(), &format!("checkout-{commit}@meta-test"));
    let keep = Keep { used_within: Duration::ZERO, dry_run: false };
    let free_meanwhile = std::thread::scope(|scope| {
        let prune = || yard.store.prune(keep, Timestamp::now() + 24.hours(), &yard.on, &Default::default());
        // A process that another test is just starting holds what is open here, for a moment: hence again and again.
        let again = move || {
            (0..200).any(|_| {
                std::thread::sleep(Duration::from_millis(20));
                prune().expect("pruned").checkouts.len() == 1
            })
        };
        let pruning = scope.spawn(again);
        let mut free = false;
        while !pruning.is_finished() {
            let removing = || walkdir::WalkDir::new(&tmp).into_iter().flatten().nth(10).is_some();
            let is_free = |path| matches!(lock::try_lock(path, lock::Mode::Shared, "test"), Ok(lock::Attempt::Held(_)));
            free |= !folder.exists() && is_free(&using) && removing();
        }
        assert!(pruning.join().expect("no panic"), "nothing was removed");
        free
    });
    assert!(free_meanwhile);
    yard.is_clean(0);
}

#[test]
fn patches_are_part_of_the_checkouts_path() {
    if no_git("checkouts::patches_are_part_of_the_checkouts_path") {
        return;
    }
    let yard = Yard::new();
    let at = yard.mirror.clone();
    let blob = object(&at, "blob", b"one\ntwo\n");
    let commit = commit(&at, &tree(&at, &[("100644", b"file", &blob)]));
    let first = patch("first.patch", b"--- a/file\n+++ b/file\n@@ -1,2 +1,2 @@\n-one\n+ONE\n two\n");
    let second = patch("second.patch", b"--- a/file\n+++ b/file\n@@ -1,2 +1,2 @@\n ONE\n-two\n+TWO\n");
    let made = yard.checkout_with(&commit, &[first.clone(), second.clone()], false).expect("made");
    assert_eq!(fs::read_to_string(made.folder.join("file")).expect("a file"), "ONE\nTWO\n");
    assert!(made.folder.parent().and_then(Path::file_name).is_some_and(|key| key.len() == 40 + 1 + 32));
    let status = try_git(&made.folder, &["status", "--porcelain"], b"");
    assert_eq!(String::from_utf8_lossy(&status.stdout), " M file\n", "git says what is true");
    let error = yard.checkout_with(&commit, &[second, first], false).expect_err("the wrong order");
    assert_eq!(told(&error), "second.patch does not apply to `file`: its lines are not there, at @@ -1,2 +1,2 @@");
    yard.is_clean(1);
    assert_ne!(yard.checkout(&commit).expect("without").folder, made.folder);
    yard.is_clean(2);
}
