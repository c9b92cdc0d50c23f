//! Hostile images and configs: every mount point is a link to this machine, a file instead of a folder, or a folder instead of a file. A
//! canary on this machine must keep its bytes, modes and times.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    hostile::{Entry, Look, archive, canary, picture, static_program},
    support::{Done, World, skip, tool, user_namespaces},
};

/// An image of a single program, and whatever else is put there.
pub(crate) struct Yard {
    pub world: World,
    program: Vec<u8>,
    canary: PathBuf,
    before: BTreeMap<PathBuf, Look>,
}

impl Yard {
    /// None where there can be none; the skip is then reported.
    pub(crate) fn new(test: &str, world: World) -> Option<Self> {
        if let Err(reason) = user_namespaces() {
            skip(test, reason);
            return None;
        }
        let program = match static_program(&world) {
            Ok(program) => fs::read(program).expect("a program"),
            Err(reason) => {
                skip(test, reason);
                return None;
            }
        };
        world.init("p");
        let canary = canary(&world);
        symlink("passwd", canary.join("link")).expect("a link");
        let before = picture(&canary);
        Some(Self { world, program, canary, before })
    }

    /// Imports an image with these entries and lets the project run in it.
    pub(crate) fn image(&self, entries: &[Entry<'_>]) {
        let own = [Entry::Folder("bin"), Entry::File("bin/mark", &self.program, 0o755)];
        let all: Vec<Entry<'_>> = own.iter().chain(entries).copied().collect();
        let tar = self.world.work.join("image.tar");
        archive(&tar, &all);
        self.world.smidr().args(["image", "import"]).arg(&tar).args(["--name", "odd"]).run().expect_code(0);
        self.world.edit_host("odd");
    }

    /// Runs the program, which tries to write into `folders`. It must run, and leave nothing on this machine.
    #[track_caller]
    fn attempt(&self, what: &str, folders: &[&str]) {
        let marks = folders.iter().map(|folder| format!("{folder}/mark-of-the-image"));
        let done = self.world.smidr().args(["run", "--", "/bin/mark"]).args(marks).run();
        assert_eq!((done.code, done.out.as_str()), (Some(0), "ran\n"), "{what}: {done:?}");
        self.unharmed(what);
    }

    #[track_caller]
    pub(crate) fn unharmed(&self, what: &str) {
        assert_eq!(picture(&self.canary), self.before, "{what}: the canary was touched");
    }

    /// Ways to the canary: by its name, climbing, through what a container's setup might leave open, and through /proc.
    fn ways(&self) -> Vec<String> {
        let path = self.canary.display();
        let before =
            ["", "../../../../../../../../..", "/oldroot", "/proc/self/root", "/proc/1/root", "/tmp/root/..", "/.old"];
        before.iter().map(|before| format!("{before}{path}")).collect()
    }
}

/// Folders that must be there before a link can be put into them.
fn parents(path: &str) -> Vec<String> {
    let folders = Path::new(path).ancestors().skip(1).filter(|folder| *folder != Path::new(""));
    let mut folders: Vec<String> = folders.map(|folder| folder.display().to_string()).collect();
    folders.reverse();
    folders
}

/// Every place below the root that the sandbox, or a file that it writes, needs.
const DEEP: [&str; 14] = [
    "dev/pts",
    "dev/shm",
    "dev/null",
    "dev/ptmx",
    "dev/fd",
    "dev/net",
    "etc/passwd",
    "etc/group",
    "etc/resolv.conf",
    "etc/ssl/certs",
    "etc/pki/tls",
    "proc/self",
    "sys/fs",
    ".smidr/launch.py",
];

const WRITTEN: [&str; 8] = ["", "/dev", "/dev/shm", "/dev/pts", "/etc", "/run", "/sys", "/proc/self"];

#[test]
fn links_at_mount_points_below_the_root() {
    let Some(yard) = Yard::new("hostile_roots::links_at_mount_points_below_the_root", World::new()) else { return };
    let folders: Vec<String> = DEEP.iter().flat_map(|place| parents(place)).collect();
    let with_folders = |entries: Vec<Entry<'_>>| {
        let mut seen = std::collections::BTreeSet::new();
        let new = folders.iter().filter(|folder| seen.insert(folder.as_str()));
        yard.image(&new.map(|folder| Entry::Folder(folder)).chain(entries).collect::<Vec<_>>());
    };
    for way in yard.ways() {
        with_folders(DEEP.map(|place| Entry::Link(place, &way)).into());
        yard.attempt(&format!("all -> {way}"), &WRITTEN);
    }
    // One link of links, to the file that is there, and with it the wrong kind of thing.
    let passwd = yard.canary.join("passwd").display().to_string();
    with_folders(DEEP.map(|place| Entry::Link(place, &passwd)).into());
    yard.attempt("all -> a file of this machine", &WRITTEN);
    with_folders(DEEP.map(|place| Entry::File(place, b"text", 0o644)).into());
    yard.attempt("all are files", &WRITTEN);
    with_folders(DEEP.map(Entry::Folder).into());
    yard.attempt("all are folders", &WRITTEN);
}

