//! The rules of `src/ARCHITECTURE.md`, checked in the sources: imports between modules, and constructs allowed only in some files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::visit::{self, Visit};

use super::support::skip;

/// Below it stands nothing; `cli` may use all.
const TABLE: [(&str, &str); 26] = [
    ("model", ""),
    ("events", "model"),
    ("system", "model"),
    ("config", "model"),
    ("kas", "model config"),
    ("bitbake_setup", "model kas"),
    ("repo_manifest", "model"),
    ("lock", "model config"),
    ("plan", "model config lock"),
    ("diagnose", "model"),
    ("settings", "model system config"),
    ("artifacts", "model events system config lock plan"),
    ("bitbake", "model events system config lock plan diagnose"),
    ("image", "model events system config lock plan"),
    ("layers", "model events system config lock plan"),
    ("sandbox", "model events system config lock plan"),
    ("project", "model system config kas bitbake_setup lock plan settings layers"),
    ("recipes", "model events system config lock plan image sandbox"),
    ("queue", "model system"),
    (
        "engine",
        "model events system config lock plan diagnose settings project queue artifacts bitbake image layers sandbox recipes",
    ),
    ("history", "model events system"),
    ("worker", "model events system lock plan diagnose project engine history queue"),
    ("executors", "model system"),
    ("service", "model events system settings engine history worker executors"),
    (
        "daemon",
        "model events system config settings plan project artifacts engine queue history worker executors service",
    ),
    ("rpc", "model events system config layers engine history worker executors service daemon"),
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

const PURE: [&str; 8] = ["model", "config", "kas", "bitbake_setup", "repo_manifest", "lock", "plan", "diagnose"];

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

    /// Where it stands in the tree of modules: `[engine, drive]` for `src/engine/drive.rs`.
    fn place(&self) -> Vec<String> {
        let inside = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let mut place: Vec<String> = inside.split('/').map(String::from).collect();
        place.pop_if(|last| ["mod", "lib", "main"].contains(&last.as_str()));
        place
    }

    /// Items of this crate that it names, from the crate's root. What only its tests name does not count.
    fn imports(&self) -> Result<Vec<Vec<String>>, String> {
        let file = syn::parse_file(&self.text).map_err(|error| format!("{}: {error}", self.path))?;
        let mut named = Named::default();
        named.visit_file(&file);
        let place = self.place();
        let whole = |path: Vec<String>| {
            let supers = path.iter().take_while(|word| *word == "super").count();
            let start = match path.first().map(String::as_str) {
                Some("crate") => &[],
                Some("super") => place.get(..place.len().checked_sub(supers)?)?,
                _ => place.as_slice(),
            };
            let rest = path.into_iter().skip_while(|word| ["crate", "self", "super"].contains(&word.as_str()));
            Some(start.iter().cloned().chain(rest).collect())
        };
        Ok(named.paths.into_iter().filter_map(whole).collect())
    }
}

/// Paths as they are written, outside of tests.
#[derive(Default)]
struct Named {
    paths: Vec<Vec<String>>,
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    let is_test = |attribute: &syn::Attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|word| word == "test")
    };
    attributes.iter().any(is_test)
}

impl Named {
    fn take(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |word: &syn::Ident| -> Vec<String> { before.iter().cloned().chain([word.to_string()]).collect() };
        match tree {
            syn::UseTree::Path(path) => self.take(&with(&path.ident), &path.tree),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.take(before, tree)),
            syn::UseTree::Name(name) => self.paths.push(with(&name.ident)),
            syn::UseTree::Rename(name) => self.paths.push(with(&name.ident)),
            syn::UseTree::Glob(_) => self.paths.push(before.to_vec()),
        }
    }
}

