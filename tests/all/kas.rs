//! kas projects: `tests/vectors/kas` holds small ones, with what kas 5.5 made of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use include_dir::{Dir, include_dir};

use super::support::{Done, World, hermetic};

static VECTORS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/tests/vectors");

/// Runs in which smidr differs on purpose, and what it says instead.
const DIFFER: [(&str, &str, &str); 5] = [
    ("11-conf-headers", "mixed-keys", "have no order"),
    ("12-refs", "short", "must be the whole id of a commit"),
    ("14-err-includes", "circular", "includes itself"),
    ("14-err-includes", "self", "includes itself"),
    ("10-env", "wrong-order", ""),
];

/// A run of a case: a project in a work folder of its own.
struct Run<'w> {
    world: &'w World,
    case: PathBuf,
    name: String,
    work: PathBuf,
    config: String,
    env: Vec<(String, String)>,
    arguments: Option<Vec<String>>,
}

impl<'w> Run<'w> {
    /// A line of the file `runs`: name, config, variables, and behind `--` all arguments of `build`.
    fn begin(world: &'w World, case: &Path, line: &str) -> Self {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, config) = (words[0].to_owned(), words[1].to_owned());
        let work = world.work.join(format!("{}.{name}", case.file_name().expect("a name").display()));
        let at_work = |text: &str| text.replace("@WORK@", &work.display().to_string());
        let end = words.iter().position(|word| *word == "--").unwrap_or(words.len());
        let env = words[2..end].iter().map(|word| word.split_once('=').expect("a variable"));
        let env = env.map(|(name, value)| (name.to_owned(), at_work(value).replace("%20", " "))).collect();
        let arguments = words.get(end + 1..).map(|words| words.iter().map(|word| (*word).to_owned()).collect());
        lay_out(world, case, &work);
        Self { world, case: case.into(), name, work, config, env, arguments }
    }

    fn kas(&self, words: &[&str]) -> Done {
        let smidr = self.world.smidr().current_dir(&self.work).arg("kas").args(words);
        self.env.iter().fold(smidr, |smidr, (name, value)| smidr.env(name, value)).run()
    }

    fn expected(&self, file: &str) -> Option<String> {
        let text = fs::read_to_string(self.case.join("expected").join(&self.name).join(file)).ok()?;
        Some(text.replace("@WORK@", &self.work.display().to_string()))
    }

    #[track_caller]
    fn expect(&self, file: &str, found: &str) {
        let wanted = self.expected(file).unwrap_or_default();
        assert!(wanted == found, "{} {}: {file}\nwanted:\n{wanted}\nfound:\n{found}", self.case.display(), self.name);
    }

    fn exit(&self, step: &str) -> Option<i32> {
        self.expected("exit")?.lines().find_map(|line| line.strip_prefix(step)?.trim().parse().ok())
    }

    fn build_folder(&self) -> PathBuf {
        let named = self.env.iter().find(|(name, _)| name == "KAS_BUILD_DIR");
        named.map_or_else(|| self.work.join("build"), |(_, folder)| folder.into())
    }

    fn expect_conf(&self) {
        for name in ["local.conf", "bblayers.conf"] {
            self.expect(name, &fs::read_to_string(self.build_folder().join("conf").join(name)).unwrap_or_default());
        }
    }

    /// The trees that kas left: a line each, `FOLDER tree ID …`.
    fn expect_trees(&self) {
        for line in self.expected("checkouts").unwrap_or_default().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let git = hermetic("git", &self.world.home)
                .arg("-C")
                .arg(self.work.join(words[0]))
                .args(["rev-parse", "HEAD^{tree}"])
                .output();
            let tree = String::from_utf8(git.expect("git").stdout).expect("text");
            assert_eq!(tree.trim(), words[2], "{} {}: {}", self.case.display(), self.name, words[0]);
        }
    }

    /// What the case's stand-in for BitBake noted: arguments, the list of variables, their values.
    fn expect_bitbake(&self, done: &Done) {
        let Some(wanted) = self.expected("bitbake") else { return };
        let found = fs::read_to_string(self.build_folder().join("bitbake.called")).unwrap_or_default();
        let arguments = |text: &str| {
            text.lines().filter_map(|line| line.strip_prefix("arg ")).map(str::to_owned).collect::<Vec<_>>()
        };
        let mut ours = arguments(&found);
        if let Some(at) = ours.iter().position(|word| word == "-u") {
            ours.drain(at..at + 2);
        }
        assert_eq!(ours, arguments(&wanted), "{} {}: {}", self.case.display(), self.name, done.err);
        let passed =
            |text: &str| text.lines().find(|line| line.starts_with("passthrough")).unwrap_or_default().to_owned();
        assert!(passed(&found).starts_with(&passed(&wanted)), "{} {}: {found}", self.case.display(), self.name);
        for line in wanted.lines().filter(|line| line.starts_with("env ")) {
            assert!(
                found.lines().any(|known| known == line),
                "{} {}: {line} in\n{found}",
                self.case.display(),
                self.name
            );
        }
    }
}

