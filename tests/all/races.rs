//! A folder that is swapped with a link thousands of times a second, in every place that a build can write to, while sandboxes are set up
//! on it (CVE-2021-30465, CVE-2024-45310). A canary on this machine must keep its bytes, modes and times.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{
    hostile::{canary, picture},
    support::{World, skip, tool},
};

/// Sandboxes for each place; fewer where this machine is busy.
const SETUPS: u32 = 40;
const AT_MOST: Duration = Duration::from_secs(25);

/// Swaps a folder and a link until it is dropped, which leaves the folder in place.
struct Racer {
    place: PathBuf,
    link: PathBuf,
    over: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Racer {
    fn start(place: &Path, target: &Path) -> Self {
        let link = place.with_extension("the-other");
        symlink(target, &link).expect("a link");
        let (over, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::spawn({
            let (over, swaps, place, link) = (over.clone(), swaps.clone(), place.to_owned(), link.clone());
            let target = target.to_owned();
            move || {
                for turn in 0_u64.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let swapped = renameat_with(CWD, &place, CWD, &link, RenameFlags::EXCHANGE).is_ok();
                    swaps.fetch_add(u64::from(swapped), Ordering::Relaxed);
                    if turn % 16 == 0 || !swapped {
                        mend(&place, &link, &target, turn);
                    }
                    std::thread::yield_now();
                }
            }
        });
        Self { place: place.into(), link, over, swaps, thread: Some(thread) }
    }

    fn swaps(&self) -> u64 {
        self.swaps.load(Ordering::Relaxed)
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if is_link(&self.place) && !is_link(&self.link) {
            let _ = renameat_with(CWD, &self.place, CWD, &self.link, RenameFlags::EXCHANGE);
        }
        for path in [&self.place, &self.link] {
            if is_link(path) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink())
}

/// A setup removes a link that it finds; then there is a new one.
fn mend(place: &Path, link: &Path, target: &Path, turn: u64) {
    if !is_link(place) && !is_link(link) {
        let _ = fs::rename(link, link.with_extension(turn.to_string()));
        let _ = symlink(target, link);
    }
}

fn say(text: &str) {
    // Directly to stderr, past the test harness: the number of races is the strength of the test.
    let _ = writeln!(io::stderr(), "{text}");
}

/// A vulnerable setup, which checks first and then makes its mount point: how often that ends in the canary.
fn naive(folder: &Path) -> (u32, u32) {
    let (place, bait) = (folder.join("place"), folder.join("bait"));
    for path in [&place, &bait] {
        fs::create_dir_all(path).expect("a folder");
    }
    let racer = Racer::start(&place, &bait);
    let (begun, mut hits, mut tries) = (Instant::now(), 0, 0);
    while begun.elapsed() < Duration::from_secs(3) && hits < 20 {
        tries += 1;
        if fs::symlink_metadata(&place).is_ok_and(|found| found.is_dir()) {
            let _ = fs::File::create(place.join("point"));
        }
        hits += u32::from(fs::remove_file(bait.join("point")).is_ok());
    }
    drop(racer);
    (hits, tries)
}

/// The same with a mount: in namespaces of its own, a mount point is looked at and then mounted on by its name.
const NAIVE_MOUNTS: &str = r#"
hits=0 tries=0 end=$(( $(date +%s) + 4 ))
while [ "$(date +%s)" -lt $end ] && [ $hits -lt 5 ]; do
    for i in 1 2 3 4 5 6 7 8 9 10; do
        tries=$((tries + 1))
        [ -L "$PLACE" ] || mount --bind "$SOURCE" "$PLACE/passwd" 2>/dev/null
    done
    landed=$(grep -c " $BAIT/passwd " /proc/self/mountinfo)
    [ "$landed" = 0 ] || hits=$((hits + 1))
    while umount "$BAIT/passwd" 2>/dev/null; do :; done
    while umount "$PLACE/passwd" 2>/dev/null; do :; done
done
echo $hits of $tries
"#;

fn naive_mounts(world: &World) -> Option<String> {
    let folder = world.work.join("naive-mounts");
    let (place, bait) = (folder.join("place"), folder.join("bait"));
    for path in [&place, &bait] {
        fs::create_dir_all(path).expect("a folder");
        fs::write(path.join("passwd"), "point").expect("a file");
    }
    let source = folder.join("source");
    fs::write(&source, "source").expect("a file");
    let _racer = Racer::start(&place, &bait);
    let mut command = Command::new(tool("unshare")?);
    command.args(["-Urm", "sh", "-c", NAIVE_MOUNTS]);
    let out = command.envs([("PLACE", &place), ("BAIT", &bait), ("SOURCE", &source)]).output().ok()?;
    let said = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    said.contains(" of ").then_some(said)
}

fn tell_what_others_do(world: &World, name: &str) {
    let (hits, tries) = naive(&world.work.join("naive"));
    if hits == 0 {
        skip(
            name,
            &format!("in part: a setup that looks first and makes then never lost the race here ({tries} tries)"),
        );
    } else {
        say(&format!("{name}: a setup that looks first and makes then was led out {hits} times in {tries}"));
    }
    match naive_mounts(world) {
        Some(said) if !said.starts_with("0 of") => {
            say(&format!("{name}: rounds of mounts by name that were led out: {said} mounts"));
        }
        said => skip(name, &format!("in part: mounts by name never lost the race here ({said:?})")),
    }
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn swapped_links_never_lead_out() {
    let name = "races::swapped_links_never_lead_out";
    let Some(world) = World::with_project(name) else { return };
    tell_what_others_do(&world, name);
    let shared = world.work.join("shared");
    fs::create_dir_all(shared.join("inner")).expect("folders");
    for path in [shared.join("inner/passwd"), world.work.join("conf")] {
        fs::write(path, "conf").expect("a file");
    }
    fs::write(world.home.join(".netrc"), "machine a login b password c\n").expect("a file");
    world.append(
        "  netrc: true\n  binds:\n    - {source: ../shared, dest: /srv/shared, writable: true}\n    \
         - {source: ../conf, dest: /srv/shared/inner/passwd}\n",
    );
    world.smidr().args(["run", "true"]).run().expect_code(0);
    let canary = canary(&world);
    fs::write(canary.join("secret"), "seen-by-the-build").expect("a file");
    let before = picture(&canary);
    let mounts = || fs::read_to_string("/proc/self/mountinfo").expect("the mounts of this machine");
    let mounts_before = mounts();
    let workspaces = world.smidr.join("workspaces");
    let workspace = workspaces.join(&World::names(&workspaces)[0]);
    // What it can read at the mount, and whether the canary is covered by a mount.
    let look = format!(
        "for f in $HOME ../home . conf tmp /srv/shared/inner; do cat $f/secret; done 2>/dev/null
         grep -q ' {0}' /proc/self/mountinfo && echo seen-by-the-build; true",
        canary.display()
    );
    for place in ["home", "build", "build/conf", "build/tmp", "inner"] {
        let place = if place == "inner" { shared.join(place) } else { workspace.join(place) };
        let racer = Racer::start(&place, &canary);
        let begun = Instant::now();
        let (mut worked, mut refused, mut raced) = (0_u32, 0_u32, 0_u32);
        while worked + refused < SETUPS && begun.elapsed() < AT_MOST {
            let swaps = racer.swaps();
            let done = world.smidr().args(["run", "--", "sh", "-c", &look]).run();
            // On a busy machine it may not get its turn each time.
            raced += u32::from(racer.swaps() != swaps);
            assert!(!done.out.contains("seen-by-the-build"), "{}: {done:?}", place.display());
            match done.code {
                Some(0) => worked += 1,
                Some(125) => {
                    done.expect_one_error();
                    refused += 1;
                }
                _ => panic!("{}: {done:?}", place.display()),
            }
            assert_eq!(picture(&canary), before, "{}: the canary was touched", place.display());
        }
        assert!(raced * 2 > worked + refused, "{}: swapped during {raced} of them only", place.display());
        let name = place.strip_prefix(&world.work).or_else(|_| place.strip_prefix(&workspace)).unwrap_or(&place);
        say(&format!("{}: {worked} sandboxes, {refused} refused, {} swaps", name.display(), racer.swaps()));
        drop(racer);
        world.smidr().args(["run", "true"]).run().expect_code(0);
    }
    assert_eq!(mounts(), mounts_before, "the mounts of this machine");
}
