//! Manifests of git-repo (`default.xml`), which vendors of boards ship: which repositories at which revisions. Pure: files are read by the caller.
//! The format: <https://gerrit.googlesource.com/git-repo/+/main/docs/manifest-format.md>.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use roxmltree::{Document, Node};

use crate::model::{Hint, Kind, UserError, without_dots};

/// How many projects a manifest may have, and how deep includes may lead.
const PROJECTS: usize = 2000;
const DEPTH: usize = 10;

/// A repository of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestProject {
    /// The end of its address.
    pub name: String,
    /// Its folder.
    pub path: String,
    /// Its address.
    pub url: String,
    /// A branch, tag or commit.
    pub revision: String,
    groups: Vec<String>,
}

/// What a manifest says.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    /// Its repositories, in their order.
    pub projects: Vec<ManifestProject>,
    /// What of it has no effect.
    pub left_out: Vec<String>,
}

/// What is wrong with a manifest.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {what}", file.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct ManifestError {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: Option<u32>,
    /// What.
    pub what: String,
}

impl UserError for ManifestError {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn hints(&self) -> Vec<Hint> {
        Vec::new()
    }
}

/// Whether a text is such a manifest.
pub fn is_manifest(text: &str) -> bool {
    text.trim_start().starts_with('<') && text.contains("<manifest")
}

/// A place that repositories come from.
#[derive(Clone, Debug)]
struct Remote {
    fetch: String,
    revision: Option<String>,
}

struct Reader<'r> {
    /// The folder of the first file: includes stay in it.
    folder: PathBuf,
    read: &'r dyn Fn(&Path) -> io::Result<String>,
    /// The address of the repository of the manifest, which relative addresses count from.
    origin: Option<&'r str>,
    remotes: BTreeMap<String, Remote>,
    default: (Option<String>, Option<String>),
    manifest: Manifest,
    open: Vec<PathBuf>,
    unknown: BTreeSet<String>,
}

/// Reads a manifest with what it includes.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn read(
    file: &Path,
    origin: Option<&str>,
    read: &dyn Fn(&Path) -> io::Result<String>,
) -> Result<Manifest, ManifestError> {
    let mut reader = Reader {
        folder: file.parent().unwrap_or(Path::new("/")).into(),
        read,
        origin,
        remotes: BTreeMap::new(),
        default: (None, None),
        manifest: Manifest::default(),
        open: Vec::new(),
        unknown: BTreeSet::new(),
    };
    reader.file(file, &[])?;
    let Reader { mut manifest, unknown, .. } = reader;
    // As `repo init` without --groups.
    let (taken, left): (Vec<_>, Vec<_>) =
        manifest.projects.into_iter().partition(|one| !one.groups.iter().any(|group| group == "notdefault"));
    manifest.left_out.extend(left.iter().map(|one| format!("{}, of the group notdefault", one.path)));
    manifest.left_out.extend(unknown);
    manifest.projects = taken;
    Ok(manifest)
}

