//! The rules of `src/ARCHITECTURE.md`, checked in the sources: imports between modules, and constructs allowed only in some files.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::support::skip;

/// Below it stands nothing; `cli` may use all.
const TABLE: [(&str, &str); 19] = [
    ("model", ""),
    ("events", "model"),
    ("system", "model"),
    ("config", "model"),
    ("lock", "model config"),
    ("plan", "model config lock"),
    ("settings", "model system config"),
    ("project", "model system config lock plan settings"),
    ("artifacts", "model events system config lock plan"),
    ("bitbake", "model events system config lock plan"),
    ("image", "model events system config lock plan"),
    ("layers", "model events system config lock plan"),
    ("sandbox", "model events system config lock plan"),
    ("queue", "model system"),
    ("engine", "model events system config lock plan settings project queue artifacts bitbake image layers sandbox"),
    ("history", "model events system"),
    ("worker", "model events system plan project engine history queue"),
    ("executors", "model system"),
    ("service", "model events system settings engine history worker executors"),
];

/// What no pure module may touch: files, network, environment, processes, the clock.
const IMPURE: [&str; 10] = [
    "fs::",
    "std::net",
    "env::",
    "std::process",
    "Command::new",
    "Instant::now",
    "SystemTime",
    "Timestamp::now",
    "async fn",
    "File::open",
];

const PURE: [&str; 4] = ["model", "config", "lock", "plan"];

/// A source file: its path below the repository, and its lines of code.
struct Source {
    path: String,
    text: String,
    /// Without comments, and without the tests at its end.
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        let before_tests = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let code: Vec<&str> = before_tests.lines().filter(is_code).collect();
        Self { path: path.into(), text: text.into(), code: code.join("\n") }
    }

    /// `engine` for `src/engine/drive.rs`; none for `main.rs` and `lib.rs`.
    fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let first = inside.split('/').next()?.trim_end_matches(".rs");
        (!["main", "lib"].contains(&first)).then_some(first)
    }

    /// Modules that it names after `crate::`, in lists too.
    fn imports(&self) -> Vec<String> {
        let mut found = Vec::new();
        for rest in self.code.split("crate::").skip(1) {
            match rest.strip_prefix('{') {
                Some(list) => found.extend(heads(list)),
                None => found.push(word(rest)),
            }
        }
        found.retain(|name| TABLE.iter().any(|(known, _)| known == name) || name == "cli");
        found
    }
}

/// The first words of the entries of a `{…}` list, of which the opening brace has been read.
fn heads(list: &str) -> Vec<String> {
    let (mut depth, mut expects, mut found) = (1, true, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => expects = true,
            c if expects && c.is_alphabetic() => {
                found.push(word(&list[at..]));
                expects = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Every rule that a file breaks.
fn broken(source: &Source) -> Vec<String> {
    let mut broken = Vec::new();
    let mut forbid = |patterns: &[&str], why: &str| {
        for pattern in patterns.iter().filter(|pattern| source.code.contains(**pattern)) {
            broken.push(format!("{}: `{pattern}`: {why}", source.path));
        }
    };
    let module = source.module().unwrap_or_default();
    if source.path != "src/sandbox/sys.rs" {
        forbid(&["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"], "unsafe stands in sandbox::sys only");
    }
    if module != "cli" && source.path != "src/system/paths.rs" {
        forbid(&["env::var", "env::vars"], "only cli and system::paths read the environment");
    }
    if module != "history" {
        forbid(&["rusqlite", "SELECT ", "INSERT INTO", "CREATE TABLE"], "only history says SQL");
    }
    if module != "cli" {
        forbid(&["println!", "print!(", "anstream::", "io::stdout()"], "only cli prints");
    }
    if module == "cli" && source.path != "src/cli/output.rs" {
        let ways =
            ["anstream::", "stdout().lock()", "stderr().lock()", "print!(", "println!(", "indicatif", ".print()"];
        forbid(&ways, "only cli::output prints, and only what model::Shown lets through");
    }
    forbid(&[".unwrap()", "todo!", "dbg!"], "not in this house");
    if PURE.contains(&module) {
        forbid(&IMPURE, "this module is pure");
    }
    if let Some((_, allowed)) = TABLE.iter().find(|(name, _)| *name == module) {
        for import in source.imports() {
            if import != module && !allowed.split(' ').any(|name| name == import) {
                broken.push(format!("{}: {module} must not know {import}", source.path));
            }
        }
    } else if module != "cli" && !module.is_empty() {
        broken.push(format!("{}: the import table does not know {module}", source.path));
    }
    if !source.text.starts_with("//!") && !source.text.starts_with("#![doc") {
        broken.push(format!("{}: does not open with `//!`", source.path));
    }
    let lines = source.text.lines().count();
    if lines > 700 {
        broken.push(format!("{}: has {lines} lines", source.path));
    }
    broken
}

/// The repository; none where this user, or this machine, does not have it.
fn repository(test: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if fs::read_dir(root.join("src")).is_ok() {
        return Some(root.into());
    }
    skip(test, "the source tree cannot be read");
    None
}

/// Every file of the repository that belongs to it, by its path in it.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let foreign = |path: &Path| {
        let name = path.file_name().unwrap_or_default();
        name == ".git" || path == root.join("target")
    };
    let tree = walkdir::WalkDir::new(root).into_iter().filter_entry(|entry| !foreign(entry.path()));
    tree.map(|entry| entry.expect("an entry of the source tree"))
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| {
            let path = entry.path().strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
            (path, fs::read(entry.path()).expect("a source file"))
        })
        .collect()
}

