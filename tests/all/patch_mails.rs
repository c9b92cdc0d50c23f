//! Patches in mail format: several in one file, with headers and signatures.

use std::{fs, path::Path};

use smidr::layers::patch::{self, PatchError};

use super::{
    checkout_fixture::{git, patch as patch_of, picture, told, try_git},
    support::{HintText as _, NO_HOME, has, hermetic, skip},
};

/// A branch on top of `main` whose every commit changes what the one before has made, in a repository.
fn branch(repository: &Path) {
    let at = |name: &str| repository.join(name);
    let write = |name: &str, text: &str| fs::write(at(name), text).expect("a file");
    let commit = |subject: &str| {
        git(repository, &["add", "-A"]);
        git(repository, &["commit", "-q", "-m", subject]);
    };
    let lines = |edits: &[(&str, &str)]| -> String {
        let all: String = (1..=30).map(|n| format!("line {n}\n")).collect();
        edits.iter().fold(all, |text, (old, new)| text.replace(&format!("{old}\n"), &format!("{new}\n")))
    };
    git(repository, &["init", "-q", "."]);
    write("file", &lines(&[]));
    commit("begin");
    git(repository, &["checkout", "-q", "-b", "work"]);
    let edited = [("line 3", "LINE 3")];
    write("file", &lines(&edited));
    commit("edit");
    fs::rename(at("file"), at("moved")).expect("moved");
    write("moved", &lines(&[edited[0], ("line 20", "LINE 20")]));
    commit("rename and edit");
    write("added", "added\n");
    commit("add\n\nFrom here on it is there.\n\n--- not a file\n");
    fs::remove_file(at("added")).expect("there");
    write("moved", &lines(&[edited[0], ("line 20", "twenty")]));
    commit("remove what was added");
}

/// The tree of a revision, in a folder of its own.
fn tree_of(repository: &Path, revision: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = try_git(repository, &["-c", "tar.umask=0022", "archive", revision], b"");
    let tar = folder.path().join("tar");
    fs::write(&tar, archive.stdout).expect("a file");
    let unpacked = hermetic("tar", NO_HOME).arg("-xf").arg(&tar).arg("-C").arg(folder.path()).status();
    assert!(unpacked.expect("tar").success());
    fs::remove_file(tar).expect("there");
    folder
}

