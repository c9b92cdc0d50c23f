//! From a rootfs recipe to an image in the store.
//!
//! A package base is resolved and verified by the host's own apt, unpacked as the caller, and configured by dpkg in a sandbox
//! that maps the caller to uid 0 and answers `done` to what only root can do. The result is packed with every file owned by 0:0.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    recipes::{FoundRecipe, RecipeError},
    steps::{HOST_FOLDER, StepError, Steps, make_points},
};
use crate::{
    events::Emitter,
    host::{
        files::{FileError, remove_tree, write_atomically},
        lock::{self, Mode},
        process::Spawner,
        rooted::{Rooted, RootedError},
        stop::Stop,
    },
    image::{
        ImageError, ImageName, ImageStore, NewImage, RootFs, Scratch, StoredImage,
        apt::{Apt, AptError, Resolved},
        recipe::{Base, FileCopy, Pip, Suite},
    },
    lock::PackageLock,
    model::{Activity, Event, Explain, HostFacts, InvalidName, Kind, Paths, Unit},
    plan::Root,
};

/// Labels of an image that was made here: the recipe's digest, and the packages as JSON.
pub const RECIPE_LABEL: &str = "org.smidr.recipe";
/// See [`RECIPE_LABEL`].
pub const PACKAGES_LABEL: &str = "org.smidr.packages";