#[test]
fn sources_keep_the_rules() {
    let Some(root) = repository("house::sources_keep_the_rules") else { return };
    let mut seen = 0;
    let mut all = Vec::new();
    for (path, content) in files(&root) {
        if path.ends_with(".rs") && path.starts_with("src/") {
            seen += 1;
            all.extend(broken(&Source::new(&path, &String::from_utf8_lossy(&content))));
        }
    }
    assert!(seen > 50, "only {seen} sources found");
    assert!(all.is_empty(), "{}", all.join("\n"));
}

/// A checker that finds nothing anywhere proves nothing.
#[test]
fn every_test_file_is_in_all_rs() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let Ok(list) = fs::read_to_string(tests.join("all.rs")) else {
        return skip("house::every_test_file_is_in_all_rs", "the source tree cannot be read");
    };
    for entry in fs::read_dir(tests.join("all")).expect("tests").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(!name.ends_with(".rs") || list.contains(&format!("all/{name}\"")), "tests/all.rs does not know {name}");
    }
}

#[test]
fn the_checker_can_fail() {
    let rows = [
        ("src/model/x.rs", "//! x\nuse crate::events::Emitter;", "model must not know events"),
        (
            "src/image/x.rs",
            "//! x\nuse crate::{\n    system::files,\n    sandbox::{self, Exit},\n};",
            "image must not know sandbox",
        ),
        ("src/plan/x.rs", "//! x\nfn f() { crate::system::paths::find() }", "plan must not know system"),
        ("src/history/x.rs", "//! x\nuse crate::{events::E, service::S};", "history must not know service"),
        ("src/service/x.rs", "//! x\nuse crate::cli;", "service must not know cli"),
        ("src/novelty/x.rs", "//! x\n", "does not know novelty"),
        ("src/sandbox/init.rs", "//! x\nfn f() { unsafe { g() } }", "unsafe stands in"),
        ("src/engine/x.rs", "//! x\nlet a = std::env::var(\"A\");", "read the environment"),
        ("src/service/x.rs", "//! x\nlet q = \"SELECT 1\";", "says SQL"),
        ("src/engine/x.rs", "//! x\nprintln!(\"a\");", "only cli prints"),
        ("src/config/x.rs", "//! x\nlet a = std::fs::read(\"a\");", "is pure"),
        ("src/cli/x.rs", "//! x\nanstream::println!(\"a\");", "only cli::output prints"),
        ("src/cli/x.rs", "fn f() {}", "does not open with"),
        ("src/cli/x.rs", "//! x\nlet a = b.unwrap();", "not in this house"),
    ];
    for (path, text, expected) in rows {
        let found = broken(&Source::new(path, text));
        assert!(found.iter().any(|line| line.contains(expected)), "{path}: `{expected}` is not in {found:?}");
    }
    let tested = "//! x\n#[cfg(test)]\nmod t;\nuse crate::cli;\n#[cfg(test)]\nmod tests {\n    println!(\"x\");\n}";
    assert_eq!(broken(&Source::new("src/events/x.rs", tested)), ["src/events/x.rs: events must not know cli"]);
    let long = format!("//! x\n{}", "\n".repeat(701));
    assert!(!broken(&Source::new("src/cli/x.rs", &long)).is_empty());
    let good = "//! x\n// unsafe { } and crate::cli in a comment\nuse crate::{system::{files, rooted}, model::Digest};";
    assert_eq!(broken(&Source::new("src/image/x.rs", good)), Vec::<String>::new());
}

#[test]
fn the_tree_names_no_registry_and_no_machine() {
    let Some(root) = repository("house::the_tree_names_no_registry_and_no_machine") else { return };
    // In pieces, or this file would name them.
    let mut forbidden: Vec<String> = [
        ["pypi", ".org"],
        ["pythonhosted", ".org"],
        ["static.crates", ".io"],
        ["index.crates", ".io"],
        ["npmjs", ".org"],
    ]
    .map(|parts| parts.concat())
    .into();
    forbidden.extend([["/ro", "ot/.cargo"], ["/wo", "rk/main"]].map(|parts| parts.concat()));
    forbidden.push(root.display().to_string());
    let check = |path: &str, text: &str| -> Vec<String> {
        let found = forbidden.iter().filter(|pattern| text.contains(pattern.as_str()));
        found.map(|pattern| format!("{path}: {pattern}")).collect()
    };
    assert_eq!(check("sample", &forbidden.join(" ")).len(), forbidden.len(), "the checker can fail");
    let found: Vec<String> =
        files(&root).iter().flat_map(|(path, content)| check(path, &String::from_utf8_lossy(content))).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn gpl_files_are_apart_with_their_licence() {
    let Some(root) = repository("house::gpl_files_are_apart_with_their_licence") else { return };
    let own_folders = ["src/bitbake/ui/", "rootfs-recipes/bitbake-engine/"];
    let header = ["SPDX-License-Identifier: ", "GPL-2.0-only"].concat();
    let files = files(&root);
    for folder in own_folders {
        let licence = files.get(&format!("{folder}LICENSE")).expect("a licence in the folder");
        assert!(String::from_utf8_lossy(licence).contains("GNU GENERAL PUBLIC LICENSE"), "{folder}LICENSE");
    }
    let imports =
        |text: &str| text.lines().any(|line| ["import bb", "from bb"].iter().any(|start| line.starts_with(start)));
    assert!(imports("import bb.server"), "the checker can fail");
    let mut apart = 0;
    for (path, content) in &files {
        let text = String::from_utf8_lossy(content);
        let is_apart = own_folders.iter().any(|folder| path.starts_with(folder));
        apart += u32::from(is_apart && text.contains(&header));
        assert!(is_apart || !text.contains(&header) && !imports(&text), "{path} is GPL outside of its folders");
        assert!(!is_apart || !imports(&text) || text.contains(&header), "{path} does not say its licence");
    }
    assert!(apart >= 5, "only {apart} files say that they are under the GPL");
}
