//! Patches on top of a tree: the same result as `git apply`, and nothing outside.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use smidr::model::UserError as _;
use smidr::{
    layers::patch::{self, PatchError},
    plan::{PlannedGit, PlannedPatch},
};

use super::{
    checkout_fixture::{git, patch as patch_of, picture, told, try_git},
    support::{HintText as _, has, skip},
};

fn no_git(test: &str) -> bool {
    let missing = !has("git");
    if missing {
        skip(test, "no git here to compare with");
    }
    missing
}

/// A tree, and an exact copy of it.
struct Twins {
    _home: tempfile::TempDir,
    ours: PathBuf,
    gits: PathBuf,
}

impl Twins {
    fn new(make: impl Fn(&Path)) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let [ours, gits] = ["ours", "gits"].map(|name| home.path().join(name));
        for folder in [&ours, &gits] {
            fs::create_dir(folder).expect("a folder");
            make(folder);
        }
        Self { _home: home, ours, gits }
    }

    /// Whether both took it, and then made the same of it.
    fn apply(&self, text: &[u8]) -> Result<(), (String, String)> {
        let ours = patch::apply(&patch_of("x.patch", text), &self.ours);
        let git = try_git(&self.gits, &["apply", "--whitespace=nowarn", "-"], text);
        let said = String::from_utf8_lossy(&git.stderr).into_owned();
        let shown = String::from_utf8_lossy(text);
        match ours {
            Ok(()) => {
                assert!(git.status.success(), "git refuses what we take: {said}\n{shown}");
                let plain = |folder: &Path| {
                    let mut all = picture(folder);
                    all.values_mut().for_each(|(mode, _)| *mode &= 0o170_100);
                    all
                };
                assert_eq!(plain(&self.ours), plain(&self.gits), "{shown}");
                Ok(())
            }
            Err(error) => {
                assert!(!git.status.success(), "we refuse what git takes: {}\n{shown}", told(&error));
                Err((told(&error), said))
            }
        }
    }
}

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("below")).expect("folders");
    fs::write(path, content).expect("a file");
}

fn numbers(to: usize) -> String {
    (1..=to).map(|n| format!("line {n}\n")).collect()
}

