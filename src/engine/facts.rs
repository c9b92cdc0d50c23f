//! What makes a diagnosis concrete, found out by smidr itself without the network: the file of a recipe and what changes it, the recipe that has what is missing, what of a patch
//! did not apply, names that are near. Layers and workspace are read as a build left them, through [`Rooted`] where it could write, and within bounds.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    bitbake::Answer,
    config::nearest,
    layers::KnownRepository,
    model::{Diagnosis, FailedTask, Hint},
    plan::{Folders, Plan},
    system::rooted::Rooted,
};

/// Of how many diagnoses.
const EXPLAINED: usize = 10;
/// How long it may take in all.
const TIME: Duration = Duration::from_secs(3);
/// How many entries of a tree are looked at.
const ENTRIES: usize = 200_000;
/// How much of a file is read, in bytes.
const FILE: u64 = 1 << 20;
/// How many lines of a reject are shown.
const REJECT: usize = 12;
/// How many recipes are named for one thing.
const NAMED: usize = 3;

/// Adds facts to the first diagnoses.
pub(super) fn add(diagnoses: &mut [Diagnosis], plan: &Plan, layers: &[PathBuf]) {
    let until = Instant::now() + TIME;
    if diagnoses.is_empty() {
        return;
    }
    let recipes = Recipes::find(layers, until);
    for one in diagnoses.iter_mut().take(EXPLAINED) {
        let place = one.recipe.as_deref().and_then(|recipe| recipes.place(recipe));
        one.facts.extend(place);
        let Some(subject) = one.subject.clone() else { continue };
        match one.kind.as_str() {
            "missing-header" | "link-error" | "configure-dependency" | "tool-not-in-hosttools" | "python-build-dep" => {
                provider(one, &subject, &recipes, &plan.folders, until);
            }
            "provider-unknown" | "rootfs-nothing-provides" => {
                let near = nearest(&subject, recipes.names()).filter(|near| *near != subject);
                one.facts.extend(near.map(|near| format!("the nearest recipe is {near}, in {}", recipes.layer(near))));
            }
            "layer-dependency-missing" => {
                if let Some(known) = KnownRepository::with(&subject) {
                    let yaml = known.yaml(&[&subject], plan.series.as_deref());
                    one.next.insert(0, Hint::config_in(format!("{} has it", known.name()), yaml, "smidr.yaml, layers"));
                }
            }
            "patch-failed" => {
                let left = one.recipe.as_deref().and_then(|recipe| reject(&plan.folders, recipe, until));
                one.facts.extend(left);
            }
            _ => {}
        }
    }
}

/// Adds what servers answer now for the sources of diagnoses.
pub(super) fn add_answers(diagnoses: &mut [Diagnosis], failed: &[FailedTask], answers: &[Answer]) {
    fn bare(url: &str) -> &str {
        url.split(';').next().unwrap_or(url)
    }
    for one in diagnoses {
        let tasks = failed.iter().filter(|task| one.is_of(&task.name) || one.also.contains(&task.name));
        let of_task = tasks.flat_map(|task| &task.urls).chain(&one.subject);
        let sources: BTreeSet<&str> = of_task.map(|source| bare(source)).collect();
        let asked = answers.iter().filter(|answer| sources.contains(bare(&answer.url)));
        one.facts.extend(asked.map(|answer| match answer {
            Answer { url, status: Some(status @ 200..300), .. } => {
                format!("asked again, the server of {} has it now ({status}): a second build could help", bare(url))
            }
            Answer { url, status: Some(status), text } => {
                format!("asked again, the server of {} answers {status} {text}", bare(url))
            }
            Answer { url, status: None, text } => {
                format!("asked again, the server of {} does not answer: {text}", bare(url))
            }
        }));
    }
}

/// Where the recipes of the layers are.
#[derive(Default)]
struct Recipes(BTreeMap<String, Vec<Place>>);

struct Place {
    layer: String,
    file: String,
}

impl Recipes {
    /// Looks where BBFILES of nearly all layers lead: `recipes-*/*/*.bb`.
    fn find(layers: &[PathBuf], until: Instant) -> Self {
        let mut all = Self::default();
        let mut left = ENTRIES;
        for layer in layers {
            let name = layer.file_name().unwrap_or_default().to_string_lossy().into_owned();
            for entry in walkdir::WalkDir::new(layer).min_depth(2).max_depth(4) {
                left = left.saturating_sub(1);
                if left == 0 || (left.is_multiple_of(1024) && Instant::now() > until) {
                    return all;
                }
                let Ok(entry) = entry else { continue };
                let Some(recipe) = entry.file_name().to_str().and_then(recipe_of) else { continue };
                let file = entry.path().strip_prefix(layer).unwrap_or(entry.path()).display().to_string();
                all.0.entry(recipe.to_owned()).or_default().push(Place { layer: name.clone(), file });
            }
        }
        all
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(|(_, places)| places.iter().any(|place| place.file.ends_with(".bb")))
            .map(|(name, _)| name.as_str())
    }

