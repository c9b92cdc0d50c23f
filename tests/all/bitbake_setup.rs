//! Configurations of bitbake-setup: `tests/vectors/bbsetup` holds small ones, with what bitbake-setup 2.19 made of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    kas::{cases, lay_out},
    support::{World, hermetic},
};

/// Runs in which smidr differs on purpose, with its exit code and what it says instead.
const DIFFER: [(&str, &str, i32, &str); 8] = [
    // The tool says an error, and ends with 0.
    ("08-errors", "no-layers", 2, "names no layers"),
    ("08-errors", "other-version", 2, "version 2.0 is not known"),
    ("08-errors", "no-core", 2, "no repository has oe-init-build-env"),
    // The tool writes what BitBake then refuses.
    ("08-errors", "missing-layer", 2, "meta-nobody"),
    // All is chosen, or nothing is built.
    ("05-fragments", "skipped", 2, "it is not chosen yet: machine"),
    ("05-fragments", "skipped-plain-name", 2, "it is not chosen yet: machine"),
    // Settings of the tool are not read.
    ("05-fragments", "full-name", 0, ""),
    // A relative folder counts from the file, where the tool leaves a link that leads nowhere.
    ("03-local-sources", "default", 0, ""),
];

/// The commits of the stand-ins in the vectors.
const STAND_INS: [(&str, &str); 2] = [
    ("bitbake", "eda39a95fa98be75eb8c017eed813c2e15b195b5"),
    ("openembedded-core", "5def94845325be57abc38544a7ab806c81d08147"),
];

struct Run<'w> {
    world: &'w World,
    case: PathBuf,
    name: String,
    work: PathBuf,
    /// The file with the choice.
    config: String,
}

impl<'w> Run<'w> {
    /// A line of the file `runs`: name, options, perhaps `init` and more options, then file, configuration and fragments.
    fn begin(world: &'w World, case: &Path, line: &str) -> Self {
        let words: Vec<&str> = line.split_whitespace().filter(|word| *word != "init").collect();
        let work = world.work.join(format!("{}.{}", case.file_name().expect("a name").display(), words[0]));
        lay_out(world, case, &work);
        let at_work = |text: &str| text.replace("@WORK@", &work.display().to_string());
        let (mut named, mut overrides, mut files) = (Vec::new(), Vec::new(), Vec::new());
        let mut rest = words[1..].iter();
        while let Some(word) = rest.next() {
            let mut next = || at_work(rest.next().expect("a value"));
            match *word {
                // Of two files, the last counts for the tool.
                "--source-overrides" => files = vec![next()],
                "-L" => overrides.push((next(), next())),
                "--skip-selection" => drop(next()),
                "--setting" => drop((next(), next(), next())),
                word => named.push(word.to_owned()),
            }
        }
        for (at, (id, path)) in overrides.into_iter().enumerate() {
            let file = format!("local-{at}.json");
            let text = serde_json::json!({"sources": {id: {"local": {"path": path}}}}).to_string();
            fs::write(work.join("project").join(&file), text).expect("a file");
            files.push(file);
        }
        named.extend(files);
        Self { world, case: case.into(), name: words[0].into(), config: named.join(":"), work }
    }

    fn expected(&self, file: &str) -> Option<String> {
        let text = fs::read_to_string(self.case.join("expected").join(&self.name).join(file)).ok()?;
        let file = self.work.join("project").join(self.config.split(':').next().expect("a file"));
        let beside = file.parent().expect("a folder").display().to_string();
        let text = text.replace("@WORK@/top", &beside).replace("@WORK@", &self.work.display().to_string());
        Some(STAND_INS.iter().fold(text, |text, (name, commit)| text.replace(commit, &self.head(name))))
    }

    fn head(&self, repository: &str) -> String {
        let folder = self.work.join("repos").join(repository);
        let git = hermetic("git", &self.world.home).arg("-C").arg(folder).args(["rev-parse", "HEAD"]).output();
        String::from_utf8(git.expect("git").stdout).expect("text").trim().to_owned()
    }

    /// A smidr.yaml that names the choice, and a build host that is made in seconds.
    fn write_own(&self) {
        let mut words = self.config.split(':');
        let mut keys = format!("config: {}", words.next().expect("a file"));
        let (overrides, mut words): (Vec<&str>, Vec<&str>) = words.partition(|word| word.ends_with(".json"));
        if !words.is_empty() {
            keys += &format!(", configuration: {}", words.remove(0));
        }
        keys += &format!(", options: [{}], source_overrides: [{}]", words.join(", "), overrides.join(", "));
        let text = format!("bitbake_setup: {{{keys}}}\nhost: {{recipe: hello}}\n");
        fs::write(self.work.join("project/smidr.yaml"), text).expect("a file");
    }

    fn folder(&self) -> PathBuf {
        let file = self.work.join("project").join(self.config.split(':').next().expect("a file"));
        file.parent().expect("a folder").join(self.expected("setup-dir-name").expect("a name").trim())
    }
}