#[test]
fn links_at_mount_points_in_the_root() {
    let Some(yard) = Yard::new("hostile_roots::links_at_mount_points_in_the_root", World::new()) else { return };
    const PLACES: [&str; 9] = ["tmp", "dev", "proc", "etc", "run", "sys", "var", ".smidr", "home"];
    for way in yard.ways() {
        yard.image(&PLACES.map(|place| Entry::Link(place, &way)));
        yard.attempt(&format!("all -> {way}"), &WRITTEN);
    }
}

/// A world whose workspaces are not below a folder that the sandbox hides under a tmpfs anyhow.
fn in_plain_sight(test: &str) -> Option<World> {
    let hidden = |place: &PathBuf| ["/tmp", "/var/tmp", "/run", "/dev"].iter().any(|tmpfs| place.starts_with(tmpfs));
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let places = ["/srv", "/opt", "/var/lib", "/home", "/mnt"].map(PathBuf::from).into_iter().chain(home);
    let world = places.filter(|place| !hidden(place)).find_map(|place| World::new_in(&place).ok());
    if world.is_none() {
        skip(test, "no folder outside of /tmp can be written by this user");
    }
    world
}

/// The folders on the way to the workspace, without the slash that they begin with.
fn way_to_the_workspace(world: &World) -> Vec<String> {
    let workspaces = world.smidr.join("workspaces");
    let name = World::names(&workspaces).into_iter().next().expect("a workspace");
    let path = workspaces.join(name).join("build/tmp").display().to_string();
    let mut way = parents(path.trim_start_matches('/'));
    way.push(path.trim_start_matches('/').into());
    way
}