    /// The layers that have a recipe.
    fn layer(&self, recipe: &str) -> String {
        let layers: BTreeSet<&str> = self
            .0
            .get(recipe)
            .into_iter()
            .flatten()
            .filter(|place| place.file.ends_with(".bb"))
            .map(|place| place.layer.as_str())
            .collect();
        layers.into_iter().collect::<Vec<_>>().join(", ")
    }

    /// The files of a recipe, and those that change it.
    fn place(&self, recipe: &str) -> Option<String> {
        let places = self.0.get(recipe).or_else(|| self.0.get(plain(recipe)))?;
        let (own, appends): (Vec<&Place>, Vec<&Place>) = places.iter().partition(|place| place.file.ends_with(".bb"));
        let told = |places: &[&Place]| {
            let shown: Vec<String> =
                places.iter().take(NAMED).map(|Place { layer, file }| format!("{layer}/{file}")).collect();
            let more = if places.len() > NAMED { ", …" } else { "" };
            format!("{}{more}", shown.join(", "))
        };
        Some(match (own.is_empty(), appends.is_empty()) {
            (false, true) => format!("the recipe is {}", told(&own)),
            (false, false) => format!("the recipe is {}, and {} changes it", told(&own), told(&appends)),
            (true, _) => format!("{} changes it", told(&appends)),
        })
    }

    /// Recipes whose name is that of a library, module or command but for what packagers add.
    fn like(&self, subject: &str) -> Vec<&str> {
        let bare = bare(subject);
        self.names().filter(|name| self::bare(name) == bare).take(NAMED).collect()
    }
}

/// The recipe that a file is of, or changes.
fn recipe_of(name: &str) -> Option<&str> {
    let stem = name.strip_suffix(".bb").or_else(|| name.strip_suffix(".bbappend"))?;
    stem.split(['_', '%']).next().filter(|name| !name.is_empty())
}

/// A recipe without what BBCLASSEXTEND and multilib add.
fn plain(recipe: &str) -> &str {
    let recipe = recipe.rsplit(':').next().unwrap_or(recipe);
    let recipe =
        ["nativesdk-", "lib32-", "lib64-"].iter().find_map(|before| recipe.strip_prefix(before)).unwrap_or(recipe);
    recipe.strip_suffix("-native").unwrap_or(recipe)
}

/// The letters of a name, without `lib`, `python3-` and the version: `libusb-1.0` and `libusb1` are one.
fn bare(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    let name =
        ["python3-", "python-", "lib"].iter().find_map(|before| name.strip_prefix(before)).unwrap_or(&name).to_owned();
    let letters: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    letters.trim_end_matches(|letter: char| letter.is_ascii_digit()).to_owned()
}

/// Which recipe has what is missing: by the files of packages that were built here (OpenEmbedded's pkgdata), else by names.
fn provider(one: &mut Diagnosis, subject: &str, recipes: &Recipes, folders: &Folders, until: Instant) {
    let endings: Vec<String> = match one.kind.as_str() {
        "missing-header" => vec![format!("/{subject}")],
        "link-error" => vec![format!("/lib{subject}.so"), format!("/lib{subject}.a")],
        "configure-dependency" => {
            let lower = subject.to_ascii_lowercase();
            vec![format!("/{subject}.pc"), format!("/{subject}Config.cmake"), format!("/{lower}-config.cmake")]
        }
        "tool-not-in-hosttools" => vec![format!("bin/{subject}")],
        _ => vec![format!("/site-packages/{subject}/__init__.py"), format!("/site-packages/{subject}.py")],
    };
    let own = one.recipe.as_deref().map(plain).unwrap_or_default();
    let found = packaged(folders, &endings, until).into_iter().filter(|found| found.recipe != own).take(NAMED);
    let mut names: Vec<String> = Vec::new();
    for Packaged { recipe, package, file } in found {
        one.facts.push(format!("{recipe} has {file}, in its package {package}"));
        names.push(recipe);
    }
    if names.is_empty() {
        // The folder of a header is most often the library's.
        let by_name = subject.split('/').next().unwrap_or(subject);
        let by_name = if subject.contains('/') { by_name } else { by_name.trim_end_matches(".h") };
        for name in recipes.like(by_name).into_iter().filter(|name| *name != own) {
            one.facts.push(format!("there is a recipe {name}, in {}", recipes.layer(name)));
            names.push(name.to_owned());
        }
    }
    names.dedup();
    if let [name] = names.as_slice() {
        let is_native = one.kind == "tool-not-in-hosttools"
            || one.recipe.as_deref().is_some_and(|recipe| recipe.ends_with("-native"));
        let native = if is_native { "-native" } else { "" };
        let of = one.recipe.as_deref().map_or("the recipe".into(), |recipe| format!("the recipe {recipe}"));
        one.next.insert(0, Hint::config_in("have it in the sysroot", format!("DEPENDS += \"{name}{native}\""), of));
    }
}