/// Makes the project and the repositories of a case.
pub(super) fn lay_out(world: &World, case: &Path, work: &Path) {
    let at_work = |text: &str| text.replace("@WORK@", &work.display().to_string());
    for entry in walkdir::WalkDir::new(case.join("project")).into_iter().map(|entry| entry.expect("an entry")) {
        let to = work.join("project").join(entry.path().strip_prefix(case.join("project")).expect("below it"));
        match entry.file_type().is_dir() {
            true => fs::create_dir_all(&to).expect("a folder"),
            false => fs::write(&to, at_work(&fs::read_to_string(entry.path()).expect("text"))).expect("a file"),
        }
    }
    let vectors = case.parent().and_then(Path::parent).expect("a folder").display();
    let script = format!("cd {0}; . ./lib.sh; . ./lib-bbsetup.sh; . {1}/repos.sh", vectors, case.display());
    let made = hermetic("sh", &world.home).args(["-c", &script]).env("WORK", work).output().expect("sh");
    assert!(made.status.success(), "{}: {}", case.display(), String::from_utf8_lossy(&made.stderr));
}

/// The cases of a tool.
pub(super) fn cases(world: &World, tool: &str) -> Vec<PathBuf> {
    let vectors = world.work.join("vectors");
    VECTORS.extract(&vectors).expect("the vectors");
    let mut cases: Vec<PathBuf> =
        fs::read_dir(vectors.join(tool)).expect("cases").map(|entry| entry.expect("a case").path()).collect();
    cases.sort();
    cases
}

fn runs<'w>(world: &'w World, wanted: &str) -> Vec<Run<'w>> {
    let mut all = Vec::new();
    for case in cases(world, "kas")
        .iter()
        .filter(|case| case.file_name().is_some_and(|name| name.to_string_lossy().starts_with(wanted)))
    {
        let lines = fs::read_to_string(case.join("runs")).expect("runs");
        all.extend(lines.lines().filter(|line| !line.trim().is_empty()).map(|line| Run::begin(world, case, line)));
    }
    all
}

