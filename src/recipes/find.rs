//! Where rootfs recipes are found: beside the config, in `SMIDR_HOME/recipes`, in this binary. A name with a slash is a path.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use include_dir::{Dir, DirEntry, include_dir};
use sha2::{Digest as _, Sha256};

use super::recipe::{Base, Recipe, Suite};
use crate::{
    config::{Problem, Problems, nearest},
    model::{Digest, FileContent, Hint, Kind, Paths, SubmittedRecipe, UserError},
    plan::Plan,
    system::files::{FileError, read_text, shell},
};

/// How much of what a recipe copies is part of a submission, in bytes. More must not change until the build begins.
const SUBMITTED: usize = 16 << 20;

static EMBEDDED: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/rootfs-recipes");

/// A rootfs recipe that was found, with the files that it copies.
#[derive(Debug)]
pub(crate) struct FoundRecipe {
    /// What people call it.
    pub name: String,
    /// Names the image that it makes.
    pub image: String,
    /// What it says.
    pub recipe: Recipe,
    /// Of the text and all files: two recipes with the same digest make the same image of the same packages.
    pub digest: Digest,
    /// The recipe that it begins with.
    below: Option<Box<FoundRecipe>>,
    text: String,
    files: Files,
}

/// What an image begins with.
pub(super) enum FoundBase<'a> {
    /// Packages of a distribution.
    Packages(&'a Suite),
    /// Another image of the store.
    Image(&'a str),
}

#[derive(Debug)]
enum Files {
    Embedded,
    /// In the folder of this recipe.
    Beside(PathBuf),
    /// What stood there when the build was submitted.
    Submitted(PathBuf, BTreeMap<String, Vec<FileContent>>),
}

impl Files {
    /// The folder of a recipe that is not part of smidr.
    fn folder(&self) -> Option<&Path> {
        match self {
            Self::Embedded => None,
            Self::Beside(recipe) | Self::Submitted(recipe, _) => recipe.parent(),
        }
    }
}

/// Why there is no recipe.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecipeError {
    /// Nowhere.
    #[error("there is no rootfs recipe `{name}`")]
    Unknown {
        /// The name that was looked for.
        name: String,
        /// All that there are.
        known: Vec<String>,
    },
    /// Found, but wrong.
    #[error("{}:\n{}", .0, .0.render(false))]
    Wrong(Box<Problems>),
    /// It copies a file that is not there.
    #[error("the rootfs recipe `{recipe}` copies `{source_name}`, which does not stand beside it")]
    NoFile {
        /// The recipe.
        recipe: String,
        /// The file.
        source_name: String,
    },
    /// What it copies is too large for a submission, and has changed since.
    #[error("what the rootfs recipe `{recipe}` copies has changed since the build was submitted")]
    Changed {
        /// The recipe.
        recipe: String,
    },
    /// It copies something that would not be the same on every machine.
    #[error("a rootfs recipe copies files and folders, and {0} is neither")]
    NotAFile(PathBuf),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl RecipeError {
    /// The same without what stands in a file that need not be a recipe: the config chooses its name, and links its place.
    fn told(self, project: &Path, path: &Path) -> Self {
        let Self::Wrong(problems) = self else { return self };
        let real = fs::canonicalize(path).unwrap_or_default();
        let in_place = fs::canonicalize(project).is_ok_and(|root| {
            real.starts_with(&root) && path.strip_prefix(project).is_ok_and(|inside| real == root.join(inside))
        });
        if in_place && real.extension().is_some_and(|extension| extension == "yaml") {
            return Self::Wrong(problems);
        }
        let file = shell(&real);
        let why = "is no .yaml file at its own place in the project, so nothing of it is quoted";
        Self::Wrong(Box::new(problems.unquoted(&format!("{file} {why}; to see more:  smidr image build {file}"))))
    }
}

impl UserError for RecipeError {
    fn kind(&self) -> Kind {
        match self {
            Self::File(error) => error.kind(),
            _ => Kind::Request,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Unknown { name, known } => vec![match nearest(name, known.iter().map(String::as_str)) {
                Some(near) => Hint::new(format!("did you mean `{near}`?")),
                None => Hint::new(format!("there are: {}", known.join(", "))),
            }],
            Self::Changed { .. } => vec![Hint::command("submit the build again", "smidr build")],
            _ => Vec::new(),
        }
    }
}

/// Where a recipe of some name is looked for.
enum Place {
    /// A file of the project.
    Project(PathBuf),
    /// A file of the user's own.
    User(PathBuf),
    /// This binary, if anywhere.
    Shipped,
}

fn place(name: &str, project: &Path, paths: &Paths) -> Place {
    if name.contains('/') {
        return Place::Project(project.join(name));
    }
    let file = format!("{name}.yaml");
    let (beside, own) = (project.join(&file), paths.recipes().join(&file));
    // A config may be called like a recipe; only a recipe has a base.
    match name != "smidr" {
        true if beside.is_file() => Place::Project(beside),
        true if own.is_file() => Place::User(own),
        _ => Place::Shipped,
    }
}

/// Whether the recipe of a plan's build host comes with smidr. Reads none.
pub(crate) fn is_shipped(plan: &Plan, paths: &Paths) -> bool {
    match &plan.host.submitted {
        Some(submitted) => *submitted == SubmittedRecipe::Shipped,
        None => matches!(place(&plan.host.name, &plan.project, paths), Place::Shipped),
    }
}

/// Finds a recipe by name or path. `project` is the folder of the config.
///
/// # Errors
///
/// When there is none, or it is wrong.
pub(crate) fn find(name: &str, project: &Path, paths: &Paths) -> Result<FoundRecipe, RecipeError> {
    match place(name, project, paths) {
        Place::Project(path) => at(&path).map_err(|error| error.told(project, &path)),
        Place::User(path) => at(&path),
        Place::Shipped => shipped_or_unknown(name, project, paths),
    }
}

fn shipped_or_unknown(name: &str, project: &Path, paths: &Paths) -> Result<FoundRecipe, RecipeError> {
    shipped(name).unwrap_or_else(|| Err(RecipeError::Unknown { name: name.into(), known: known(project, paths) }))
}

/// The recipe of a plan's build host: as it was submitted, or as it is found now.
///
/// # Errors
///
/// As for [`find`].
pub(crate) fn planned(plan: &Plan, paths: &Paths) -> Result<FoundRecipe, RecipeError> {
    let (name, project) = (plan.host.name.as_str(), plan.project.as_path());
    match &plan.host.submitted {
        None => find(name, project, paths),
        Some(SubmittedRecipe::Shipped) => shipped_or_unknown(name, project, paths),
        Some(SubmittedRecipe::File { text, digest, copies }) => submitted(text, digest, copies.as_ref()),
    }
}

fn submitted(
    text: &FileContent,
    digest: &Digest,
    copies: Option<&BTreeMap<String, Vec<FileContent>>>,
) -> Result<FoundRecipe, RecipeError> {
    let files = |path| match copies {
        Some(copies) => Files::Submitted(path, copies.clone()),
        None => Files::Beside(path),
    };
    let found = FoundRecipe::of(&text.path, &String::from_utf8_lossy(&text.content), files)?;
    if found.digest == *digest { Ok(found) } else { Err(RecipeError::Changed { recipe: found.name }) }
}

/// The recipe of a plan's build host with all that it copies, for a submission.
///
/// # Errors
///
/// When there is none, or it is wrong.
pub(crate) fn submit(plan: &Plan, paths: &Paths) -> Result<SubmittedRecipe, RecipeError> {
    find(&plan.host.name, &plan.project, paths)?.submit()
}

impl FoundRecipe {
    fn submit(self) -> Result<SubmittedRecipe, RecipeError> {
        let Files::Beside(path) = &self.files else { return Ok(SubmittedRecipe::Shipped) };
        let copies = self.recipe.files.iter().map(|copy| Ok((copy.source.text.clone(), self.sources(&copy.source)?)));
        let copies: BTreeMap<String, Vec<FileContent>> = copies.collect::<Result<_, RecipeError>>()?;
        let size: usize = copies.values().flatten().map(|file| file.content.len()).sum();
        let text = FileContent { path: path.clone(), content: self.text.into_bytes(), executable: false };
        Ok(SubmittedRecipe::File { text, digest: self.digest, copies: (size <= SUBMITTED).then_some(copies) })
    }
}

/// The recipe in a file.
///
/// # Errors
///
/// When there is none, or it is wrong.
pub(crate) fn at(path: &Path) -> Result<FoundRecipe, RecipeError> {
    FoundRecipe::of(path, &read_text(path)?, Files::Beside)
}

/// The recipe of that name in this binary, whatever stands beside a config.
pub(crate) fn shipped(name: &str) -> Option<Result<FoundRecipe, RecipeError>> {
    let file = format!("{name}.yaml");
    let text = EMBEDDED.get_file(&file)?.contents_utf8()?;
    Some(FoundRecipe::of(Path::new(&file), text, |_| Files::Embedded))
}

fn shipped_names() -> Vec<String> {
    let mut names: Vec<String> = EMBEDDED.files().filter_map(|file| stem(file.path())).collect();
    names.sort();
    names
}

fn stem(path: &Path) -> Option<String> {
    (path.extension()? == "yaml").then(|| path.file_stem()?.to_str().map(String::from)).flatten()
}

/// The names of all recipes that can be found.
pub(crate) fn known(project: &Path, paths: &Paths) -> Vec<String> {
    let mut names = shipped_names();
    for folder in [paths.recipes(), project.to_path_buf()] {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        names.extend(entries.filter_map(|entry| stem(&entry.path())).filter(|name| name != "smidr"));
    }
    names.sort();
    names.dedup();
    names
}

impl FoundRecipe {
    /// The recipes that make its image, in their order: those that it begins with, and itself.
    pub(super) fn chain(&self) -> Vec<&Self> {
        let mut chain = self.below.as_ref().map(|below| below.chain()).unwrap_or_default();
        chain.push(self);
        chain
    }

    /// What the first recipe of the chain begins with.
    pub(super) fn base(&self) -> FoundBase<'_> {
        match (&self.recipe.base, &self.below) {
            (Base::Packages(suite), _) => FoundBase::Packages(suite),
            (Base::Image(name), _) | (Base::Recipe(name), None) => FoundBase::Image(name),
            (Base::Recipe(_), Some(below)) => below.base(),
        }
    }

    /// The environment that its image gives to programs.
    pub(super) fn env(&self) -> Vec<(String, String)> {
        let own = |recipe: &&Self| recipe.recipe.env.clone();
        let mut env: Vec<(String, String)> = Vec::new();
        for (name, value) in self.chain().iter().flat_map(own) {
            env.retain(|(known, _)| *known != name.text);
            env.push((name.text, value.text));
        }
        env
    }

    /// Whether it came with a project, rather than from smidr or from the user.
    pub(crate) fn is_beside_a_config(&self, paths: &Paths) -> bool {
        self.files.folder().is_some_and(|folder| folder != paths.recipes())
    }

    /// Whether it is one of the user's own, for all projects.
    pub(crate) fn is_the_users(&self, paths: &Paths) -> bool {
        self.files.folder().is_some_and(|folder| folder == paths.recipes())
    }

    /// The same recipe for a project's builds: the image of one that came with the project has a name that no other project can mean.
    pub(crate) fn of_project(mut self, paths: &Paths) -> Self {
        if let Some(folder) = self.files.folder().filter(|_| self.is_beside_a_config(paths)) {
            let place = Sha256::digest(folder.as_os_str().as_encoded_bytes());
            self.image = format!("{}-{:.8}", self.name, hex::encode(place));
        }
        self
    }

    fn of(path: &Path, text: &str, files: impl FnOnce(PathBuf) -> Files) -> Result<Self, RecipeError> {
        let read = Recipe::read(&path.display().to_string(), text);
        let recipe = read.map_err(|problems| RecipeError::Wrong(Box::new(problems)))?;
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let (digest, files) = (Digest::from_sha256([0; 32]), files(path.into()));
        let below = below(&recipe.base, &path.display().to_string(), text)?;
        let mut found = Self { image: name.clone(), name, text: text.into(), recipe, digest, files, below };
        let mut hash = Sha256::new_with_prefix(text);
        hash.update(found.below.iter().map(|below| below.digest.to_string()).collect::<String>());
        for copy in found.recipe.files.clone() {
            for file in found.sources(&copy.source)? {
                hash.update(file.path.as_os_str().as_encoded_bytes());
                hash.update([0, u8::from(file.executable)]);
                hash.update((file.content.len() as u64).to_le_bytes());
                hash.update(&file.content);
            }
        }
        found.digest = Digest::from_sha256(hash.finalize().into());
        Ok(found)
    }

    /// The files behind a `source:`, in a stable order. Their paths are relative to it; empty: the source is the file.
    ///
    /// # Errors
    ///
    /// When there is no such file or folder.
    pub(crate) fn sources(&self, source: &str) -> Result<Vec<FileContent>, RecipeError> {
        let missing = || RecipeError::NoFile { recipe: self.name.clone(), source_name: source.into() };
        match &self.files {
            Files::Embedded => embedded(source).ok_or_else(missing),
            Files::Submitted(_, copies) => copies.get(source).cloned().ok_or_else(missing),
            Files::Beside(recipe) => {
                let folder = recipe.parent().unwrap_or(Path::new("."));
                // A link may lead to another file beside the recipe, but not away from it.
                let canonical = |path: &Path| fs::canonicalize(path).map_err(|_| missing());
                let (home, root) = (canonical(folder)?, canonical(&folder.join(source))?);
                if !root.starts_with(&home) {
                    return Err(missing());
                }
                on_disk(&root).and_then(|files| if files.is_empty() { Err(missing()) } else { Ok(files) })
            }
        }
    }
}

