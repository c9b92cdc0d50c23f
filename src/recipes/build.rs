//! From a rootfs recipe to an image in the store.
//!
//! A package base is resolved and verified by the host's own apt, unpacked as the caller, and configured by dpkg in a sandbox
//! that maps the caller to uid 0 and answers `done` to what only root can do. The result is packed with every file owned by 0:0.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{
    Context,
    apt::AptError,
    find::{self, FoundBase, FoundRecipe, RecipeError},
    packages::{self, PackageError},
    recipe::{Pip, Suite},
    steps::{Access, HOST_FOLDER, StepError, Steps, make_points},
};
use crate::{
    image::{ImageError, ImageName, ImageStore, NewImage, RootFs, Scratch, StoredImage},
    lock::PackagePin,
    model::{Digest, Event, Hint, InvalidName, Kind, SystemFacts, UserError},
    plan::Root,
    system::{
        files::{FileError, write_atomically},
        rooted::{Rooted, RootedError},
    },
};

/// Labels of an image that was made here: the recipe's digest, and the packages as JSON.
pub(crate) const RECIPE_LABEL: &str = "org.smidr.recipe";
/// See [`RECIPE_LABEL`].
pub(crate) const PACKAGES_LABEL: &str = "org.smidr.packages";

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
pub(crate) enum ImageBuildError {
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
    /// Packages are to be added to an image that was made here.
    #[error("the image `{base}` was made by smidr and has no package sources, so `{recipe}` cannot add packages to it")]
    NoSources {
        /// The recipe.
        recipe: String,
        /// The image.
        base: String,
    },
    /// Packages.
    #[error(transparent)]
    Packages(#[from] PackageError),
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

impl UserError for ImageBuildError {
    fn kind(&self) -> Kind {
        match self {
            Self::Recipe(error) => error.kind(),
            Self::Name(_) | Self::NoBase { .. } | Self::NoSources { .. } => Kind::Request,
            Self::Packages(error) => error.kind(),
            Self::Step(error) => error.kind(),
            Self::Place(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::File(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Recipe(error) => error.hints(),
            Self::NoBase { base, .. } => {
                vec![Hint::command("bring it", format!("smidr image import FILE --name {base}"))]
            }
            Self::NoSources { base, .. } => match find::shipped(base) {
                Some(_) => vec![Hint::config("begin with its recipe", format!("base: {{recipe: {base}}}"))],
                None => vec![Hint::new("add the packages to the recipe of that image")],
            },
            Self::Packages(error) => error.hints(),
            Self::Step(error) => error.hints(),
            Self::Store(error) => error.hints(),
            Self::File(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}

impl ImageBuildError {
    /// Whether this machine's apt does not know the recipe's distribution.
    pub(crate) fn is_of_another_distribution(&self) -> bool {
        matches!(self, Self::Packages(PackageError::Apt(AptError::NoMirror { .. } | AptError::NoKeyring(_))))
    }
}

/// What an image of this recipe is made from: the recipe itself, and the image that it begins with, as the store has it now.
///
/// # Errors
///
/// When the store does not have that image.
pub(crate) fn identity(store: &ImageStore, found: &FoundRecipe) -> Result<Digest, ImageBuildError> {
    match found.base() {
        FoundBase::Packages(_) => Ok(found.digest.clone()),
        FoundBase::Image(name) => {
            let text = format!("{} on {}", found.digest, base_image(store, found, name)?.manifest);
            Ok(Digest::from_sha256(Sha256::digest(text).into()))
        }
    }
}

fn base_image(store: &ImageStore, found: &FoundRecipe, name: &str) -> Result<StoredImage, ImageBuildError> {
    let image = store.find(name)?;
    image.ok_or_else(|| ImageBuildError::NoBase { recipe: found.name.clone(), base: name.into() })
}

/// The beginning of the source of each image that was made here.
const MADE_BY: &str = "smidr image build ";

/// What made the image of a recipe, for people.
fn made_by(found: &FoundRecipe) -> String {
    format!("{MADE_BY}{}", found.name)
}

/// Whether an image was made here of exactly this recipe. What was imported may have labels of another image, but not that source.
pub(crate) fn is_made_of(store: &ImageStore, image: &StoredImage, found: &FoundRecipe) -> bool {
    let label = image.config.labels.get(RECIPE_LABEL);
    image.source == made_by(found) && identity(store, found).is_ok_and(|digest| label == Some(&digest.to_string()))
}

/// Makes the image of a recipe. With `pinned`, of exactly those packages.
///
/// # Errors
///
/// Whatever step failed first; nothing is left behind but downloaded packages.
pub(crate) fn build(
    making: Context<'_>,
    found: &FoundRecipe,
    pinned: &BTreeMap<String, PackagePin>,
) -> Result<StoredImage, ImageBuildError> {
    let name: ImageName = found.image.parse()?;
    let scratch = making.store.scratch()?;
    let mut labels = BTreeMap::from([(RECIPE_LABEL.to_owned(), identity(making.store, found)?.to_string())]);
    let (base, epoch) = match found.base() {
        FoundBase::Packages(suite) => {
            let (lock, epoch) = package_base(making, found, suite, &scratch, pinned)?;
            labels.insert(PACKAGES_LABEL.into(), serde_json::to_string(&lock).unwrap_or_default());
            (None, epoch)
        }
        FoundBase::Image(base) => {
            let image = base_image(making.store, found, base)?;
            if !found.recipe.packages.is_empty() && image.source.starts_with(MADE_BY) {
                return Err(ImageBuildError::NoSources { recipe: found.name.clone(), base: base.into() });
            }
            let root = making.store.checkout(&image, making.on)?;
            let epoch = image.created.as_second();
            image_base(making, found, &scratch, &root, epoch)?;
            (Some(image), epoch)
        }
    };
    making.on.emit(Event::RecipeStep { recipe: found.name.clone(), step: "pack the layer".into() });
    let env = over(Vec::new(), found.env());
    let created_by = made_by(found);
    Ok(making.store.publish(NewImage { name, base, tree: scratch, env, labels, created_by, epoch }, making.on)?)
}

fn package_base(
    making: Context<'_>,
    found: &FoundRecipe,
    suite: &Suite,
    scratch: &Scratch,
    pinned: &BTreeMap<String, PackagePin>,
) -> Result<(BTreeMap<String, PackagePin>, i64), ImageBuildError> {
    let tree = scratch.path();
    making.step(found, "resolve and download packages");
    let chain = found.chain();
    let wanted: Vec<String> =
        chain.iter().flat_map(|recipe| &recipe.recipe.packages).map(|text| text.text.clone()).collect();
    let packages = packages::fetch(making, suite, &wanted, pinned, &format!("image build {}", found.name))?;
    making.step(found, "unpack the essential packages");
    packages::unpack_essential(making, &packages, tree)?;
    let mut binds = host_files(making, found, scratch)?;
    binds.push((packages.archives.clone(), Path::new(HOST_FOLDER).join("packages")));
    let root = Root::Folder(tree.into());
    let steps = Steps::new(root, tree, making.facts, binds, vec![pip_conf()], making.spawner, making.stop)?;
    making.step(found, "configure packages");
    let accesses = Accesses::new(making.facts, found, &found.env(), packages.epoch);
    packages::configure(making, &steps, &packages, &accesses.none)?;
    for (level, recipe) in found.chain().into_iter().enumerate() {
        let accesses = Accesses::new(making.facts, recipe, &recipe.env(), packages.epoch);
        own_steps(making, recipe, level, &steps, &accesses)?;
    }
    steps.finish()?;
    clean(tree)?;
    packages::settle_folders(tree, packages.epoch)?;
    Ok((packages.resolved.lock, packages.epoch))
}

fn image_base(
    making: Context<'_>,
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
    let binds = host_files(making, found, scratch)?;
    let steps = Steps::new(root, scratch.path(), making.facts, binds, vec![pip_conf()], making.spawner, making.stop)?;
    make_points(&skeleton, &steps.mount_points())?;
    let accesses = Accesses::new(making.facts, found, base.env(), epoch);
    if !found.recipe.packages.is_empty() {
        making.step(found, "install packages with the image's own apt");
        let mut install =
            vec!["apt-get", "-q", "-y", "-o", "APT::Sandbox::User=root", "--no-install-recommends", "install", "--"];
        install.extend(found.recipe.packages.iter().map(|text| text.text.as_str()));
        let update = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "update"];
        steps.run("apt-get update", &update, &accesses.apt, |_| {})?;
        steps.run("apt-get install", &install, &accesses.apt, |_| {})?;
    }
    own_steps(making, found, 0, &steps, &accesses)?;
    steps.finish()?;
    Ok(clean(scratch.path())?)
}

/// What a recipe does after its packages are there.
fn own_steps(
    making: Context<'_>,
    found: &FoundRecipe,
    level: usize,
    steps: &Steps<'_>,
    accesses: &Accesses,
) -> Result<(), ImageBuildError> {
    if let Some(pip) = &found.recipe.pip {
        making.step(found, "install Python packages");
        install_pip(steps, pip, &accesses.pip)?;
    }
    for (number, copy) in found.recipe.files.iter().enumerate() {
        let source = format!("{HOST_FOLDER}/files/{level}-{number}");
        let copying = ["/bin/sh", "-ec", COPY, "copy", &source, &copy.dest];
        steps.run(&format!("copy {}", copy.source), &copying, &accesses.none, |_| {})?;
    }
    for command in &found.recipe.commands {
        making.step(found, command);
        let step = format!("the command `{command}`");
        steps.run(&step, &["/bin/sh", "-ec", command], &accesses.commands, |_| {})?;
    }
    Ok(())
}

impl Context<'_> {
    fn step(self, found: &FoundRecipe, step: &str) {
        self.on.emit(Event::RecipeStep { recipe: found.name.clone(), step: step.into() });
    }
}

/// Files of the host that all steps may see: how names are resolved, whom to trust, what the recipe copies.
fn host_files(
    making: Context<'_>,
    found: &FoundRecipe,
    scratch: &Scratch,
) -> Result<Vec<(PathBuf, PathBuf)>, ImageBuildError> {
    let side = scratch.side("host")?;
    let resolv_conf = side.join("resolv.conf");
    write_atomically(&resolv_conf, making.facts.resolv_conf.as_bytes(), 0o644)?;
    let inside = |name: &str| Path::new(HOST_FOLDER).join(name);
    let own = scratch.side("files")?;
    lay_out_files(found, &own)?;
    let mut files = vec![(resolv_conf, "/etc/resolv.conf".into()), (own, inside("files"))];
    if let Some(bundle) = &making.facts.ca_bundle {
        files.push((fs::canonicalize(bundle).unwrap_or_else(|_| bundle.clone()), inside("ca.crt")));
    }
    Ok(files)
}

/// The host's own configuration of pip, in pip's order (pip's user guide, "Configuration").
fn pip_config(facts: &SystemFacts) -> Option<PathBuf> {
    let named =
        facts.environment.iter().find(|(name, _)| name == "PIP_CONFIG_FILE").map(|(_, path)| PathBuf::from(path));
    let usual = [facts.home.join(".config/pip/pip.conf"), facts.home.join(".pip/pip.conf"), "/etc/pip.conf".into()];
    let found = named.into_iter().chain(usual).find(|path| path.is_file())?;
    fs::canonicalize(found).ok()
}

/// Where pip's step finds the host's configuration of pip.
fn pip_conf() -> PathBuf {
    Path::new(HOST_FOLDER).join("pip.conf")
}

/// What each kind of step gets of this machine. Credentials go to apt and pip alone, in an environment that is all smidr's: a recipe's or
/// its base's variables could send them elsewhere.
struct Accesses {
    /// Package scripts, and copies.
    none: Access,
    /// The image's own apt.
    apt: Access,
    /// pip.
    pip: Access,
    /// The recipe's commands.
    commands: Access,
}

impl Accesses {
    fn new(facts: &SystemFacts, found: &FoundRecipe, base: &[(String, String)], epoch: i64) -> Self {
        let own = own_env(facts, epoch);
        let recipe = found.recipe.env.iter().map(|(name, value)| (name.text.clone(), value.text.clone()));
        let none = Access { env: over(base.to_vec(), over(own.clone(), recipe)), ..Access::default() };
        let apt = Access { env: over(own, facts.fetch_env.clone()), network: true, secrets: Vec::new() };
        let mut pip = apt.clone();
        pip.env = over(pip.env, facts.environment.iter().filter(|(name, _)| is_pip_network(name)).cloned());
        if let Some(config) = pip_config(facts) {
            pip.secrets.push((config, pip_conf()));
            pip.env = over(pip.env, [("PIP_CONFIG_FILE".into(), pip_conf().display().to_string())]);
        }
        let network = found.recipe.network;
        // A proxy that wants a password is out of reach for them.
        let proxies = facts.fetch_env.iter().filter(|(_, value)| network && !value.contains('@')).cloned();
        let commands = Access { env: over(proxies.collect(), none.env.clone()), network, secrets: Vec::new() };
        Self { none, apt, pip, commands }
    }
}

/// Variables, and others that replace those of the same name.
fn over(mut env: Vec<(String, String)>, others: impl IntoIterator<Item = (String, String)>) -> Vec<(String, String)> {
    for (name, value) in others {
        env.retain(|(known, _)| *known != name);
        env.push((name, value));
    }
    env
}

fn own_env(facts: &SystemFacts, epoch: i64) -> Vec<(String, String)> {
    let fixed = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/root"),
        ("LC_ALL", "C.UTF-8"),
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
        ("PYTHONHASHSEED", "0"),
        ("TZ", "UTC"),
    ];
    let mut env: Vec<(String, String)> = fixed.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    env.push(("SOURCE_DATE_EPOCH".into(), epoch.to_string()));
    if facts.ca_bundle.is_some() {
        let names = ["SSL_CERT_FILE", "PIP_CERT", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO"];
        env.extend(names.map(|name| (name.into(), format!("{HOST_FOLDER}/ca.crt"))));
    }
    env
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

/// What `pip install` runs as. It takes wheels only: what builds a source archive would see the credentials that pip has, and what that
/// needs in turn is not pinned. pip itself would compile in a folder with a random name, which it writes into what it compiles;
/// and as files get the time of the recipe's packages in the end, compiled files must not depend on it.
const PIP_INSTALL: &str = r#"
printf '%s\n' "$1" > /tmp/requirements.txt
target=${2:-}
# Recent Debian keeps its Python to itself unless told otherwise; older pips ignore the variable.
export PIP_BREAK_SYSTEM_PACKAGES=1
python3 -m pip install --quiet --no-cache-dir --disable-pip-version-check --no-compile --no-deps --require-hashes \
    --only-binary :all: --root-user-action=ignore --requirement /tmp/requirements.txt ${target:+--target "$target"}
python3 -m compileall -q --invalidation-mode unchecked-hash "${target:-/usr/local/lib}"
"#;

fn install_pip(steps: &Steps<'_>, pip: &Pip, access: &Access) -> Result<(), StepError> {
    let lines: Vec<&str> = pip.requirements.iter().map(|text| text.text.as_str()).collect();
    let joined = lines.join("\n");
    let target = pip.target.as_ref().map_or("", |target| &target.text);
    steps.run("pip install", &["/bin/sh", "-ec", PIP_INSTALL, "pip", &joined, target], access, |_| {})
}

/// Copies as a program in the image would: folders that are links, or stand in a layer below, are what they are there.
const COPY: &str = r#"
if [ -d "$1" ]; then mkdir -p "$2"; cp -Rp "$1/." "$2/"; else mkdir -p "$(dirname "$2")"; cp -p "$1" "$2"; fi
"#;

/// Lays out what the recipe copies, one folder or file per copy, with its permissions.
fn lay_out_files(found: &FoundRecipe, folder: &Path) -> Result<(), ImageBuildError> {
    let copies = |recipe: &FoundRecipe| recipe.recipe.files.clone().into_iter().enumerate();
    let levels = found.chain().into_iter().enumerate();
    for (level, recipe, (number, copy)) in
        levels.flat_map(|(level, recipe)| copies(recipe).map(move |copy| (level, recipe, copy)))
    {
        let root = folder.join(format!("{level}-{number}"));
        for file in recipe.sources(&copy.source)? {
            let path = if file.path.as_os_str().is_empty() { root.clone() } else { root.join(&file.path) };
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(FileError::new("make the folder", folder))?;
            }
            let mode = copy.mode.unwrap_or(if file.executable { 0o755 } else { 0o644 });
            write_atomically(&path, &file.content, mode)?;
        }
    }
    Ok(())
}

fn clean(tree: &Path) -> Result<(), RootedError> {
    // A step may have put a link in the place of any folder: nothing is looked up but inside the tree.
    let root = Rooted::open(tree)?;
    LEFTOVERS.iter().try_for_each(|path| root.remove(Path::new(path)))?;
    for path in EXPECTED.map(Path::new) {
        // Only where the folder around it is this layer's own.
        if path.parent().is_some_and(|folder| root.resolve(folder).is_ok()) {
            root.make_dirs(path, 0o755)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn cleaning_up_stays_inside_the_image() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (tree, host) = (folder.path().join("tree"), folder.path().join("host"));
        for path in ["tree/etc", "host/.cache", "host/log", "host/lib/apt/lists"] {
            fs::create_dir_all(folder.path().join(path)).expect("a folder");
            fs::write(folder.path().join(path).join("file"), "precious").expect("a file");
        }
        // What a step of a recipe, a package or a wheel may have left.
        symlink(&host, tree.join("root")).expect("a link");
        symlink("../host", tree.join("var")).expect("a link");
        symlink(host.join("log/file"), tree.join("etc/machine-id")).expect("a link");
        clean(&tree).expect("cleaned");
        for path in ["host/.cache/file", "host/log/file", "host/lib/apt/lists/file", "tree/etc/file"] {
            assert_eq!(fs::read_to_string(folder.path().join(path)).expect(path), "precious");
        }
        assert!(!folder.path().join("host/cache").exists());
        assert!(tree.join("etc/machine-id").symlink_metadata().is_err());
    }
}