/// What nobody reads on a build host, and what takes a third of the time to unpack. Copyright files stay.
const LEFT_OUT: &str = "# Written by smidr: what nobody reads on a build host.
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/lintian/*
path-exclude=/usr/share/locale/*
";

/// What differs from one run to the next, or belongs to the machine that it was made on.
const LEFTOVERS: [&str; 16] = [
    "etc/.pwd.lock",
    "etc/group-",
    "etc/gshadow-",
    "etc/passwd-",
    "etc/shadow-",
    "etc/machine-id",
    "etc/hostname",
    "var/cache/apt",
    "var/cache/debconf",
    "var/cache/ldconfig",
    "var/lib/apt/lists",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/statoverride-old",
    "var/log",
    "root/.cache",
];

/// Folders that programs expect, after [`LEFTOVERS`] went.
const EXPECTED: [&str; 3] = ["var/cache", "var/log", "var/lib/apt/lists"];

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageBuildError {
    /// The recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// Its name cannot be an image's.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// Its base is not in the store.
    #[error("the rootfs recipe `{recipe}` begins with the image `{base}`, which is not in the store")]
    NoBase {
        /// The recipe.
        recipe: String,
        /// The image.
        base: String,
    },
    /// Packages.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// A package could not be unpacked.
    #[error("cannot unpack {package}: {said}")]
    Unpack {
        /// Its file.
        package: PathBuf,
        /// What dpkg-deb or tar said.
        said: String,
    },
    /// A step in the image.
    #[error(transparent)]
    Step(#[from] StepError),
    /// A file could not be put into the image.
    #[error("cannot put a file into the image")]
    Place(#[from] RootedError),
    /// The store.
    #[error(transparent)]
    Store(#[from] ImageError),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Explain for ImageBuildError {
    fn kind(&self) -> Kind {
        match self {
            Self::Recipe(error) => error.kind(),
            Self::Name(_) | Self::NoBase { .. } => Kind::Request,
            Self::Apt(error) => error.kind(),
            Self::Unpack { .. } => Kind::Host,
            Self::Step(error) => error.kind(),
            Self::Place(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::File(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Recipe(error) => error.hint(),
            Self::NoBase { base, .. } => Some(format!("bring it:  smidr image import FILE --name {base}")),
            Self::Apt(error) => error.hint(),
            Self::Step(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::File(error) => error.hint(),
            _ => None,
        }
    }
}

/// What making images needs.
pub struct Workshop<'a> {
    /// Shared folders.
    pub paths: &'a Paths,
    /// This machine.
    pub facts: &'a HostFacts,
    /// Where images go.
    pub store: &'a ImageStore,
    /// Starts processes.
    pub spawner: &'a Spawner,
    /// Whether somebody wants it to stop.
    pub stop: &'a Stop,
    /// Hears how it goes.
    pub on: &'a Emitter,
}

/// Makes the image of a recipe. With `pinned`, of exactly those packages.
///
/// # Errors
///
/// Whatever step failed first; nothing is left behind but downloaded packages.
pub fn build(
    w: &Workshop<'_>,
    found: &FoundRecipe,
    pinned: &BTreeMap<String, PackageLock>,
) -> Result<StoredImage, ImageBuildError> {
    let name: ImageName = found.name.parse()?;
    let scratch = w.store.scratch()?;
    let mut labels = BTreeMap::from([(RECIPE_LABEL.to_owned(), found.digest.to_string())]);
    let (base, epoch) = match &found.recipe.base {
        Base::Packages(suite) => {
            let packages = package_base(w, found, suite, &scratch, pinned)?;
            labels.insert(PACKAGES_LABEL.into(), serde_json::to_string(&packages.lock).unwrap_or_default());
            (None, packages.epoch)
        }
        Base::Image(base) => {
            let image = w.store.find(base)?;
            let image =
                image.ok_or_else(|| ImageBuildError::NoBase { recipe: found.name.clone(), base: base.text.clone() })?;
            let root = w.store.checkout(&image, w.on)?;
            let epoch = image.created.as_second();
            image_base(w, found, &scratch, &root, epoch)?;
            (Some(image), epoch)
        }
    };
    w.on.emit(Event::RecipeStep { recipe: found.name.clone(), step: "pack the layer".into() });
    let env = found.recipe.env.iter().map(|(name, value)| (name.text.clone(), value.text.clone())).collect();
    let created_by = format!("smidr image build {}", found.name);
    Ok(w.store.publish(NewImage { name, base, tree: scratch, env, labels, created_by, epoch }, w.on)?)
}

struct Packages {
    lock: BTreeMap<String, PackageLock>,
    epoch: i64,
}

fn package_base(
    w: &Workshop<'_>,
    found: &FoundRecipe,
    suite: &Suite,
    scratch: &Scratch,
    pinned: &BTreeMap<String, PackageLock>,
) -> Result<Packages, ImageBuildError> {
    let cache = w.paths.images().join("packages").join(format!("{}-{}", suite.distribution, suite.suite));
    let lock_path = lock::path_in(&w.paths.locks(), &format!("packages-{}-{}", suite.distribution, suite.suite));
    let holder = format!("image build {}", found.name);
    let waiting = |other: &str| {
        w.on.emit(Event::Waiting { resource: "the package cache".into(), holder: other.into() });
    };
    let _cache_lock = lock::lock(&lock_path, Mode::Exclusive, &holder, waiting)?;
    w.step(found, "resolve and download packages");
    let wanted: Vec<String> = found.recipe.packages.iter().map(|text| text.text.clone()).collect();
    let resolved = Apt::new(&cache, suite, w.spawner, w.on)?.resolve(&wanted, pinned)?;
    let epoch = newest(&resolved.all)?;
    let tree = scratch.path();
    w.step(found, "unpack the essential packages");
    lay_foundation(tree, &resolved.architecture)?;
    unpack_all(w, &resolved.essential, tree)?;
    let mut binds = host_files(w, scratch)?;
    binds.push((cache.join("archives"), Path::new(HOST_FOLDER).join("packages")));
    let mut steps = Steps::new(Root::Folder(tree.into()), tree, w.facts, binds, w.spawner, w.stop)?;
    prepare_env(w, found, &mut steps, epoch);
    configure(w, found, &steps, &resolved)?;
    own_steps(w, found, &steps, tree)?;
    steps.finish()?;
    clean(tree)?;
    settle_folders(tree, epoch)?;
    Ok(Packages { lock: resolved.lock, epoch })
}

fn image_base(
    w: &Workshop<'_>,
    found: &FoundRecipe,
    scratch: &Scratch,
    base: &RootFs,
    epoch: i64,
) -> Result<(), ImageBuildError> {
    // Mount points stand below the image, where they hide nothing and are not packed; the kernel's own folder beside.
    let skeleton = scratch.side("points")?;
    let work = scratch.side("work")?;
    let lower = base.diffs().iter().rev().cloned().chain([skeleton.clone()]).collect();
    let root = Root::Writable { lower, upper: scratch.path().into(), work };
    let binds = host_files(w, scratch)?;
    let mut steps = Steps::new(root, scratch.path(), w.facts, binds, w.spawner, w.stop)?;
    make_points(&skeleton, &steps.mount_points())?;
    for (name, value) in base.env() {
        steps.set(name, value.clone());
    }
    prepare_env(w, found, &mut steps, epoch);
    if !found.recipe.packages.is_empty() {
        w.step(found, "install packages with the image's own apt");
        let mut install =
            vec!["apt-get", "-q", "-y", "-o", "APT::Sandbox::User=root", "--no-install-recommends", "install"];
        install.extend(found.recipe.packages.iter().map(|text| text.text.as_str()));
        steps.run("apt-get update", &["apt-get", "-q", "-o", "APT::Sandbox::User=root", "update"], |_| {})?;
        steps.run("apt-get install", &install, |_| {})?;
    }
    own_steps(w, found, &steps, scratch.path())?;
    steps.finish()?;
    clean(scratch.path())
}

/// What a recipe does after its packages are there.
fn own_steps(w: &Workshop<'_>, found: &FoundRecipe, steps: &Steps<'_>, tree: &Path) -> Result<(), ImageBuildError> {
    if let Some(pip) = &found.recipe.pip {
        w.step(found, "install Python packages");
        install_pip(steps, pip)?;
    }
    for copy in &found.recipe.files {
        place_files(found, copy, tree)?;
    }
    for command in &found.recipe.commands {
        w.step(found, command);
        steps.run(&format!("the command `{command}`"), &["/bin/sh", "-ec", command], |_| {})?;
    }
    Ok(())
}

impl Workshop<'_> {
    fn step(&self, found: &FoundRecipe, step: &str) {
        self.on.emit(Event::RecipeStep { recipe: found.name.clone(), step: step.into() });
    }
}

/// When the newest package was built, from the headers of the archives: the same packages, the same time.
fn newest(packages: &[PathBuf]) -> Result<i64, FileError> {
    use std::io::Read as _;
    // deb(5): `!<arch>\n`, then a member header of which bytes 16 to 28 are the time in decimal.
    let mut newest = 0;
    for path in packages {
        let mut header = [0; 36];
        let mut file = fs::File::open(path).map_err(FileError::new("read the package", path))?;
        file.read_exact(&mut header).map_err(FileError::new("read the package", path))?;
        let time = String::from_utf8_lossy(&header[24..36]).trim().parse().unwrap_or(0);
        newest = newest.max(time);
    }
    Ok(newest)
}

/// What has to be there before the first package: dpkg's database, and /usr as the home of /bin, /lib and /sbin.
fn lay_foundation(tree: &Path, architecture: &str) -> Result<(), FileError> {
    let make = |path: &str| {
        let path = tree.join(path);
        fs::create_dir_all(&path).map_err(FileError::new("make the folder", &path))
    };
    for folder in ["etc/dpkg/dpkg.cfg.d", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"] {
        make(folder)?;
    }
    // Debian since 12 and Ubuntu since 23.10 expect a merged /usr, and their packages cannot make the links themselves.
    let wide: &[&str] = if architecture == "amd64" { &["lib64"] } else { &[] };
    for name in ["bin", "sbin", "lib"].iter().chain(wide) {
        make(&format!("usr/{name}"))?;
        let link = tree.join(name);
        symlink(format!("usr/{name}"), &link).map_err(FileError::new("make the link", &link))?;
    }
    for file in ["status", "available"] {
        write_atomically(&tree.join("var/lib/dpkg").join(file), b"", 0o644)?;
    }
    write_atomically(&tree.join("etc/dpkg/dpkg.cfg.d/smidr"), LEFT_OUT.as_bytes(), 0o644)
}

/// Unpacks packages as the caller, several at once: owners are dropped, as everything is by decree root's later.
fn unpack_all(w: &Workshop<'_>, packages: &[PathBuf], tree: &Path) -> Result<(), ImageBuildError> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let worker = || {
        while let Some(package) = packages.get(next.fetch_add(1, Ordering::SeqCst)) {
            if let Err(error) = unpack(w, package, tree) {
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                next.store(packages.len(), Ordering::SeqCst);
            }
            let done = next.load(Ordering::SeqCst).min(packages.len()) as u64;
            w.on.progress(Activity::Unpack, "essential packages", done, Some(packages.len() as u64), Unit::Items);
        }
    };
    thread::scope(|scope| {
        for _ in 0..w.facts.cpus.clamp(1, 4) {
            scope.spawn(worker);
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn unpack(w: &Workshop<'_>, package: &Path, tree: &Path) -> Result<(), ImageBuildError> {
    let failed = |said: String| ImageBuildError::Unpack { package: package.into(), said };
    let io = |error: std::io::Error| failed(error.to_string());
    let mut source = w.spawner.command("dpkg-deb");
    source.arg("--fsys-tarfile").arg(package).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut source = w.spawner.spawn(source, Vec::new()).map_err(io)?;
    let mut sink: Command = w.spawner.command("tar");
    // Folders that are links already, as /bin is, stay links.
    sink.args(["--extract", "--keep-directory-symlink", "--no-same-owner", "--same-permissions", "--directory"])
        .arg(tree);
    sink.stdin(source.stdout.take().map_or_else(Stdio::null, Stdio::from)).stdout(Stdio::null()).stderr(Stdio::piped());
    let sink = w.spawner.spawn(sink, Vec::new()).map_err(io)?;
    let outputs = [sink.wait_with_output().map_err(io)?, source.wait_with_output().map_err(io)?];
    match outputs.iter().find(|output| !output.status.success()) {
        Some(output) => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        None => Ok(()),
    }
}

/// Files of the host that steps need: how names are resolved, whom to trust, how pip reaches its registry.
fn host_files(w: &Workshop<'_>, scratch: &Scratch) -> Result<Vec<(PathBuf, PathBuf)>, ImageBuildError> {
    let side = scratch.side("host")?;
    let resolv_conf = side.join("resolv.conf");
    write_atomically(&resolv_conf, w.facts.resolv_conf.as_bytes(), 0o644)?;
    let inside = |name: &str| Path::new(HOST_FOLDER).join(name);
    let mut files = vec![(resolv_conf, "/etc/resolv.conf".into())];
    if let Some(bundle) = &w.facts.ca_bundle {
        files.push((fs::canonicalize(bundle).unwrap_or_else(|_| bundle.clone()), inside("ca.crt")));
    }
    if let Some(config) = pip_config(w.facts) {
        files.push((config, inside("pip.conf")));
    }
    Ok(files)
}

/// The host's own configuration of pip, in pip's order (pip's user guide, "Configuration").
fn pip_config(facts: &HostFacts) -> Option<PathBuf> {
    let named =
        facts.environment.iter().find(|(name, _)| name == "PIP_CONFIG_FILE").map(|(_, path)| PathBuf::from(path));
    let usual = [facts.home.join(".config/pip/pip.conf"), facts.home.join(".pip/pip.conf"), "/etc/pip.conf".into()];
    let found = named.into_iter().chain(usual).find(|path| path.is_file())?;
    fs::canonicalize(found).ok()
}

fn prepare_env(w: &Workshop<'_>, found: &FoundRecipe, steps: &mut Steps<'_>, epoch: i64) {
    steps.set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    for (name, value) in [
        ("HOME", "/root"),
        ("LC_ALL", "C.UTF-8"),
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
        ("PYTHONHASHSEED", "0"),
        ("TZ", "UTC"),
    ] {
        steps.set(name, value);
    }
    steps.set("SOURCE_DATE_EPOCH", epoch.to_string());
    for (name, value) in &w.facts.fetch_env {
        steps.set(name, value.clone());
    }
    for (name, value) in w.facts.environment.iter().filter(|(name, _)| is_pip_network(name)) {
        steps.set(name, value.clone());
    }
    if w.facts.ca_bundle.is_some() {
        for name in ["SSL_CERT_FILE", "PIP_CERT", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO"] {
            steps.set(name, format!("{HOST_FOLDER}/ca.crt"));
        }
    }
    if pip_config(w.facts).is_some() {
        steps.set("PIP_CONFIG_FILE", format!("{HOST_FOLDER}/pip.conf"));
    }
    for (name, value) in &found.recipe.env {
        steps.set(name, value.text.clone());
    }
}

/// How pip reaches its registry; nothing that names a folder of the host.
fn is_pip_network(name: &str) -> bool {
    const KNOWN: [&str; 7] = [
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
        "PIP_TRUSTED_HOST",
        "PIP_PROXY",
        "PIP_DEFAULT_TIMEOUT",
        "PIP_TIMEOUT",
        "PIP_RETRIES",
    ];
    KNOWN.contains(&name)
}

/// Lets dpkg install everything in one go: it finds the order itself.
fn configure(
    w: &Workshop<'_>,
    found: &FoundRecipe,
    steps: &Steps<'_>,
    resolved: &Resolved,
) -> Result<(), ImageBuildError> {
    w.step(found, "configure packages");
    let files: Vec<String> = resolved
        .all
        .iter()
        .filter_map(|path| Some(format!("{HOST_FOLDER}/packages/{}", path.file_name()?.to_str()?)))
        .collect();
    let mut argv = vec!["dpkg", "--force-depends", "--force-unsafe-io", "--install"];
    argv.extend(files.iter().map(String::as_str));
    let total = 2 * files.len() as u64;
    let mut done = 0;
    steps.run("dpkg --install", &argv, |line| {
        if line.starts_with("Unpacking ") || line.starts_with("Setting up ") {
            done += 1;
            w.on.progress(Activity::Configure, "packages", done.min(total), Some(total), Unit::Items);
        }
    })?;
    // --force-depends would let a package through that lacks another one.
    Ok(steps.run("dpkg --audit", &["/bin/sh", "-c", "dpkg --audit; test -z \"$(dpkg --audit)\""], |_| {})?)
}

/// What `pip install` runs as. pip itself would compile in a folder with a random name, which it writes into what it compiles;
/// and as files get the time of the recipe's packages in the end, compiled files must not depend on it.
const PIP_INSTALL: &str = r#"
printf '%s\n' "$1" > /tmp/requirements.txt
target=${2:-}
# Recent Debian keeps its Python to itself unless told otherwise; older pips ignore the variable.
export PIP_BREAK_SYSTEM_PACKAGES=1
python3 -m pip install --quiet --no-cache-dir --disable-pip-version-check --no-compile --no-deps --require-hashes \
    --root-user-action=ignore --requirement /tmp/requirements.txt ${target:+--target "$target"}
python3 -m compileall -q --invalidation-mode unchecked-hash "${target:-/usr/local/lib}"
"#;

fn install_pip(steps: &Steps<'_>, pip: &Pip) -> Result<(), StepError> {
    let lines: Vec<&str> = pip.requirements.iter().map(|text| text.text.as_str()).collect();
    let joined = lines.join("\n");
    let target = pip.target.as_ref().map_or("", |target| &target.text);
    steps.run("pip install", &["/bin/sh", "-ec", PIP_INSTALL, "pip", &joined, target], |_| {})
}

fn place_files(found: &FoundRecipe, copy: &FileCopy, tree: &Path) -> Result<(), ImageBuildError> {
    use std::{io::Write as _, os::unix::fs::PermissionsExt as _};
    let root = Rooted::open(tree)?;
    for file in found.sources(&copy.source)? {
        let dest = if file.path.as_os_str().is_empty() {
            copy.dest.text.clone().into()
        } else {
            Path::new(&*copy.dest).join(&file.path)
        };
        if let Some(folder) = dest.parent() {
            root.make_dirs(folder, 0o755)?;
        }
        let mode = copy.mode.unwrap_or(if file.executable { 0o755 } else { 0o644 });
        let write = || -> Result<(), ImageBuildError> {
            let mut out = root.create_file(&dest)?;
            out.write_all(&file.content).map_err(FileError::new("write", &dest))?;
            Ok(out.set_permissions(fs::Permissions::from_mode(mode)).map_err(FileError::new("write", &dest))?)
        };
        write()?;
    }
    Ok(())
}

/// Gives all folders one time: theirs says only which of the packages that were unpacked at once came last.
fn settle_folders(tree: &Path, epoch: i64) -> Result<(), FileError> {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(epoch.unsigned_abs());
    for entry in walkdir::WalkDir::new(tree) {
        let entry = entry.map_err(|error| FileError::new("read", tree)(error.into()))?;
        if entry.file_type().is_dir() {
            let set = || fs::File::open(entry.path())?.set_modified(time);
            set().map_err(FileError::new("set the time of", entry.path()))?;
        }
    }
    Ok(())
}

fn clean(tree: &Path) -> Result<(), ImageBuildError> {
    for path in LEFTOVERS {
        let path = tree.join(path);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => remove_tree(&path)?,
            Ok(_) => fs::remove_file(&path).map_err(FileError::new("remove", &path))?,
            Err(_) => {}
        }
    }
    for path in EXPECTED {
        let path = tree.join(path);
        if path.parent().is_some_and(Path::is_dir) {
            fs::create_dir_all(&path).map_err(FileError::new("make the folder", &path))?;
        }
    }
    Ok(())
}