/// The recipe that another one begins with, which comes with smidr.
fn below(base: &Base, file: &str, text: &str) -> Result<Option<Box<FoundRecipe>>, RecipeError> {
    let Base::Recipe(name) = base else { return Ok(None) };
    if let Some(found) = shipped(name) {
        return Ok(Some(Box::new(found?)));
    }
    let known = shipped_names();
    let problem = Problem::new(name.span.clone(), format!("base.recipe: no recipe `{name}` comes with smidr"));
    let problem = problem.hint(format!("there are: {}", known.join(", ")));
    Err(RecipeError::Wrong(Box::new(Problems {
        file: file.into(),
        text: text.into(),
        further: None,
        list: vec![problem],
    })))
}

fn embedded(source: &str) -> Option<Vec<FileContent>> {
    fn below<'a>(entries: &'a [DirEntry<'a>], out: &mut Vec<&'a include_dir::File<'a>>) {
        for entry in entries {
            match entry {
                DirEntry::Dir(dir) => below(dir.entries(), out),
                DirEntry::File(file) => out.push(file),
            }
        }
    }
    let mut files = Vec::new();
    match EMBEDDED.get_entry(source)? {
        DirEntry::Dir(dir) => below(dir.entries(), &mut files),
        DirEntry::File(file) => files.push(file),
    }
    files.sort_by_key(|file| file.path());
    let relative = |path: &Path| path.strip_prefix(source).unwrap_or(path).to_path_buf();
    let source_file = |file: &&include_dir::File<'_>| FileContent {
        path: relative(file.path()),
        content: file.contents().to_vec(),
        // The binary keeps no permissions: a script says by its first line that it is a program.
        executable: file.contents().starts_with(b"#!"),
    };
    Some(files.iter().map(source_file).collect())
}