/// A file in a package.
struct Packaged {
    recipe: String,
    package: String,
    file: String,
}

/// Packages that were built here and have a file that ends so.
fn packaged(folders: &Folders, endings: &[String], until: Instant) -> Vec<Packaged> {
    let mut found = Vec::new();
    let Ok(tmp) = Rooted::open(&folders.tmp) else { return found };
    let names = |path: &Path| tmp.names(path).unwrap_or_default();
    for machine in names(Path::new("pkgdata")) {
        let runtime = Path::new("pkgdata").join(machine).join("runtime");
        for package in names(&runtime).into_iter().filter(|name| !name.to_string_lossy().ends_with(".packaged")) {
            if found.len() >= 2 * NAMED || Instant::now() > until {
                return found;
            }
            let Ok(text) = tmp.read_text(&runtime.join(&package), FILE) else { continue };
            let file = endings.iter().find_map(|ending| file_with(&text, ending));
            let recipe = text.lines().find_map(|line| line.strip_prefix("PN: "));
            if let (Some(file), Some(recipe)) = (file, recipe) {
                let package = package.to_string_lossy().into_owned();
                found.push(Packaged { recipe: recipe.trim().to_owned(), package, file });
            }
        }
    }
    // That of a library's development package says more than one of a debugging package.
    found.sort_by_key(|one| (one.package.ends_with("-dbg") || one.package.ends_with("-src"), one.recipe.clone()));
    found
}

/// The file in `FILES_INFO:package: {"/usr/include/a.h": 12, …}` that ends so.
fn file_with(text: &str, ending: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("FILES_INFO"))?;
    let end = line.find(&format!("{ending}\""))? + ending.len();
    let before = line.get(..end)?;
    before.rsplit('"').next().map(str::to_owned)
}

/// The newest part of a patch that did not apply, in the work folder of a recipe.
fn reject(folders: &Folders, recipe: &str, until: Instant) -> Option<String> {
    let tmp = Rooted::open(&folders.tmp).ok()?;
    let names = |path: &Path| tmp.names(path).unwrap_or_default();
    let mut todo: Vec<(PathBuf, usize)> =
        names(Path::new("work")).into_iter().map(|folder| (Path::new("work").join(folder).join(recipe), 0)).collect();
    let mut left = ENTRIES;
    while let Some((folder, depth)) = todo.pop() {
        for name in names(&folder) {
            left = left.checked_sub(1).filter(|_| Instant::now() <= until)?;
            let (path, name) = (folder.join(&name), name.to_string_lossy());
            if name.ends_with(".rej") {
                let text = tmp.read_text(&path, FILE).ok()?;
                let lines: Vec<&str> = text.lines().take(REJECT).collect();
                return Some(format!("what did not apply ({}):\n    {}", path.display(), lines.join("\n    ")));
            }
            // Nearly all files of sources have a dot in their names, and few folders below the version.
            if depth < 12 && (depth < 2 || !name.contains('.')) {
                todo.push((path, depth + 1));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn recipes_are_found_with_what_changes_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        };
        write("meta-a/recipes-x/libusb/libusb1_1.0.bb", "");
        write("meta-b/recipes-x/libusb/libusb1_%.bbappend", "");
        write("meta-b/recipes-y/y/python3-six.bb", "");
        let layers = ["meta-a", "meta-b"].map(|name| folder.path().join(name));
        let recipes = Recipes::find(&layers, Instant::now() + TIME);
        assert_eq!(
            recipes.place("lib32-libusb1").as_deref(),
            Some(
                "the recipe is meta-a/recipes-x/libusb/libusb1_1.0.bb, and meta-b/recipes-x/libusb/libusb1_%.bbappend changes it"
            )
        );
        assert_eq!((recipes.place("none"), recipes.like("libusb-1.0")), (None, vec!["libusb1"]));
        assert_eq!((recipes.like("six"), recipes.layer("python3-six")), (vec!["python3-six"], "meta-b".into()));
    }

    #[test]
    fn a_file_of_a_package_is_found_by_its_end() {
        let text =
            "PN: systemd\nFILES_INFO:systemd-dev: {\"/usr/include/systemd/sd-bus.h\": 12, \"/usr/lib/libx.so\": 3}\n";
        assert_eq!(file_with(text, "/systemd/sd-bus.h").as_deref(), Some("/usr/include/systemd/sd-bus.h"));
        assert_eq!(file_with(text, "/libx.so").as_deref(), Some("/usr/lib/libx.so"));
        assert_eq!((file_with(text, "/bus.h"), file_with("", "/bus.h")), (None, None));
    }
}