fn runs<'w>(world: &'w World, wanted: &str) -> Vec<Run<'w>> {
    let mut all = Vec::new();
    for case in cases(world, "bbsetup") {
        if case.file_name().is_some_and(|name| name.to_string_lossy().starts_with(wanted)) {
            let lines = fs::read_to_string(case.join("runs")).expect("runs");
            all.extend(lines.lines().filter(|line| !line.trim().is_empty()).map(|line| Run::begin(world, &case, line)));
        }
    }
    all
}

#[test]
fn configurations_mean_what_they_mean_to_bitbake_setup() {
    let test = "bitbake_setup::configurations_mean_what_they_mean_to_bitbake_setup";
    let Some(world) = World::with_image(test) else { return };
    let all = runs(&world, "");
    assert_eq!(all.len(), 35);
    for run in &all {
        let case = run.case.file_name().expect("a name").to_string_lossy().into_owned();
        let about = format!("{case} {}", run.name);
        let smidr = || world.smidr().current_dir(&run.work.join("project")).env("HOME", run.work.join("home"));
        run.write_own();
        let done = smidr().args(["lock", "--bitbake-setup"]).env("SMIDR_TRUST", "1").run();
        let differs = DIFFER.iter().find(|(known, name, ..)| *known == case && *name == run.name);
        if let Some((.., code, says)) = differs {
            done.expect_code(*code).expect_err(says);
            continue;
        }
        let is_good = run.expected("exit").expect("a code").trim() == "init 0";
        assert_eq!(done.code == Some(0), is_good, "{about}: {}", done.err);
        if !is_good {
            continue;
        }
        let fixed = fs::read_to_string(run.folder().join("config/sources-fixed-revisions.json")).expect("a file");
        // The tool gives overrides by option their folder; in a file they have it from there.
        assert_eq!(fixed, run.expected("sources-fixed-revisions.json").expect("a file"), "{about}");
        let done = smidr().args(["plan", "--json", "--target", "x", "-c", &run.config]).run();
        done.expect_code(0);
        let plan: Value = serde_json::from_str(&done.out).expect("JSON");
        let conf = &plan["plan"]["as_is"];
        let further = conf["further"].as_array().expect("files").iter();
        let further = further.map(|file| (file[0].as_str().expect("a name"), file[1].as_str().expect("a text")));
        let own = ["local_conf", "bblayers_conf"].map(|key| conf[key].as_str().expect("a text"));
        let files = [("local.conf", own[0]), ("bblayers.conf", own[1])].into_iter().chain(further);
        for (name, text) in files {
            let wanted = run.expected(name).unwrap_or_default();
            assert_eq!(text.trim_end(), wanted.trim_end(), "{about}: {name}");
        }
    }
}

#[test]
fn a_configuration_builds_as_it_is() {
    let Some(world) = World::with_image("bitbake_setup::a_configuration_builds_as_it_is") else { return };
    for run in runs(&world, "07").iter().chain(&runs(&world, "03")) {
        let mut words = run.config.split(':').map(str::to_owned).collect::<Vec<_>>();
        let project = run.work.join("project");
        let smidr = || world.smidr().current_dir(&project).env("HOME", run.work.join("home")).env("BUILD_ID", "7");
        let done = smidr().arg("build").args(&words).run();
        done.expect_code(2).expect_err("--target");
        words.extend(["--target".into(), "world".into()]);
        smidr().arg("build").args(&words).run().expect_code(0);
        let called = fs::read_to_string(run.folder().join("build/bitbake.called")).expect("a call");
        assert!(called.lines().any(|line| line == "arg world"), "{called}");
        if run.name == "default" && run.config.contains("sub/") {
            assert!(called.contains("BUILD_ID BUILD_DATE"), "{called}");
        }
        for name in ["local.conf", "bblayers.conf", "conf-summary.txt"] {
            let found = fs::read_to_string(run.folder().join("build/conf").join(name)).expect(name);
            let wanted = run.expected(name).expect(name);
            assert_eq!(found.trim_end(), wanted.trim_end(), "{name}");
        }
    }
}

#[test]
fn what_is_not_chosen_is_named() {
    let world = World::new();
    let run = &runs(&world, "05")[0];
    let project = run.work.join("project");
    let smidr = || world.smidr().current_dir(&project);
    smidr().args(["build", "fragments.conf.json"]).run().expect_code(2).expect_err("plain-name");
    let done = smidr().args(["build", "fragments.conf.json", "one", "machine/b"]).run();
    done.expect_code(2).expect_err("distro/x");
    smidr().args(["build", "fragments.conf.json", "two"]).run().expect_code(2).expect_err("there are: one, plain-name");
    fs::write(
        project.join("smidr.yaml"),
        "bitbake_setup: {config: fragments.conf.json, configuration: one, options: [machine/b, distro/x]}\nbuild: {image: i}\n",
    )
    .expect("a file");
    smidr().args(["plan"]).run().expect_code(0).expect_out("build-b-of-x");
    // A registry is a folder of them.
    let configurations = project.join("registry/configurations/deep");
    fs::create_dir_all(&configurations).expect("a folder");
    fs::copy(project.join("fragments.conf.json"), configurations.join("f.conf.json")).expect("a copy");
    let done = smidr().args(["plan", "registry", "f", "one", "machine/a", "distro/x", "--target", "i"]).run();
    done.expect_code(0).expect_out("build-a-of-x");
}
