//! Builds that outlive what started them: detached, watched, cancelled and waited for from other processes.

use std::{
    fs,
    ops::Deref,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    layers::git,
    screen::{on_terminal, runs_on_terminal},
    support::{Done, LONG, World, has, processes_with, skip, smidr_bin, tool, wait_for},
    trouble::recipe,
};

/// How soon a build whose process is gone is known as such, and everything of it ended.
pub(crate) const SOON: Duration = Duration::from_secs(2);

/// A world with locks of its own, so that its builds wait for no other test's. What still runs at its end is killed.
pub(crate) struct Alone(World);

impl Deref for Alone {
    type Target = World;

    fn deref(&self) -> &World {
        &self.0
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        for pid in self.processes().iter().filter_map(|line| line.split(' ').next()?.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

impl Alone {
    /// With a project `p`, or none where that is not possible; the skip is then reported.
    pub(crate) fn new(test: &str) -> Option<Self> {
        let world = World::with_project(test)?;
        let locks = world.smidr.join("locks");
        fs::remove_file(&locks).expect("remove the link");
        fs::create_dir(&locks).expect("a folder");
        Some(Self(world))
    }

    /// Without a project and without an image.
    pub(crate) fn empty() -> Self {
        Self(World::new())
    }

    /// With a project `p` that cannot be built for want of an image.
    pub(crate) fn without_image() -> Self {
        let world = World::new();
        world.init("p");
        Self(world)
    }

    /// What runs in this world: workers, and everything that their builds have started.
    pub(crate) fn processes(&self) -> Vec<String> {
        let all = processes_with(&self.smidr.display().to_string());
        all.into_iter().filter(|line| !line.contains(" status ")).collect()
    }

    /// Uses another SMIDR_HOME from now on.
    pub(crate) fn move_to(&mut self, home: PathBuf) {
        self.0.smidr = home;
    }

    /// The user's own settings.
    pub(crate) fn settings(&self, text: &str) {
        fs::write(self.smidr.join("settings.yaml"), text).expect("write the settings");
    }

    /// A recipe whose task waits for [`Alone::release`], and says `word` then.
    pub(crate) fn held(&self, name: &str, word: &str) {
        let mark = self.mark(name).display().to_string();
        recipe(self, name, &format!("    until test -e {mark}; do sleep 0.05; done\n    echo {word}"));
    }

    /// Lets the task of a recipe go on.
    pub(crate) fn release(&self, name: &str) {
        fs::write(self.mark(name), "").expect("a file");
    }

    fn mark(&self, name: &str) -> PathBuf {
        self.project().join("layers/meta-hello").join(format!("go-{name}"))
    }

    /// A build that goes on by itself. Gives its id.
    #[track_caller]
    pub(crate) fn detached(&self, args: &[&str]) -> String {
        let done = self.smidr().args(["build", "--detach"]).args(args).run();
        let ids: Vec<&str> = done.expect_code(0).out.lines().collect();
        assert_eq!(ids.len(), 1, "{done:?}");
        ids[0].to_owned()
    }

    /// A build as `status` tells it.
    #[track_caller]
    pub(crate) fn build(&self, id: &str) -> Value {
        let done = self.smidr().args(["status", id, "--json"]).run();
        done.expect_code(0).json()["build"].clone()
    }

    #[track_caller]
    pub(crate) fn until_state(&self, id: &str, state: &str) {
        wait_for(&format!("{id} to be {state}"), LONG, || self.build(id)["state"] == state);
    }

    /// Waits until the task `do_act` of a build runs.
    #[track_caller]
    pub(crate) fn until_acts(&self, id: &str) {
        let journal = self.folder(id).join("events.jsonl");
        let acts = |line: &str| line.contains(r#""task_started""#) && line.contains(r#""do_act""#);
        wait_for("the task to run", LONG, || fs::read_to_string(&journal).unwrap_or_default().lines().any(acts));
    }

    pub(crate) fn folder(&self, id: &str) -> PathBuf {
        self.smidr.join("builds").join(id)
    }

    /// The worker of a build, as its lock names it.
    #[track_caller]
    pub(crate) fn worker(&self, id: &str) -> Pid {
        let lock = fs::read_to_string(self.smidr.join("locks").join(format!("build-{id}.lock"))).expect("its lock");
        let number = lock.split_once("(process ").and_then(|(_, rest)| rest.trim_end().strip_suffix(')'));
        Pid::from_raw(number.and_then(|number| number.parse().ok()).expect("its process"))
    }

    /// The journal of a build, whose numbers must be dense.
    #[track_caller]
    pub(crate) fn journal(&self, id: &str) -> Vec<Value> {
        let done = self.smidr().args(["logs", id, "--json"]).run();
        assert_eq!(done.expect_code(0).err, "");
        let records: Vec<Value> = done.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        for (number, record) in (1_u64..).zip(&records) {
            assert_eq!((&record["seq"], &record["build"]), (&number.into(), &id.into()), "{record}");
        }
        records
    }

    /// Waits until nothing of this world runs.
    #[track_caller]
    pub(crate) fn until_quiet(&self) {
        let mut left = Vec::new();
        let what = "every process to be gone";
        let begun = std::time::Instant::now();
        while begun.elapsed() < 5 * SOON {
            left = self.processes();
            if left.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("waited in vain for {what}: {left:#?}");
    }

    /// A build that ends at once.
    #[track_caller]
    pub(crate) fn next_build_works(&self) {
        recipe(self, "quick", "    true");
        self.smidr().args(["build", "--target", "quick"]).run().expect_code(0);
    }
}

/// The session of a process (proc_pid_stat(5)).
fn session(pid: Pid) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a living process");
    let after = stat.rsplit_once(") ").expect("the name's end").1;
    after.split(' ').nth(3).and_then(|number| number.parse().ok()).expect("its session")
}

#[test]
fn a_detached_build_outlives_its_terminal_and_is_watched() {
    let name = "workers::a_detached_build_outlives_its_terminal_and_is_watched";
    let Some(setsid) = tool("setsid") else { return skip(name, "there is no setsid(1)") };
    let Some(world) = Alone::new(name) else { return };
    world.held("slow", "at last");
    let smidr = smidr_bin().display().to_string();
    let script = "\"$0\" build --detach --target slow > id; echo over; read line";
    let (mut screen, mut shell) = runs_on_terminal(&setsid, &world, Path::new("/bin/sh"), &["-c", script, &smidr]);
    screen.says("over");
    assert!(screen.seen().contains("smidr attach p-"), "{}", screen.seen());
    let id = fs::read_to_string(world.project().join("id")).expect("what it printed").trim_end().to_owned();
    let worker = world.worker(&id);
    assert_eq!(session(worker), worker.as_raw(), "a session of its own");
    drop(screen);
    shell.wait().expect("the shell ends");
    world.until_acts(&id);
    assert_eq!(world.build(&id)["state"], "BUILDING");
    // Readers, among them one that is stopped, and one that is killed.
    let follower = world.smidr().args(["logs", "--follow", &id]).start();
    let raw = world.smidr().args(["logs", "--follow", "--json", &id]).start();
    let mut watcher = world.smidr().args(["attach", &id]).start();
    let mut other = world.smidr().arg("attach").start();
    let mut killed = world.smidr().args(["logs", "--follow", &id]).start();
    for reader in [&mut watcher, &mut other, &mut killed] {
        reader.until_says("slow:do_act");
    }
    other.signal(Signal::SIGINT);
    other.wait().expect_code(0).expect_err(&format!("{id} goes on; watch it again:  smidr attach {id}"));
    killed.signal(Signal::SIGKILL);
    assert_eq!(killed.wait().code, None);
    assert_eq!(world.build(&id)["state"], "BUILDING");
    world.release("slow");
    watcher.wait().expect_code(0).expect_err(&format!("{id} completed in"));
    follower.wait().expect_code(0).expect_out(&format!("{id} completed in"));
    let raw = raw.wait();
    let records = world.journal(&id);
    assert_eq!(records.last().expect("a record")["outcome"]["state"], "COMPLETED");
    let followed: Vec<Value> = raw.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(followed, records, "who follows misses nothing");
    world.until_state(&id, "COMPLETED");
    assert_eq!(fs::read_to_string(world.folder(&id).join("worker.log")).expect("its log"), "");
    if has("jq") {
        let script = "\"$0\" logs --json | jq -e -s 'map(.seq) == [range(1; length + 1)]'";
        let mut command = Command::new("/bin/sh");
        world.surround(&mut command);
        command.current_dir(world.project()).args(["-c", script, &smidr]);
        Done::new(command.output().expect("a shell")).expect_code(0).expect_out("true");
    }
    world.until_quiet();
}

#[test]
fn attach_on_a_terminal_asks_whether_to_detach_or_to_cancel() {
    let name = "workers::attach_on_a_terminal_asks_whether_to_detach_or_to_cancel";
    let Some(setsid) = tool("setsid") else { return skip(name, "there is no setsid(1)") };
    let Some(world) = Alone::new(name) else { return };
    world.held("slow", "at last");
    let id = world.detached(&["--target", "slow"]);
    world.until_acts(&id);
    let attach = || on_terminal(&setsid, &world, &["attach", &id]);
    for answer in ["\n", "d\n", "\x04"] {
        let (mut screen, mut child) = attach();
        screen.says("do_act");
        screen.types("\x03");
        screen.says("or cancel it? [D/c]");
        screen.types(answer);
        screen.says(&format!("{id} goes on"));
        screen.until_closed();
        assert_eq!(child.wait().expect("it ends").code(), Some(0), "{}", screen.seen());
    }
    // A terminal that is closed detaches, before and after the question.
    for keys in ["", "\x03"] {
        let (mut screen, mut child) = attach();
        screen.says("do_act");
        screen.types(keys);
        if !keys.is_empty() {
            screen.says("[D/c]");
        }
        drop(screen);
        wait_for("smidr to end", LONG, || child.try_wait().expect("look at it").is_some());
    }
    assert_eq!(world.build(&id)["state"], "BUILDING");
    let (mut screen, mut child) = attach();
    screen.says("do_act");
    screen.types("\x03");
    screen.says("[D/c]");
    screen.types("c\n");
    screen.says("stopping   BitBake finishes the tasks that run");
    // The task never ends by itself: the second time kills.
    screen.types("\x03");
    screen.says("everything is killed");
    screen.until_closed();
    assert_eq!(child.wait().expect("it ends").code(), Some(130), "{}", screen.seen());
    world.until_state(&id, "CANCELLED");
    let build = world.build(&id);
    assert_eq!((&build["state"], &build["outcome"]["reasons"]), (&"CANCELLED".into(), &Value::Array(vec![])));
    // What is over is shown, with the code that it had.
    world.smidr().args(["attach", &id]).run().expect_code(130).expect_err("CANCELLED");
    recipe(&world, "bad", "    exit 7");
    let bad = world.detached(&["--target", "bad"]);
    world.smidr().args(["attach", &bad]).run().expect_code(1).expect_err("failed in bad:do_act");
    world.until_quiet();
}

#[test]
fn several_clients_cancel_at_once() {
    let Some(world) = Alone::new("workers::several_clients_cancel_at_once") else { return };
    recipe(&world, "slow", "    sleep 3; echo over > ${TMPDIR}/over");
    let id = world.detached(&["--target", "slow"]);
    world.until_acts(&id);
    let clients = [(); 4].map(|()| world.smidr().args(["cancel", &id]).start());
    for client in clients {
        client.wait().expect_code(0).expect_err(&format!("{id} CANCELLED"));
    }
    let over = world.smidr.join("workspaces");
    let over = over.join(&World::names(&over)[0]).join("build/tmp/over");
    assert!(over.exists(), "four polite requests are one: the task may end");
    world.smidr().args(["cancel", &id]).run().expect_code(2).expect_err("is over: CANCELLED");
    let stops = world.journal(&id).into_iter().filter(|record| record["event"] == "finished").count();
    assert_eq!(stops, 1);
    // One asks politely, the other not.
    world.held("deaf", "never");
    let id = world.detached(&["--target", "deaf"]);
    world.until_acts(&id);
    let mut polite = world.smidr().args(["cancel", &id]).start();
    let mut watcher = world.smidr().args(["logs", "--follow", &id]).start();
    watcher.until_says("stopping   BitBake finishes");
    assert!(polite.child.try_wait().expect("look at it").is_none(), "it waits for the end");
    let force = [(); 2].map(|()| world.smidr().args(["cancel", "--force", &id]).start());
    for client in force {
        // The second may come too late.
        let done = client.wait();
        assert!(matches!(done.code, Some(0 | 2)), "{done:?}");
        done.expect_err("CANCELLED");
    }
    polite.wait().expect_code(0).expect_err(&format!("{id} CANCELLED"));
    watcher.wait().expect_code(0).expect_out("everything is killed");
    world.until_quiet();
    world.next_build_works();
}

#[test]
fn a_busy_workspace_is_waited_for() {
    let Some(world) = Alone::new("workers::a_busy_workspace_is_waited_for") else { return };
    // One that waits for its workspace has no place in the queue.
    world.settings("limits: {builds: 2}\n");
    world.held("slow", "at last");
    recipe(&world, "quick", "    true");
    let first = world.detached(&["--target", "slow"]);
    world.until_acts(&first);
    let mut waits = world.smidr().args(["build", "--wait", "--target", "quick"]).start();
    waits.until_says("waiting    for the workspace of `p`");
    waits.until_says(&format!("build {first}"));
    // One that does not want to wait is refused, and not recorded.
    for how in [&["build"][..], &["build", "--detach"]] {
        let busy = world.smidr().args(how).args(["--target", "quick"]).run();
        busy.expect_code(2).expect_err("is in use by").expect_err(&first).expect_err("smidr build --wait");
    }
    assert_eq!(world.smidr().args(["status", "--all", "--json"]).run().json()["total"], 2);
    // Another project has its turn meanwhile.
    let other = world.init("other");
    fs::remove_dir_all(other.join("layers/meta-hello")).expect("no layer");
    let other = world.smidr().current_dir(&other).args(["build", "--detach"]).run();
    world.until_state(other.expect_code(0).out.trim_end(), "FAILED");
    // One that no longer wants to wait.
    let tired = world.detached(&["--wait", "--target", "quick"]);
    wait_for("it to wait", LONG, || world.journal(&tired).iter().any(|record| record["event"] == "waiting"));
    world.smidr().args(["cancel", &tired]).run().expect_code(0).expect_err("CANCELLED");
    world.release("slow");
    waits.wait().expect_code(0).expect_err("completed in");
    world.until_state(&first, "COMPLETED");
    world.until_quiet();
}

#[test]
fn a_queued_build_is_what_was_submitted() {
    let name = "workers::a_queued_build_is_what_was_submitted";
    if !has("git") {
        return skip(name, "there is no git here");
    }
    let Some(world) = Alone::new(name) else { return };
    world.settings("limits: {builds: 1}\n");
    world.held("slow", "at last");
    // Another project, whose layer is a repository with a patch, and which is pinned.
    let other = world.init("q");
    let layer = world.work.join("repository");
    fs::rename(other.join("layers/meta-hello"), &layer).expect("the layer moves");
    let told = |word: &str| {
        let text = format!(
            "LICENSE = \"MIT\"\ninherit nobuild\naddtask act after do_patch before do_build\ndo_act() {{\n    echo {word} $WORD\n    cat /opt/tool\n}}\n"
        );
        fs::create_dir_all(layer.join("recipes-test/told")).expect("folders");
        fs::write(layer.join("recipes-test/told/told.bb"), text).expect("a recipe");
        git(&layer, &["add", "-A"]);
    };
    git(&layer, &["init", "-q", "-b", "main"]);
    told("plain");
    git(&layer, &["commit", "-qm", "Begin"]);
    told("patched");
    let patch = git(&layer, &["diff", "--cached"]);
    git(&layer, &["reset", "-q", "--hard"]);
    fs::write(other.join("x.patch"), format!("{patch}\n")).expect("a patch");
    let config = fs::read_to_string(other.join("smidr.yaml")).expect("a config");
    let source = format!("git: file://{}\n    branch: main\n    patches: [./x.patch]", layer.display());
    let config = config.replace("path: ./layers/meta-hello", &source).replace("image: hello-image", "image: told");
    let config = format!("{config}env: {{WORD: \"${{SUBMITTED}}\"}}\n").replace("recipe: hello", "recipe: own");
    let recipe = "base: {image: hello}\nfiles: [{source: tool, dest: /opt/tool}]\n";
    fs::write(other.join("own.yaml"), recipe).expect("a rootfs recipe");
    fs::write(other.join("tool"), "submitted tool\n").expect("a file");
    fs::write(other.join("smidr.yaml"), &config).expect("a config");
    let smidr = || world.smidr().current_dir(&other).env("SUBMITTED", "mine");
    smidr().arg("lock").run().expect_code(0);
    let pinned = fs::read_to_string(other.join("smidr.lock")).expect("a lock");

    let first = world.detached(&["--target", "slow"]);
    let done = smidr().args(["build", "--detach"]).run();
    let id = done.expect_code(0).out.trim_end().to_owned();
    assert_eq!(world.build(&id)["state"], "QUEUED");
    let mut watcher = world.smidr().args(["attach", &id]).start();
    watcher.until_says("1 build");
    let submission = world.folder(&id).join("submission.json");
    assert!(fs::read_to_string(&submission).expect("a submission").contains(r#""SUBMITTED":"mine""#));
    // Everything changes, and none of it counts.
    told("newer");
    git(&layer, &["commit", "-qm", "Newer"]);
    let newer = git(&layer, &["rev-parse", "HEAD"]);
    let old = git(&layer, &["rev-parse", "HEAD~1"]);
    let changed = format!("{}: [", pinned.replace(&old, &newer));
    fs::write(other.join("smidr.lock"), &changed).expect("a lock");
    fs::write(other.join("tool"), "newer\n").expect("a file");
    fs::remove_file(other.join("own.yaml")).expect("no recipe");
    fs::write(other.join("x.patch"), "no patch\n").expect("a patch");
    fs::write(other.join("smidr.yaml"), config.replace("image: told", "image: nothing")).expect("a config");
    world.until_acts(&first);
    world.release("slow");
    watcher.wait().expect_code(0).expect_err("smidr.lock is not what was submitted").expect_err("completed in");
    let log = smidr().args(["logs", &id, "--task", "told:do_act"]).run();
    log.expect_code(0).expect_out("patched mine").expect_out("submitted tool");
    // The values are gone, the rest stays.
    world.until_quiet();
    let kept = fs::read_to_string(&submission).expect("a submission");
    assert!(kept.contains(r#""SUBMITTED":"""#) && kept.contains("image: told"), "{kept}");
    assert_eq!(fs::read_to_string(other.join("smidr.lock")).expect("a lock"), changed, "the user's own lock stays");
    world.until_quiet();
}

#[test]
fn fifty_builds_at_once_end_with_a_true_record() {
    let Some(world) = Alone::new("workers::fifty_builds_at_once_end_with_a_true_record") else { return };
    world.settings("limits: {builds: 2}\n");
    // It fails before BitBake runs: its layer is not there.
    let project = world.init("q");
    fs::remove_dir_all(project.join("layers/meta-hello")).expect("no layer");
    let variants: String = (0..50).map(|number| format!("  v{number}: {{}}\n")).collect();
    let config = fs::read_to_string(project.join("smidr.yaml")).expect("a config") + "variants:\n" + &variants;
    fs::write(project.join("smidr.yaml"), config).expect("a config");
    let submit = |number| {
        let variant = format!("v{number}");
        world.smidr().current_dir(&project).args(["build", "--detach", "--variant", &variant]).start()
    };
    let mut running: Vec<_> = (0..50).map(submit).collect();
    let ids: Vec<String> = running.drain(..).map(|one| one.wait().expect_code(0).out.trim_end().to_owned()).collect();
    for id in &ids {
        world.until_state(id, "FAILED");
        let finished = world.journal(id).pop().expect("a record");
        assert_eq!(finished["outcome"], world.build(id)["outcome"], "{id}");
    }
    let status = world.smidr().args(["status", "--all", "--json"]).run().json();
    assert_eq!(status["total"], 50);
    world.until_quiet();
    let slots = world.smidr.join("queue");
    assert_eq!(World::names(&slots), ["order.lock"], "no ticket is left");
    world.next_build_works();
}