#[test]
fn a_series_in_one_file_is_applied_mail_by_mail() {
    const TEST: &str = "patch_mails::a_series_in_one_file_is_applied_mail_by_mail";
    if !has("git") || !has("tar") {
        return skip(TEST, "no git here to compare with");
    }
    let home = tempfile::tempdir().expect("a folder");
    branch(home.path());
    let series = |more: &[&str]| {
        let arguments = [&["format-patch", "--stdout"][..], more, &["main..work"]].concat();
        let output = try_git(home.path(), &arguments, b"");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let expected = picture(tree_of(home.path(), "work").path());
    let whole = series(&[]);
    let apply = |text: &[u8]| {
        let tree = tree_of(home.path(), "main");
        patch::apply(&patch_of("series.patch", text), tree.path()).map(|()| picture(tree.path()))
    };
    let letter = series(&["--cover-letter"]);
    let dated = String::from_utf8_lossy(&whole).replace("Mon Sep 17 00:00:00 2001", "Fri Jan 2 03:04:05 2026");
    for text in [&whole[..], &letter, &series(&["--no-renames", "--no-stat"]), dated.as_bytes()] {
        let made = apply(text).unwrap_or_else(|error| panic!("{}", told(&error)));
        assert_eq!(made, expected, "{}", String::from_utf8_lossy(text));
    }
    // None is left out silently: neither an encoded nor a damaged mail, nor text before a line `--`.
    let sent = String::from_utf8_lossy(&whole)
        .replace("Subject: [PATCH 2/4]", "Content-Transfer-Encoding: Base64\nSubject: [PATCH 2/4]");
    let error = apply(sent.as_bytes()).expect_err("encoded");
    assert!(error.to_string().contains("(mail 2 of 4") && error.to_string().contains("in base64"), "{error}");
    let damaged = String::from_utf8_lossy(&whole).replace("\n@@ -1,6 +1,6 @@", "\n @@ -1,6 +1,6 @@");
    assert_ne!(damaged.as_bytes(), &whole[..]);
    assert!(apply(damaged.as_bytes()).is_err());
    let head = "From 1111111111111111111111111111111111111111 Mon Sep 17 00:00:00 2001\nSubject: x\n\n";
    let two = "diff --git a/x b/x\nnew file mode 100644\n--- /dev/null\n+++ b/x\n@@ -0,0 +1,2 @@\n+a\n+--\n\
               diff --git a/y b/y\nnew file mode 100644\n--- /dev/null\n+++ b/y\n@@ -0,0 +1 @@\n+b\n";
    let one = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,2 +1 @@\n a\n---\n";
    let made = apply(format!("{head}{two}{head}{one}").as_bytes()).unwrap_or_else(|error| panic!("{}", told(&error)));
    let names: Vec<String> = made.keys().map(|path| path.display().to_string()).collect();
    assert!(["file", "x", "y"].iter().all(|name| names.iter().any(|path| path == name)), "{names:?}");
    // One after the other, as files of their own.
    git(home.path(), &["format-patch", "-q", "-o", "out", "main..work"]);
    let tree = tree_of(home.path(), "main");
    let mut files: Vec<_> = fs::read_dir(home.path().join("out")).expect("patches").flatten().collect();
    files.sort_by_key(fs::DirEntry::file_name);
    assert_eq!(files.len(), 4);
    for file in files {
        patch::apply(&patch_of("one.patch", &fs::read(file.path()).expect("a patch")), tree.path()).expect("applied");
    }
    assert_eq!(picture(tree.path()), expected);
    // The error names the mail.
    let wrong = String::from_utf8_lossy(&whole).replace("\n-line 20\n", "\n-line XX\n");
    let error = apply(wrong.as_bytes()).expect_err("no such line");
    assert!(matches!(error, PatchError::Hunk { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.starts_with("series.patch (mail 2 of 4, \"[PATCH 2/4] rename and edit\") does not apply to `file`"),
        "{text}"
    );
    // Text alone is not a series.
    let empty = "From 1111111111111111111111111111111111111111 Mon Sep 17 00:00:00 2001\nSubject: x\n\nwords\n";
    let error = apply(empty.repeat(2).as_bytes()).expect_err("no patch");
    assert!(matches!(error, PatchError::Malformed { .. }), "{error:?}");
}

#[test]
fn a_series_has_the_limits_of_one_patch() {
    let home = tempfile::tempdir().expect("a folder");
    // Sparse: a large file costs nothing until it is copied into memory.
    let large = fs::File::create(home.path().join("a0")).expect("a file");
    large.set_len(300 << 20).expect("a size");
    let mail = |n: u32| {
        let m = n + 1;
        let rename = format!("similarity index 100%\nrename from a{n}\nrename to a{m}\n");
        format!("From {:040} Mon Sep 17 00:00:00 2001\nSubject: {n}\n\n---\ndiff --git a/a{n} b/a{m}\n{rename}", n)
    };
    let series: String = (0..20).map(mail).collect();
    let error = patch::apply(&patch_of("x.patch", series.as_bytes()), home.path()).expect_err("too much");
    assert!(matches!(error, PatchError::TooMuch { .. }), "{error}");
}

#[test]
fn errors_in_mails() {
    let home = tempfile::tempdir().expect("a folder");
    let fresh = || {
        fs::write(home.path().join("t.txt"), "one\ntwo\n").expect("a file");
        fs::write(home.path().join("crlf"), "one\r\ntwo\r\n").expect("a file");
    };
    let hunk = "@@ -1,2 +1,2 @@\n one\n-two\n+2\n";
    let diff = |file: &str| format!("--- a/{file}\n+++ b/{file}\n{hunk}");
    for (text, error, hint) in [
        (
            format!("--- t.txt\n+++ t.txt\n{hunk}"),
            "x.patch names `t.txt`, and its paths need the form `a/t.txt`",
            "without --no-prefix",
        ),
        (diff("t.txt").replace('\n', "\r\n"), "x.patch does not apply to `t.txt`", "its lines end in CRLF"),
        (diff("crlf"), "x.patch does not apply to `crlf`", "the lines of the file end in CRLF"),
        // Words that look like a header.
        (format!("--- words\n{}", diff("t.txt")), "x.patch is not a patch that smidr can read", "git format-patch -1"),
        (format!("{}--- words\n+++ more\n", diff("t.txt")), "x.patch names `words`", "git format-patch -1"),
        (diff("t.txt").replace("-two", "-tow"), "x.patch does not apply to `t.txt`", "make it anew"),
    ] {
        fresh();
        let found = patch::apply(&patch_of("x.patch", text.as_bytes()), home.path()).expect_err(&text);
        assert!(found.to_string().starts_with(error), "{found}");
        assert!(found.hint().unwrap_or_default().contains(hint), "{:?}", found.hint());
    }
}