impl Reader<'_> {
    fn file(&mut self, file: &Path, groups: &[String]) -> Result<(), ManifestError> {
        let wrong = |line: Option<u32>, what: String| ManifestError { file: file.into(), line, what };
        if self.open.len() >= DEPTH || self.open.iter().any(|known| known == file) {
            return Err(wrong(None, "it includes itself, or too deep".into()));
        }
        let text = (self.read)(file).map_err(|error| wrong(None, error.to_string()))?;
        // Without a document type there are no entities.
        let document = Document::parse(&text).map_err(|error| wrong(Some(error.pos().row), error.to_string()))?;
        let root = document.root_element();
        if root.tag_name().name() != "manifest" {
            return Err(wrong(None, "its first element is not `manifest`".into()));
        }
        self.open.push(file.into());
        for node in root.children().filter(Node::is_element) {
            let line = document.text_pos_at(node.range().start).row;
            self.element(node, file, groups).map_err(|what| match what {
                Wrong::Here(what) => wrong(Some(line), what),
                Wrong::There(error) => *error,
            })?;
        }
        self.open.pop();
        Ok(())
    }

    fn element(&mut self, node: Node<'_, '_>, file: &Path, groups: &[String]) -> Result<(), Wrong> {
        let text = |name: &str| node.attribute(name).map(str::to_owned);
        let needed =
            |name: &str| text(name).ok_or_else(|| Wrong::Here(format!("`{}` has no `{name}`", node.tag_name().name())));
        match node.tag_name().name() {
            "remote" => {
                let remote = Remote { fetch: needed("fetch")?, revision: text("revision") };
                self.remotes.insert(needed("name")?, remote);
            }
            "default" => self.default = (text("remote"), text("revision")),
            "project" => self.project(node, None, groups)?,
            "include" => {
                let name = needed("name")?;
                let path = without_dots(&self.folder.join(&name));
                if !path.starts_with(&self.folder) {
                    return Err(Wrong::Here(format!("the include `{name}` leads out of the folder of the manifest")));
                }
                let mut all = groups.to_vec();
                all.extend(words(node.attribute("groups")));
                self.file(&path, &all).map_err(|error| Wrong::There(Box::new(error)))?;
            }
            "remove-project" => {
                let (name, path) = (text("name"), text("path"));
                let is_meant = |one: &ManifestProject| {
                    name.as_ref().is_none_or(|name| *name == one.name)
                        && path.as_ref().is_none_or(|path| *path == one.path)
                };
                let before = self.manifest.projects.len();
                self.manifest.projects.retain(|one| !is_meant(one));
                let is_optional = node.attribute("optional").is_some_and(|word| ["true", "yes", "1"].contains(&word));
                if before == self.manifest.projects.len() && !is_optional {
                    let named = name.or(path).unwrap_or_default();
                    return Err(Wrong::Here(format!("there is no project {named} to remove")));
                }
            }
            "extend-project" => self.extend(node, &needed("name")?)?,
            "notice" | "contactinfo" | "manifest-server" | "repo-hooks" | "superproject" => {}
            other => drop(self.unknown.insert(format!("elements `{other}` of {}", file.display()))),
        }
        Ok(())
    }

    fn project(
        &mut self,
        node: Node<'_, '_>,
        around: Option<&ManifestProject>,
        groups: &[String],
    ) -> Result<(), Wrong> {
        let wrong = |what: String| Err(Wrong::Here(what));
        let Some(own) = node.attribute("name") else { return wrong("`project` has no `name`".into()) };
        let joined = |above: &str, below: &str| format!("{above}/{below}");
        let name = around.map_or(own.to_owned(), |around| joined(&around.name, own));
        let path = node.attribute("path").unwrap_or(own);
        let path = around.map_or(path.to_owned(), |around| joined(&around.path, path));
        let is_plain = !path.starts_with('/') && !path.split('/').any(|part| [".", "..", ""].contains(&part));
        if !is_plain || path.contains(char::is_control) {
            return wrong(format!("`{}` cannot be the path of a project", path.escape_debug()));
        }
        let remote = node.attribute("remote").map(str::to_owned).or_else(|| self.default.0.clone());
        let (url, of_remote) = self.address(remote.as_deref(), &name)?;
        let revision = node.attribute("revision").map(str::to_owned).or(of_remote).or_else(|| self.default.1.clone());
        let Some(revision) = revision else { return wrong(format!("the project {name} has no revision")) };
        let mut all = groups.to_vec();
        all.extend(words(node.attribute("groups")));
        let project = ManifestProject { name, path, url, revision, groups: all };
        if self.manifest.projects.iter().any(|known| known.path == project.path) {
            return wrong(format!("two projects have the path {}", project.path));
        }
        if self.manifest.projects.len() >= PROJECTS {
            return wrong(format!("it has more than {PROJECTS} projects"));
        }
        self.manifest.projects.push(project.clone());
        for below in node.children().filter(Node::is_element) {
            match below.tag_name().name() {
                "project" => self.project(below, Some(&project), groups)?,
                "linkfile" | "copyfile" => {
                    let what = format!("{} {}", below.tag_name().name(), below.attribute("dest").unwrap_or_default());
                    self.manifest.left_out.push(format!("{what} of {}", project.path));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The address of a project, and the revision of its remote.
    fn address(&self, remote: Option<&str>, name: &str) -> Result<(String, Option<String>), Wrong> {
        let Some(remote) = remote else { return Err(Wrong::Here(format!("the project {name} has no remote"))) };
        let found = self.remotes.get(remote);
        let found = found.ok_or_else(|| Wrong::Here(format!("there is no remote {remote}")))?;
        let fetch = found.fetch.trim_end_matches('/');
        let base = if fetch.contains("://") || fetch.split('/').next().is_some_and(|host| host.contains(':')) {
            fetch.to_owned()
        } else {
            let Some(origin) = self.origin else {
                return Err(Wrong::Here(format!(
                    "the remote {remote} counts from the address of the manifest's own repository, which is not known here"
                )));
            };
            above(origin, fetch)
        };
        Ok((format!("{base}/{name}"), found.revision.clone()))
    }

    fn extend(&mut self, node: Node<'_, '_>, name: &str) -> Result<(), Wrong> {
        let path = node.attribute("path");
        let remote = node.attribute("remote").map(|remote| self.address(Some(remote), name)).transpose()?;
        let mut known = false;
        for one in &mut self.manifest.projects {
            if one.name != name || path.is_some_and(|path| path != one.path) {
                continue;
            }
            known = true;
            if let Some((url, _)) = &remote {
                one.url.clone_from(url);
            }
            if let Some(revision) = node.attribute("revision") {
                revision.clone_into(&mut one.revision);
            }
            if let Some(path) = node.attribute("dest-path") {
                path.clone_into(&mut one.path);
            }
            one.groups.extend(words(node.attribute("groups")));
        }
        if known { Ok(()) } else { Err(Wrong::Here(format!("there is no project {name} to extend"))) }
    }
}

enum Wrong {
    Here(String),
    There(Box<ManifestError>),
}

/// Groups are divided by commas or blanks.
fn words(text: Option<&str>) -> Vec<String> {
    text.unwrap_or_default().split([',', ' ']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// An address relative to another one.
fn above(origin: &str, relative: &str) -> String {
    let mut base = origin.trim_end_matches('/').to_owned();
    for part in relative.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match part {
            ".." => base.truncate(base.rfind(['/', ':']).unwrap_or(base.len())),
            part => base = format!("{base}/{part}"),
        }
    }
    base
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(files: &[(&str, &str)]) -> Result<Manifest, ManifestError> {
        let read = |path: &Path| {
            let found = files.iter().find(|(name, _)| path == Path::new("/m").join(name));
            found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| io::ErrorKind::NotFound.into())
        };
        super::read(Path::new("/m/default.xml"), Some("https://h/group/manifests.git"), &read)
    }

    #[test]
    fn remotes_includes_and_changes() {
        let files = [
            (
                "default.xml",
                "<?xml version=\"1.0\"?><manifest><remote name=\"y\" fetch=\"https://y/git/\"/><remote name=\"own\" fetch=\"..\" revision=\"v1\"/>
                 <default remote=\"y\" revision=\"kirkstone\"/><project name=\"poky\" path=\"sources/poky\"><linkfile src=\"a\" dest=\"b\"/></project>
                 <include name=\"more.xml\"/><extend-project name=\"meta-x\" revision=\"refs/tags/t\"/><remove-project name=\"meta-z\"/></manifest>",
            ),
            (
                "more.xml",
                "<manifest><project name=\"meta-x\" remote=\"own\"/><project name=\"meta-z\"/><project name=\"q\" groups=\"notdefault,z\"/></manifest>",
            ),
        ];
        let manifest = manifest(&files).expect("a manifest");
        let all: Vec<_> =
            manifest.projects.iter().map(|one| (one.path.as_str(), one.url.as_str(), one.revision.as_str())).collect();
        let poky = ("sources/poky", "https://y/git/poky", "kirkstone");
        assert_eq!(all, [poky, ("meta-x", "https://h/group/meta-x", "refs/tags/t")]);
        assert_eq!(manifest.left_out.len(), 2, "{:?}", manifest.left_out);
    }

    #[test]
    fn hostile_manifests() {
        let with = |inside: &str| {
            format!(
                "<manifest><remote name=\"r\" fetch=\"https://h\"/><default remote=\"r\" revision=\"m\"/>{inside}</manifest>"
            )
        };
        for (text, says) in [
            ("<!DOCTYPE x [<!ENTITY a \"b\">]><manifest>&a;</manifest>".to_owned(), "DTD"),
            (with("<include name=\"../../etc/passwd\"/>"), "leads out"),
            (with("<include name=\"default.xml\"/>"), "includes itself"),
            (with("<include name=\"none.xml\"/>"), "not found"),
            (with("<project name=\"a\" path=\"../a\"/>"), "cannot be the path"),
            (with("<project name=\"a\" path=\"/a\"/>"), "cannot be the path"),
            (with("<project name=\"a\"/><project name=\"b\" path=\"a\"/>"), "two projects"),
            (with("<project name=\"a\" remote=\"x\"/>"), "no remote x"),
            (with("<remove-project name=\"a\"/>"), "to remove"),
            (with(&"<project name=\"a\">".repeat(3)), "expected"),
            ("<x/>".to_owned(), "not `manifest`"),
            (with(&(0..3000).map(|n| format!("<project name=\"p{n}\"/>")).collect::<String>()), "more than"),
        ] {
            let error = manifest(&[("default.xml", &text)]).expect_err(says).to_string();
            assert!(error.to_lowercase().contains(&says.to_lowercase()), "{says}: {error}");
        }
    }

    #[test]
    fn relative_addresses() {
        assert_eq!(above("ssh://git@h:29418/a/b.git", "../.."), "ssh://git@h:29418");
        assert_eq!(above("git@h:group/b.git", ".."), "git@h:group");
        assert_eq!(above("https://h/a/b", "../c"), "https://h/a/c");
    }
}