fn on_disk(root: &Path) -> Result<Vec<FileContent>, RecipeError> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(root).sort_by_file_name() {
        let entry = entry.map_err(|error| FileError::new("read", root)(error.into()))?;
        let path = entry.path();
        if entry.file_type().is_dir() {
            continue;
        }
        if !entry.file_type().is_file() {
            return Err(RecipeError::NotAFile(path.into()));
        }
        let content = fs::read(path).map_err(FileError::new("read", path))?;
        let mode =
            entry.metadata().map_err(|error| FileError::new("look at", path)(error.into()))?.permissions().mode();
        let relative = path.strip_prefix(root).unwrap_or(path).to_path_buf();
        files.push(FileContent { path: relative, content, executable: mode & 0o100 != 0 });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_that_ships_is_good() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let paths = Paths::new(folder.path().join("home"));
        let names = known(folder.path(), &paths);
        assert_eq!(
            names,
            ["debian-11", "debian-12", "debian-13", "hello", "ubuntu-22.04", "ubuntu-24.04", "ubuntu-26.04"]
        );
        let found: Vec<_> =
            names.iter().map(|name| find(name, folder.path(), &paths).expect("a good recipe")).collect();
        assert!(found.iter().all(|one| found.iter().filter(|other| one.digest == other.digest).count() == 1));
        assert!(matches!(find("debian-10", folder.path(), &paths), Err(RecipeError::Unknown { .. })));
    }

    #[test]
    fn a_recipe_begins_with_one_that_ships() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let paths = Paths::new(folder.path().join("home"));
        let write = |base: &str| {
            let text = format!("base: {{recipe: {base}}}\npackages: [strace]\nenv: {{PATH: /mine, OWN: x}}\n");
            fs::write(folder.path().join("mine.yaml"), text).expect("a recipe");
            find("mine", folder.path(), &paths)
        };
        let found = write("hello").expect("a good recipe");
        let packages: Vec<_> = found.chain().into_iter().flat_map(|recipe| recipe.recipe.packages.clone()).collect();
        assert!(
            packages.iter().any(|name| *name.text == *"gcc") && packages.iter().any(|name| *name.text == *"strace")
        );
        assert_eq!(found.env(), [("PATH".into(), "/mine".into()), ("OWN".into(), "x".into())]);
        assert!(matches!(found.base(), FoundBase::Packages(suite) if *suite.suite.text == *"bookworm"));
        // What is below belongs to what it is.
        assert_ne!(found.digest, write("debian-12").expect("a good recipe").digest);
        let Err(RecipeError::Wrong(problems)) = write("debian-10") else { panic!("no such recipe ships") };
        assert!(
            problems.render(false).contains("there are: debian-11, debian-12, debian-13"),
            "{}",
            problems.render(false)
        );
    }

    #[test]
    fn a_recipe_beside_the_config_comes_first_and_its_files_count() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let paths = Paths::new(folder.path().join("home"));
        let text = "base: {image: debian-12}\nfiles: [{source: tool, dest: /opt/tool}]\n";
        fs::write(folder.path().join("hello.yaml"), text).expect("a recipe");
        assert!(matches!(find("hello", folder.path(), &paths), Err(RecipeError::NoFile { .. })));
        fs::create_dir(folder.path().join("tool")).expect("a folder");
        fs::write(folder.path().join("tool/a"), "1").expect("a file");
        let before = find("hello", folder.path(), &paths).expect("found").digest;
        fs::write(folder.path().join("tool/a"), "2").expect("a file");
        let after = find("./hello.yaml", folder.path(), &paths).expect("found by path").digest;
        assert_ne!(before, after);
    }

    #[test]
    fn what_is_submitted_counts_unless_it_is_too_large() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (path, tool) = (folder.path().join("own.yaml"), folder.path().join("tool"));
        let text = "base: {image: debian-12}\nfiles: [{source: tool, dest: /opt/tool}]\n";
        fs::write(&path, text).expect("a recipe");
        for (size, counts) in [(1, true), (SUBMITTED, true), (SUBMITTED + 1, false)] {
            fs::write(&tool, vec![b'x'; size]).expect("a file");
            let found = at(&path).expect("a good recipe");
            let before = found.digest.clone();
            let SubmittedRecipe::File { text, digest, copies } = found.submit().expect("read") else {
                panic!("it is no file")
            };
            let take = || submitted(&text, &digest, copies.as_ref());
            assert_eq!(take().expect("unchanged").digest, before);
            fs::write(&tool, "changed").expect("a file");
            fs::write(&path, "changed").expect("a recipe");
            match take() {
                Ok(found) => assert!(counts && found.digest == before, "{size}"),
                Err(error) => assert!(!counts && matches!(error, RecipeError::Changed { .. }), "{size}: {error}"),
            }
            fs::write(&path, &text.content).expect("a recipe");
        }
    }
}