/// git's diff between two trees.
fn diff(before: impl Fn(&Path), after: impl Fn(&Path), arguments: &[&str]) -> Vec<u8> {
    let home = tempfile::tempdir().expect("a folder");
    git(home.path(), &["init", "-q", "."]);
    before(home.path());
    git(home.path(), &["add", "-A"]);
    git(home.path(), &["commit", "-q", "--allow-empty", "-m", "before"]);
    after(home.path());
    git(home.path(), &["add", "-A"]);
    git(home.path(), &["commit", "-q", "--allow-empty", "-m", "after"]);
    let output = try_git(home.path(), arguments, b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn before(folder: &Path) {
    write(folder, "long", numbers(60));
    write(folder, "d/e/only", "only\n");
    write(folder, "gone", "gone\n");
    write(folder, "empty", "");
    write(folder, "moves", numbers(30));
    write(folder, "no-end", "a\nb");
    write(folder, "mode", "#!/bin/sh\n");
    write(folder, "crlf", "a\r\nb\r\nc\r\n");
    write(folder, "sp ace\ttab", "x\n");
    write(folder, "caf\u{e9}", "x\n");
    write(folder, "swap-a", format!("a\n{}", numbers(20)));
    write(folder, "swap-b", format!("b\n{}", numbers(40)));
    symlink("long", folder.join("link")).expect("a link");
    symlink("long", folder.join("turns")).expect("a link");
}

fn after(folder: &Path) {
    let text = numbers(60).replace("line 3\n", "").replace("line 30\n", "LINE 30\nmore\n").replace("line 58\n", "x\n");
    write(folder, "long", text);
    for name in ["d/e/only", "gone", "empty", "moves", "link", "turns", "swap-a", "swap-b"] {
        fs::remove_file(folder.join(name)).expect("there");
    }
    write(folder, "new/in/new", "new\n");
    write(folder, "new-empty", "");
    write(folder, "moved/here", numbers(30).replace("line 15\n", "LINE 15\n"));
    write(folder, "no-end", "a\nb\nc");
    fs::set_permissions(folder.join("mode"), fs::Permissions::from_mode(0o755)).expect("a mode");
    write(folder, "crlf", "a\r\nB\r\nc\r\n");
    write(folder, "sp ace\ttab", "y\n");
    write(folder, "caf\u{e9}", "y\n");
    write(folder, "swap-b", format!("a\n{}", numbers(20)));
    write(folder, "swap-a", format!("b\n{}", numbers(40)));
    symlink("d/x", folder.join("link")).expect("a link");
    write(folder, "turns", "a file\n");
}

#[test]
fn every_form_of_git_diff_is_applied() {
    if no_git("patches::every_form_of_git_diff_is_applied") {
        return;
    }
    for arguments in [
        &["format-patch", "--stdout", "-1"][..],
        &["format-patch", "--stdout", "-1", "-M", "-C", "--find-copies-harder", "-B"],
        &["format-patch", "--stdout", "-1", "--no-renames"],
        &["diff", "HEAD~", "HEAD"],
        &["diff", "-M", "-U1", "HEAD~", "HEAD"],
        &["diff", "-M", "-U10", "--full-index", "HEAD~", "HEAD"],
    ] {
        let text = diff(before, after, arguments);
        Twins::new(before).apply(&text).unwrap_or_else(|refused| panic!("{arguments:?}: {refused:?}"));
    }
}

#[test]
fn diff_lines_in_a_message_are_applied() {
    if no_git("patches::diff_lines_in_a_message_are_applied") {
        return;
    }
    let old = |folder: &Path| write(folder, "f", "one\n");
    let text = diff(old, |folder| write(folder, "f", "two\n"), &["format-patch", "--stdout", "-1"]);
    let text = String::from_utf8(text).expect("text");
    let with = |message: &str| text.replace("[PATCH] after\n", &format!("[PATCH] after\n\n{message}\n"));
    let home = tempfile::tempdir().expect("a folder");
    let apply = |text: &str| {
        old(home.path());
        patch::apply(&patch_of("x.patch", text.as_bytes()), home.path())
    };
    // `git am` refuses this ambiguous text, too.
    apply(&with("diff --git a/f b/f\n--- a/f\n@@ -1 +1 @@\n-x")).expect_err("half a patch");
    apply(&with("--- no file\n nor this")).expect("words");
    assert_eq!(fs::read_to_string(home.path().join("f")).expect("a file"), "two\n");
}

#[test]
fn hunks_apply_only_at_a_matching_place() {
    if no_git("patches::hunks_apply_only_at_a_matching_place") {
        return;
    }
    let make = |folder: &Path| {
        write(folder, "f", format!("{}same\nsame\nsame\nend\n", numbers(20)));
        write(folder, "e", "");
        write(folder, "x", "tail");
    };
    let head = "--- a/f\n+++ b/f\n";
    for (body, taken) in [
        ("@@ -5,3 +5,3 @@\n line 5\n-line 6\n+six\n line 7\n", true),
        ("@@ -9,3 +9,3 @@\n line 5\n-line 6\n+six\n line 7\n", true),
        ("@@ -2,3 +2,3 @@\n line 15\n-line 16\n+six\n line 17\n", true),
        ("@@ -500,3 +500,3 @@\n line 15\n-line 16\n+six\n line 17\n", true),
        ("@@ -5,3 +5,3 @@\n line 5\n-line 6 \n+six\n line 7\n", false),
        ("@@ -5,3 +5,3 @@\n line 4\n-line 6\n+six\n line 7\n", false),
        // With the beginning of the file, or its end.
        ("@@ -1,2 +1,3 @@\n+zero\n line 1\n line 2\n", true),
        ("@@ -1,2 +1,3 @@\n+zero\n line 2\n line 3\n", false),
        ("@@ -22,2 +22,3 @@\n same\n end\n+more\n", true),
        ("@@ -19,2 +19,3 @@\n line 19\n line 20\n+more\n", false),
        // Two places: the nearer one, then further down.
        ("@@ -22,2 +22,3 @@\n same\n+x\n same\n", true),
        ("@@ -20,2 +20,3 @@\n same\n+x\n same\n", true),
        // Never the same lines twice.
        (
            "@@ -5,3 +5,3 @@\n line 5\n-line 6\n+line 6\n line 7\n@@ -8,2 +8,2 @@\n line 6\n-line 7\n+x\n line 8\n",
            false,
        ),
        ("@@ -5,3 +5,4 @@\n line 5\n line 6\n+n\n line 7\n@@ -10,3 +11,2 @@\n line 10\n-line 11\n line 12\n", true),
    ] {
        let answer = Twins::new(make).apply(format!("{head}{body}").as_bytes());
        assert_eq!(answer.is_ok(), taken, "{body}{answer:?}");
        if let Err((ours, _)) = answer {
            assert!(ours.starts_with("x.patch does not apply to `f`: its lines are not there, at @@ -"), "{ours}");
        }
    }
    for (text, taken) in [
        ("--- a/e\n+++ b/e\n@@ -0,0 +1 @@\n+x\n", true),
        ("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-tail\n\\ No newline at end of file\n+tail\n", true),
        ("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-tail\n+tail\n\\ No newline at end of file\n", false),
        ("--- a/f.orig\t2026-01-01\n+++ b/f\t2026-01-02\n@@ -1,2 +1,3 @@\n+zero\n line 1\n line 2\n", true),
        ("--- a/f\n+++ b/f~\n@@ -1,2 +1,3 @@\n+zero\n line 1\n line 2\n", true),
        ("--- /dev/null\n+++ b/n/n\n@@ -0,0 +1 @@\n+x\n", true),
        ("--- /dev/null\n+++ b/f\n@@ -0,0 +1 @@\n+x\n", false),
        ("--- a/x\n+++ /dev/null\n@@ -1 +0,0 @@\n-tail\n\\ No newline at end of file\n", true),
        ("--- a/none\n+++ b/none\n@@ -1 +1 @@\n-x\n+y\n", false),
        ("diff --git a/x b/x\ndeleted file mode 100644\n", false),
        ("diff --git a/e b/e\ndeleted file mode 100644\nindex e69de29..0000000\n", true),
        (
            "--- a/f\n+++ b/f\n@@ -1,2 +1,3 @@\n+zero\n line 1\n line 2\nwords\n@@ -7,2 +8,3 @@\n line 7\n+x\n line 8\n",
            false,
        ),
        ("nothing of the kind\n", false),
    ] {
        let answer = Twins::new(make).apply(text.as_bytes());
        assert_eq!(answer.is_ok(), taken, "{text}{answer:?}");
    }
}

#[test]
fn a_patch_without_context_is_refused() {
    // git would put this at the end of the file.
    let home = tempfile::tempdir().expect("a folder");
    write(home.path(), "f", numbers(9));
    let text = b"--- a/f\n+++ b/f\n@@ -3,0 +4 @@\n+somewhere\n";
    let error = patch::apply(&patch_of("u0.patch", text), home.path()).expect_err("anywhere");
    assert!(matches!(&error, PatchError::Hunk { hunk, .. } if hunk == "@@ -3,0 +4,1 @@"), "{error}");
    assert_eq!(fs::read_to_string(home.path().join("f")).expect("a file"), numbers(9));
}

#[test]
fn hostile_patches_write_nothing_outside() {
    let home = tempfile::tempdir().expect("a folder");
    let (tree, victim) = (home.path().join("tree"), home.path().join("victim"));
    for folder in [&tree, &victim] {
        fs::create_dir(folder).expect("a folder");
    }
    write(&victim, "file", "victim\n");
    write(&tree, "file", "file\n");
    write(&tree, ".git/config", "config\n");
    symlink("../victim", tree.join("out")).expect("a link");
    symlink("../victim/file", tree.join("leaf")).expect("a link");
    symlink(".git", tree.join("in")).expect("a link");
    let create = |path: &str| format!("--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+evil\n");
    let modify = |path: &str, old: &str| format!("--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-{old}\n+evil\n");
    let rename = |from: &str, to: &str| {
        format!("diff --git a/{from} b/{to}\nsimilarity index 100%\nrename from {from}\nrename to {to}\n")
    };
    let mut patches: Vec<String> = [
        "../victim/new",
        "/etc/new",
        "a/../../victim/new",
        "./new",
        "a//new",
        "out/new",
        "in/new",
        ".git/new",
        "a/.GIT/new",
        "git~1/new",
        ".git",
        "leaf/new",
        "file/new",
        "",
    ]
    .iter()
    .map(|path| create(path))
    .collect();
    patches.extend([
        modify("../victim/file", "victim"),
        modify("out/file", "victim"),
        modify("leaf", "victim"),
        modify(".git/config", "config"),
        modify("in/config", "config"),
        rename("file", "../victim/new"),
        rename("file", "out/new"),
        rename("../victim/file", "here"),
        rename("out/file", "here"),
        rename("file", ".git/hooks/post-checkout").replace("rename", "copy"),
        "diff --git a/.gitmodules b/.gitmodules\nnew file mode 120000\n--- /dev/null\n+++ b/.gitmodules\n@@ -0,0 +1 @@\n+x\n".into(),
        "diff --git a/sub b/sub\nnew file mode 160000\n--- /dev/null\n+++ b/sub\n@@ -0,0 +1 @@\n+Subproject commit 0\n".into(),
        // A link, and then something behind it, in one patch.
        "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+../victim\n\\ No newline at end of file\ndiff --git a/l/new b/l/new\nnew file mode 100644\n--- /dev/null\n+++ b/l/new\n@@ -0,0 +1 @@\n+evil\n".into(),
    ]);
    let before = picture(&victim);
    for text in patches {
        let error = patch::apply(&patch_of("evil.patch", text.as_bytes()), &tree).expect_err(&text);
        assert_eq!(error.kind().exit_code(), 2, "{text}{}", told(&error));
        assert_eq!(picture(&victim), before, "{text}");
        assert_eq!(fs::read_dir(tree.join(".git")).expect("a folder").count(), 1, "{text}");
        let _ = fs::remove_file(tree.join("l"));
    }
    assert_eq!(fs::read_to_string(tree.join(".git/config")).expect("a file"), "config\n");
}

#[test]
fn binary_patches_are_refused() {
    if no_git("patches::binary_patches_are_refused") {
        return;
    }
    let binary = |folder: &Path, byte: u8| {
        write(folder, "text", [b'a', byte, b'\n']);
        write(folder, "logo.png", [0, 1, 2, byte]);
    };
    for arguments in [&["diff", "--binary", "HEAD~", "HEAD"][..], &["diff", "HEAD~", "HEAD"]] {
        let text = diff(|folder| binary(folder, b'1'), |folder| binary(folder, b'2'), arguments);
        let home = tempfile::tempdir().expect("a folder");
        binary(home.path(), b'1');
        let error = patch::apply(&patch_of("x.patch", &text), home.path()).expect_err("binary");
        assert_eq!(
            error.to_string(),
            "x.patch changes the binary file `logo.png`, and only changes of text are applied"
        );
        assert!(error.hint().is_some_and(|hint| hint.contains("a layer of your own")), "{error}");
        assert_eq!(fs::read(home.path().join("text")).expect("a file"), b"a1\n", "nothing is changed");
    }
    // One that only moves has no content in the patch.
    let moved = diff(
        |folder| binary(folder, b'1'),
        |folder| fs::rename(folder.join("logo.png"), folder.join("moved.png")).expect("moved"),
        &["diff", "-M", "HEAD~", "HEAD"],
    );
    Twins::new(|folder| binary(folder, b'1')).apply(&moved).expect("it only moves");
}

#[test]
fn patches_are_read_with_their_digests() {
    let home = tempfile::tempdir().expect("a folder");
    write(home.path(), "one.patch", "one");
    let patch =
        |name: &str| PlannedPatch { file: home.path().join(name), written: format!("./{name}"), submitted: None };
    let mut wanted = PlannedGit {
        url: String::new(),
        mirrors: vec![],
        branch: None,
        tag: None,
        commit: None,
        patches: vec![patch("one.patch")],
        outside_links: false,
        submodules: smidr::plan::Submodules::All,
        without_branch: smidr::config::WithoutBranch::Fail,
        pinned: None,
    };
    let read = patch::read_patches(&wanted).expect("read");
    assert_eq!((read[0].lock.file.as_str(), read[0].text.as_slice()), ("./one.patch", &b"one"[..]));
    assert_eq!(read[0].lock.sha256.hex(), "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed");
    wanted.patches.push(patch("two.patch"));
    let error = patch::read_patches(&wanted).expect_err("missing");
    assert!(matches!(&error, PatchError::Missing { patch, .. } if patch == "./two.patch"), "{error}");
}

/// Numbers and sizes are untrusted.
#[test]
fn hostile_patches_end_in_bounded_time() {
    let home = tempfile::tempdir().expect("a folder");
    write(home.path(), "a", numbers(50));
    let far = "--- a/a\n+++ b/a\n@@ -20,3 +18446744073709551000,3 @@\n line 20\n-no such line\n+x\n line 22\n";
    let error = patch::apply(&patch_of("x.patch", far.as_bytes()), home.path()).expect_err("no such line");
    assert!(matches!(error, PatchError::Hunk { .. }), "{error}");
    // Sparse: a large file costs nothing until it is copied into memory.
    let large = fs::File::create(home.path().join("large")).expect("a file");
    large.set_len(300 << 20).expect("a size");
    let copies: String = (0..20)
        .map(|n| format!("diff --git a/large b/l{n}\nsimilarity index 100%\ncopy from large\ncopy to l{n}\n"))
        .collect();
    let error = patch::apply(&patch_of("x.patch", copies.as_bytes()), home.path()).expect_err("too much");
    assert!(matches!(error, PatchError::TooMuch { .. }), "{error}");
    assert!(!home.path().join("l0").exists());
}

fn text() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec("[abc]{0,2}", 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random diffs, applied to their original or to a changed tree.
    #[test]
    #[ignore = "takes long: scripts/test --slow"]
    fn generated_patches_apply_as_with_git(
        olds in proptest::collection::btree_map("[a-c](/[d-e])?", (text(), any::<bool>(), any::<bool>()), 1..4),
        news in proptest::collection::btree_map("[a-c](/[d-e])?", (text(), any::<bool>(), any::<bool>()), 1..4),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0..4_u8, "[abc]{0,2}"), 0..6),
        drift in proptest::collection::vec("[abc]{0,2}", 0..4),
        context in 1..4_u8,
    ) {
        if no_git("patches::generated_patches_apply_as_with_git") {
            return Ok(());
        }
        let put = |folder: &Path, name: &str, lines: &[String], run: bool, end: bool| {
            let mut text = lines.join("\n");
            if end && !text.is_empty() {
                text.push('\n');
            }
            // A name may be a folder's already.
            let path = folder.join(name);
            if fs::create_dir_all(path.parent().expect("below")).is_ok() && fs::write(&path, text).is_ok() {
                let mode = if run { 0o755 } else { 0o644 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
            }
        };
        let old = |folder: &Path| olds.iter().for_each(|(name, (lines, run, end))| put(folder, name, lines, *run, *end));
        let new = |folder: &Path| {
            for (name, (lines, run, end)) in &olds {
                let mut lines = lines.clone();
                for (at, what, line) in &edits {
                    if lines.is_empty() || *what == 0 {
                        lines.push(line.clone());
                    } else {
                        let at = at.index(lines.len());
                        match what {
                            1 => drop(lines.remove(at)),
                            2 => lines.insert(at, line.clone()),
                            _ => lines[at] = line.clone(),
                        }
                    }
                }
                put(folder, name, &lines, *run, *end);
            }
            for (name, (lines, run, end)) in &news {
                let _ = fs::remove_file(folder.join(name.split('/').next().expect("a part")));
                put(folder, name, lines, *run, *end);
            }
        };
        let unified = format!("-U{context}");
        let text = diff(old, new, &["diff", "-M", &unified, "HEAD~", "HEAD"]);
        if text.is_empty() {
            return Ok(());
        }
        let drifted = |folder: &Path| {
            for (name, (lines, run, end)) in &olds {
                let lines: Vec<String> = drift.iter().chain(lines).cloned().collect();
                put(folder, name, &lines, *run, *end);
            }
        };
        prop_assert!(Twins::new(old).apply(&text).is_ok());
        let _ = Twins::new(drifted).apply(&text);
    }
}