impl<'a> Visit<'a> for Named {
    fn visit_item_mod(&mut self, module: &'a syn::ItemMod) {
        if !is_for_tests(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        if !is_for_tests(&item.attrs) {
            self.take(&[], &item.tree);
        }
    }

    // Who may see an item imports nothing.
    fn visit_visibility(&mut self, _: &'a syn::Visibility) {}

    fn visit_path(&mut self, path: &'a syn::Path) {
        let words: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if words.len() > 1 {
            self.paths.push(words);
        }
        visit::visit_path(self, path);
    }
}

/// Files that import each other, directly or by way of others, and are not all in one folder. The root of a module (`mod.rs`) is in its
/// own folder and in that of its parent.
fn circles(sources: &[Source]) -> Vec<String> {
    let places: BTreeMap<Vec<String>, &Source> = sources.iter().map(|source| (source.place(), source)).collect();
    let file_of = |path: &[String]| (1..=path.len()).rev().find_map(|length| places.get(path.get(..length)?).copied());
    let imports = |source: &Source| -> BTreeSet<Vec<String>> {
        let named = source.imports().unwrap_or_default();
        named.iter().filter_map(|path| Some(file_of(path)?.place())).collect()
    };
    let edges: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> =
        places.iter().map(|(place, source)| (place.clone(), imports(source))).collect();
    let reached = |from: &Vec<String>| {
        let (mut seen, mut todo) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(place) = todo.pop() {
            for next in edges.get(&place).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    todo.push(next.clone());
                }
            }
        }
        seen
    };
    let all: BTreeMap<&Vec<String>, BTreeSet<Vec<String>>> =
        places.keys().map(|place| (place, reached(place))).collect();
    let mut found = BTreeSet::new();
    for (place, reach) in &all {
        let circle: BTreeSet<&Vec<String>> =
            reach.iter().filter(|other| all.get(other).is_some_and(|back| back.contains(*place))).collect();
        let is_in = |folder: &[String], file: &Vec<String>| {
            file == folder || file.split_last().is_some_and(|(_, up)| up == folder)
        };
        let folders = [place.as_slice(), place.get(..place.len().saturating_sub(1)).unwrap_or_default()];
        if circle.len() > 1 && !folders.iter().any(|folder| circle.iter().all(|file| is_in(folder, file))) {
            let names: Vec<String> = circle.iter().map(|file| file.join("::")).collect();
            found.insert(names.join(", "));
        }
    }
    found.into_iter().map(|names| format!("files of different folders import each other: {names}")).collect()
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
    if module != "history" && !source.path.starts_with("src/daemon/ledger/") {
        forbid(&["rusqlite", "SELECT ", "INSERT INTO", "CREATE TABLE"], "only history and the daemon's ledger say SQL");
    }
    if module != "cli" {
        forbid(&["println!", "print!(", "anstream::", "io::stdout()"], "only cli prints");
    }
    if module == "cli" && source.path != "src/cli/output.rs" {
        let ways = ["anstream::", "stdout().lock()", "stderr().lock()", "print!(", "println!(", ".print()"];
        forbid(&ways, "only cli::output prints, and only what model::Shown lets through");
    }
    forbid(&[".unwrap()", "todo!", "dbg!"], "not in this house");
    if PURE.contains(&module) {
        forbid(&IMPURE, "this module is pure");
    }
    if let Some((_, allowed)) = TABLE.iter().find(|(name, _)| *name == module) {
        let known = |name: &&String| *name == "cli" || TABLE.iter().any(|(known, _)| known == name);
        match source.imports() {
            Ok(paths) => {
                let imported: BTreeSet<&String> = paths.iter().filter_map(|path| path.first()).filter(known).collect();
                let wrong =
                    imported.iter().filter(|name| **name != module && !allowed.split(' ').any(|one| one == **name));
                broken.extend(wrong.map(|import| format!("{}: {module} must not know {import}", source.path)));
            }
            Err(error) => broken.push(error),
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
    let files = files(&root);
    let is_ours = |path: &str| path.starts_with("src/") && !path.starts_with("src/rpc/generated/");
    let sources = files.iter().filter(|(path, _)| path.ends_with(".rs") && is_ours(path));
    let sources: Vec<Source> =
        sources.map(|(path, content)| Source::new(path, &String::from_utf8_lossy(content))).collect();
    assert!(sources.len() > 50, "only {} sources found", sources.len());
    let all: Vec<String> = sources.iter().flat_map(broken).chain(circles(&sources)).collect();
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
        ("src/service/x.rs", "//! x\nlet q = \"SELECT 1\";", "say SQL"),
        ("src/image/x/y.rs", "//! x\nuse super::super::super::sandbox::Exit;", "image must not know sandbox"),
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
fn circles_between_folders_are_found() {
    let found = |files: &[(&str, &str)]| {
        let source = |(path, text): &(&str, &str)| Source::new(path, text);
        circles(&files.iter().map(source).collect::<Vec<_>>()).len()
    };
    let root = ("src/a/mod.rs", "mod b;\nuse b::B;\nuse c::{C, D};");
    let beside = ("src/a/b.rs", "use super::c::C;\nuse crate::a::A;");
    assert_eq!(found(&[root, beside, ("src/a/c/mod.rs", "mod d;\nuse d::D;"), ("src/a/c/d.rs", "use super::C;")]), 0);
    assert_eq!(
        found(&[root, beside, ("src/a/c/mod.rs", "mod d;\nuse d::D;"), ("src/a/c/d.rs", "use crate::a::b::B;")]),
        1
    );
    assert_eq!(found(&[("src/a/x.rs", "use crate::b::B;"), ("src/b/mod.rs", "fn f() { super::a::x::f() }")]), 1);
    let in_tests = "#[cfg(test)]\nmod tests {\n    use crate::a::f;\n}";
    assert_eq!(found(&[("src/a/mod.rs", "use crate::b::B;"), ("src/b/mod.rs", in_tests)]), 0);
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