fn differs(run: &Run<'_>) -> Option<&'static str> {
    let case = run.case.file_name().expect("a name").to_string_lossy();
    DIFFER.iter().find(|(known, name, _)| *known == case && *name == run.name).map(|(.., says)| *says)
}

#[test]
fn kas_files_mean_what_they_mean_to_kas() {
    let world = World::new();
    let all = runs(&world, "");
    assert_eq!(all.len(), 55);
    for run in &all {
        let done = run.kas(&["checkout", &run.config]);
        if let Some(says) = differs(run).filter(|says| !says.is_empty()) {
            done.expect_code(2).expect_err(says);
            continue;
        }
        done.expect_code(run.exit("checkout").expect("an exit code"));
        if done.code == Some(0) {
            // `--target` becomes part of the conf.
            if run.arguments.is_none() {
                run.expect_conf();
            }
            run.expect_trees();
        }
        let done = run.kas(&["dump", "--resolve-refs", &run.config]);
        done.expect_code(run.exit("dump").expect("an exit code"));
        if done.code == Some(0) {
            run.expect("dump.yml", &done.out);
        }
    }
}

#[test]
fn kas_projects_build_as_with_kas() {
    let Some(world) = World::with_image("kas::kas_projects_build_as_with_kas") else { return };
    for run in ["01", "02", "03", "06", "10", "11"].iter().flat_map(|case| runs(&world, case)) {
        if differs(&run).is_some() {
            continue;
        }
        fs::write(run.work.join("smidr.yaml"), format!("kas: {}\nhost: {{recipe: hello}}\n", run.config))
            .expect("a file");
        let words: Vec<&str> = match &run.arguments {
            Some(words) => words.iter().map(String::as_str).collect(),
            None => vec![&run.config],
        };
        let done = run.kas(&[&["build"], words.as_slice()].concat());
        done.expect_code(run.exit("build").expect("an exit code"));
        run.expect_bitbake(&done);
        run.expect_conf();
        if run.name == "file" {
            let done = run.kas(&["shell", &run.config, "-c", "pwd; exit 7"]);
            done.expect_code(7).expect_out(&run.build_folder().display().to_string());
            let done = run.kas(&["for-all-repos", &run.config, "env | grep ^KAS_REPO | sort"]);
            done.expect_code(0);
            run.expect("for-all-repos", &done.out);
        }
    }
}

/// Without work trees: the build sees checkouts of the store where kas would put them.
#[test]
fn kas_projects_build_without_work_trees() {
    let Some(world) = World::with_image("kas::kas_projects_build_without_work_trees") else { return };
    for run in ["03", "06", "09"].iter().flat_map(|case| runs(&world, case)) {
        let config = run.work.join(&run.config);
        fs::write(run.work.join("smidr.yaml"), format!("kas: {}\nhost: {{recipe: hello}}\n", run.config))
            .expect("a file");
        let smidr = || world.smidr().current_dir(&run.work);
        let done = smidr().args(["build", &run.config]).run();
        done.expect_code(0);
        run.expect_bitbake(&done);
        run.expect_conf();
        for folder in run.expected("checkouts").expect("checkouts").lines().filter_map(|line| line.split(' ').next()) {
            assert!(!run.work.join(folder).join(".git").exists(), "{folder} is no work tree");
        }
        smidr().args(["build", "--locked"]).run().expect_code(0);
        if run.name == "default" {
            let done =
                smidr().args(["run", "--", "sh", "-c", "cat ../meta-x/recipes-x/x/x_1.bb 2>/dev/null; ls .."]).run();
            done.expect_code(0);
            if let Some(recipe) = run.expected("x_1.bb") {
                done.expect_out(&recipe);
            }
        }
        assert!(config.exists());
    }
    let plain = world.work.join("plain");
    fs::create_dir(&plain).expect("a folder");
    fs::write(plain.join("kas.yml"), "header: {version: 14}\n").expect("a file");
    world.smidr().current_dir(&plain).args(["init", "."]).run().expect_code(2).expect_err("smidr build kas.yml");
    // The project of the folder is that one, whatever the command; and the newest build of another one is not stopped.
    world.smidr().current_dir(&plain).args(["plan"]).run().expect_code(0);
    world.smidr().current_dir(&plain).args(["status"]).run().expect_code(0);
    world.smidr().current_dir(&plain).args(["cancel"]).run().expect_code(2).expect_err("has not been built yet");
    let empty = world.work.join("empty");
    fs::create_dir(&empty).expect("a folder");
    world.smidr().current_dir(&empty).args(["cancel"]).run().expect_code(2).expect_err("no build is named");
    world
        .smidr()
        .current_dir(&empty)
        .args(["build", "none.yml"])
        .run()
        .expect_code(2)
        .expect_err("there is no none.yml");
}

#[test]
fn kas_lock_writes_what_kas_writes() {
    let world = World::new();
    for run in runs(&world, "05") {
        if run.name == "nested-update" {
            continue; // kas leaves the inner file, which wins, as it was
        }
        let before = World::names(&run.work.join("project"));
        let update = if run.name.ends_with("update") { &["--update"][..] } else { &[] };
        run.kas(&[&["lock"], update, &[&run.config]].concat()).expect_code(0);
        let after = World::names(&run.work.join("project"));
        for name in after.iter().filter(|name| name.contains(".lock.")) {
            if let Some(wanted) = run.expected(&format!("after-lock.{name}")) {
                let found = fs::read_to_string(run.work.join("project").join(name)).expect("a lock file");
                assert_eq!(found, wanted, "{} {name}, before: {before:?}", run.name);
            }
        }
    }
}