#[test]
fn links_in_the_path_of_the_workspace() {
    let name = "hostile_roots::links_in_the_path_of_the_workspace";
    let Some(yard) = in_plain_sight(name).and_then(|world| Yard::new(name, world)) else { return };
    yard.image(&[]);
    yard.attempt("an image without harm", &WRITTEN);
    let way = way_to_the_workspace(&yard.world);
    assert!(way.len() > 5, "{way:?}");
    let (workspace, build) = (format!("/{}", way[way.len() - 3]), format!("/{}", way[way.len() - 2]));
    for (at, place) in way.iter().enumerate() {
        let above: Vec<Entry<'_>> = way[..at].iter().map(|folder| Entry::Folder(folder)).collect();
        let mut kinds: Vec<(String, Entry<'_>)> =
            vec![(format!("{place} is a file"), Entry::File(place, b"text", 0o600))];
        let ways = yard.ways();
        kinds.extend(ways[..4].iter().map(|way| (format!("{place} -> {way}"), Entry::Link(place, way))));
        for (what, entry) in kinds {
            yard.image(&above.iter().copied().chain([entry]).collect::<Vec<_>>());
            yard.attempt(&what, &[&workspace, &build, "", "/etc"]);
            let mark = Path::new(&build).join("mark-of-the-image");
            assert!(mark.exists(), "{what}: what a build writes stands where it should");
            fs::remove_file(mark).expect("remove the mark");
        }
    }
}

/// The same images, given to a bubblewrap that follows links of the image when it makes mount points (CVE-2026-87766): without such a
/// row the tests above could not be shown to be able to fail.
#[test]
fn an_old_bubblewrap_fails_the_same_table() {
    let name = "hostile_roots::an_old_bubblewrap_fails_the_same_table";
    let Some(bwrap) = tool("bwrap") else { return skip(name, "there is no bwrap(1) to compare with") };
    let Some(yard) = Yard::new(name, World::new()) else { return };
    let root = yard.world.work.join("root");
    fs::create_dir_all(root.join("bin")).expect("a folder");
    fs::write(root.join("bin/mark"), &yard.program).expect("a file");
    fs::set_permissions(root.join("bin/mark"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
    let home = yard.world.home.display().to_string();
    // Each place of the tables above that bwrap is asked to mount something at, one at a time.
    let rows: [(&str, &[&str]); 9] = [
        ("workspace", &["--bind", &home, "/workspace/made"]),
        ("proc", &["--proc", "/proc"]),
        ("dev", &["--dev", "/dev"]),
        ("tmp", &["--tmpfs", "/tmp"]),
        ("run", &["--tmpfs", "/run"]),
        ("etc", &["--ro-bind", "/etc/hosts", "/etc/hosts"]),
        ("sys", &["--dir", "/sys/made"]),
        ("var", &["--tmpfs", "/var/tmp"]),
        ("home", &["--bind", &home, "/home/made"]),
    ];
    let (mut touched, mut told) = (Vec::new(), Vec::new());
    for (place, mount) in rows {
        let (mut hits, mut ran) = (0, 0);
        for way in yard.ways() {
            symlink(&way, root.join(place)).expect("a link");
            let before = picture(&yard.canary);
            let mut command = Command::new(&bwrap);
            command.args(["--unshare-user", "--bind"]).arg(&root).arg("/").args(mount).arg("/bin/mark");
            ran += u32::from(command.output().expect("bwrap starts").status.success());
            fs::remove_file(root.join(place)).expect("remove the link");
            if picture(&yard.canary) != before {
                hits += 1;
                if place == "workspace" {
                    touched.push(way);
                }
            }
        }
        told.push(format!("{place} {hits} of {ran}"));
    }
    let told = format!("bwrap, places of this machine that were touched, of roots that ran: {}", told.join(", "));
    let _ = io::stderr().write_all(format!("{told}\n").as_bytes());
    if touched.is_empty() {
        return skip(name, &format!("this bwrap follows no link of an image ({told})"));
    }
    // Its picture differs now, if only by times; the very same link does no harm here.
    let before = picture(&yard.canary);
    let first = yard.world.smidr.components().nth(1).expect("a folder").as_os_str().to_string_lossy().into_owned();
    yard.image(&[Entry::Link("workspace", &touched[0]), Entry::Link(&first, &touched[0])]);
    let done = yard.world.smidr().args(["run", "--", "/bin/mark", "/workspace/made/mark"]).run();
    done.expect_code(0);
    assert_eq!(picture(&yard.canary), before);
}

/// Changes the working directory in the config of the image in a layout.
fn set_working_folder(layout: &Path, folder: &str) {
    let blobs = layout.join("blobs/sha256");
    let read = |digest: &Value| {
        let hex = digest.as_str().and_then(|text| text.strip_prefix("sha256:")).expect("a digest").to_owned();
        serde_json::from_slice::<Value>(&fs::read(blobs.join(hex)).expect("a blob")).expect("JSON")
    };
    let add = |document: &Value| {
        let bytes = document.to_string().into_bytes();
        let hex = hex::encode(Sha256::digest(&bytes));
        fs::write(blobs.join(&hex), &bytes).expect("a blob");
        (Value::from(format!("sha256:{hex}")), Value::from(bytes.len()))
    };
    let index_file = layout.join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&index_file).expect("an index")).expect("JSON");
    let mut manifest = read(&index["manifests"][0]["digest"]);
    let mut config = read(&manifest["config"]["digest"]);
    config["config"]["WorkingDir"] = folder.into();
    config["config"]["User"] = "2147483648:nobody".into();
    config["config"]["Entrypoint"] = serde_json::json!(["/proc/self/exe"]);
    config["config"]["Volumes"] = serde_json::json!({ folder: {}, "/etc": {} });
    (manifest["config"]["digest"], manifest["config"]["size"]) = add(&config);
    (index["manifests"][0]["digest"], index["manifests"][0]["size"]) = add(&manifest);
    fs::write(index_file, index.to_string()).expect("an index");
}

#[test]
fn the_images_working_directory_is_ignored() {
    let Some(yard) = Yard::new("hostile_roots::the_images_working_directory_is_ignored", World::new()) else {
        return;
    };
    let way = yard.canary.display().to_string();
    yard.image(&[Entry::Link("link", &way)]);
    let layout = yard.world.work.join("layout");
    yard.world.smidr().args(["image", "export", "odd"]).arg(&layout).run().expect_code(0);
    for folder in ["/proc/self/fd/7", "/proc/self/fd/3/../../..", "/link/new", "../../..", "relative", "/new"] {
        set_working_folder(&layout, folder);
        yard.world.smidr().args(["image", "import"]).arg(&layout).args(["--name", "odd"]).run().expect_code(0);
        yard.world.edit_host("odd");
        // A name without a slash is written into the folder in which the program starts.
        let done = yard.world.smidr().args(["run", "--", "/bin/mark", "started-here"]).run();
        assert_eq!((done.code, done.out.as_str()), (Some(0), "ran\n"), "{folder}: {done:?}");
        yard.unharmed(folder);
        let workspaces = yard.world.smidr.join("workspaces");
        let mark = workspaces.join(&World::names(&workspaces)[0]).join("build/started-here");
        fs::remove_file(&mark).unwrap_or_else(|error| panic!("{folder}: {}: {error}", mark.display()));
    }
}

fn inside(world: &World, script: &str) -> Done {
    world.smidr().args(["run", "--", "sh", "-c", script]).run()
}

#[test]
fn config_folders_behind_links_show_only_their_target() {
    let Some(world) = World::with_project("hostile_roots::config_folders_behind_links_show_only_their_target") else {
        return;
    };
    // A folder that stands behind links, beside one whose name begins the same.
    let shared = world.work.join("shared");
    for folder in ["real/cache", "real/cache-evil", "real/cache/inner"] {
        fs::create_dir_all(shared.join(folder)).expect("folders");
    }
    symlink("real", shared.join("link")).expect("a link");
    symlink("link/cache", shared.join("twice")).expect("a link");
    symlink("../../cache-evil", shared.join("real/cache/inner/out")).expect("a link");
    fs::write(shared.join("real/cache-evil/secret"), "mine").expect("a file");
    let evil = picture(&shared.join("real/cache-evil"));
    let named = shared.join("twice").display().to_string();
    world.append(&format!("directories: {{downloads: {named}}}\n"));
    let script = format!(
        "echo mine > {named}/made; ls {0} {0}/real 2>&1; cat {0}/real/cache-evil/secret {named}/inner/out/secret \
         {named}-evil/secret {named}/../real/cache-evil/secret; echo x > {named}/inner/out/new; echo x > {0}/real/cache-evil/new; \
         mkdir -p {0}/real/cache-evil; true",
        shared.display()
    );
    let done = inside(&world, &script);
    done.expect_code(0);
    assert!(!done.out.contains("mine"), "{}", done.out);
    done.expect_out("twice\n");
    assert!(!done.out.contains("cache-evil"), "{}", done.out);
    assert_eq!(fs::read_to_string(shared.join("real/cache/made")).expect("a file"), "mine\n");
    assert_eq!(picture(&shared.join("real/cache-evil")), evil);
}

#[test]
fn links_that_a_build_puts_at_its_folders_are_not_followed() {
    let Some(world) = World::with_project("hostile_roots::links_that_a_build_puts_at_its_folders_are_not_followed")
    else {
        return;
    };
    let canary = canary(&world);
    let before = picture(&canary);
    inside(&world, "true").expect_code(0);
    let workspaces = world.smidr.join("workspaces");
    let workspace = workspaces.join(&World::names(&workspaces)[0]);
    let way = canary.display().to_string();
    for place in ["build", "build/conf", "build/conf/local.conf", "build/tmp", "home"] {
        for target in
            [way.clone(), format!("../../../../../../../..{way}"), format!("{way}/passwd"), "/proc/self/root".into()]
        {
            let script = format!("cd {0} && rm -rf {place}; ln -sfn {target} {place}", workspace.display());
            inside(&world, &script).expect_code(0);
            let done = world.smidr().args(["run", "true"]).run();
            assert_eq!(picture(&canary), before, "{place} -> {target}");
            refused_or_replaced(&done, 125, &format!("{place} -> {target}"));
            let _ = fs::remove_file(workspace.join(place));
        }
        // What is removed for a clean build is no canary either.
        inside(&world, &format!("cd {0} && rm -rf {place}; ln -sfn {way} {place}", workspace.display())).expect_code(0);
        let done = world.smidr().args(["build", "--clean", "--fetch-only", "--target", "libgreet"]).run();
        assert_eq!(picture(&canary), before, "{place} in a clean build");
        // A conf that BitBake cannot find fails the build.
        refused_or_replaced(&done, if done.code == Some(1) { 1 } else { 3 }, place);
        let _ = fs::remove_file(workspace.join(place));
    }
    inside(&world, "true").expect_code(0);
}

/// A link where a folder should be is replaced, or refused with something to type.
#[track_caller]
fn refused_or_replaced(done: &Done, code: i32, what: &str) {
    assert!(done.code == Some(0) || done.code == Some(code), "{what}: {done:?}");
    if ![Some(0), Some(1)].contains(&done.code) {
        done.expect_one_error().expect_err("hint: ");
    }
}
