//! Inputs of later builds, which no build may change: the config and its lock, layers, their store, BitBake.

use std::path::{Path, PathBuf};

use super::sources::{PlannedLayer, PlannedSource};
use crate::{
    config::{Config, HostImage, local_path},
    lock::lock_path,
};

/// A path that no build may write to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarded {
    /// On this machine.
    pub path: PathBuf,
    /// Its name in messages.
    pub what: String,
}

impl Guarded {
    /// Why a build must not write to `folder`, if it could then change or replace this path.
    pub fn refuses(&self, folder: &Path) -> Option<String> {
        let how = if folder == self.path {
            "is"
        } else if self.path.starts_with(folder) {
            "holds"
        } else if folder.starts_with(&self.path) {
            "lies in"
        } else {
            return None;
        };
        Some(format!("{how} {}, and the build could write to it", self.what))
    }
}

/// All of it. `file` is the config, `store` where checkouts of layers stand.
pub(super) fn guarded(
    config: &Config,
    file: &Path,
    layers: &[PlannedLayer],
    bitbake: Option<&PlannedSource>,
    store: &Path,
    place: &dyn Fn(&str) -> PathBuf,
) -> Vec<Guarded> {
    let new = |path: &Path, what: &str| Guarded { path: path.into(), what: what.into() };
    let itself = |file: &Path| new(file, &file.file_name().unwrap_or_default().to_string_lossy());
    let local = local_path(file);
    let mut all = [file, &lock_path(file), &local, &lock_path(&local)].map(itself).to_vec();
    if let HostImage::Recipe(name) = &config.host.image {
        let name = if name.text.contains('/') { name.text.clone() } else { format!("{}.yaml", name.text) };
        all.push(new(&place(&name), "the rootfs recipe"));
    }
    let named = layers.iter().map(|layer| (format!("the layer `{}`", layer.name), &layer.source));
    for (what, source) in named.chain(bitbake.map(|source| ("BitBake".into(), source))) {
        match source {
            PlannedSource::Path(path) => all.push(new(&path.folder, &what)),
            PlannedSource::Git(git) => {
                all.extend(git.patches.iter().map(|patch| new(&patch.file, &format!("a patch of {what}"))));
            }
        }
    }
    all.push(new(store, "the store of layers"));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::read,
        model::{BuildRequest, Paths, SystemFacts},
        plan::make,
    };

    fn plan_with(more: &str) -> Result<(), String> {
        let text = format!(
            "name: x\nbase: {{machine: m}}\nbuild: {{image: i}}\nbitbake: {{path: ../bb}}\nlayers:\n  - {{name: l, path: ./layers/l}}\n  \
             - {{name: g, git: 'https://example.org/g', branch: main, patches: [./patches/one.patch]}}\n{more}\n"
        );
        let config = read("smidr.yaml", &text, None, &|_| None).map_err(|problems| problems.render(false))?;
        let paths = Paths::new("/home/u/.smidr".into());
        let file = Path::new("/home/u/p/smidr.yaml");
        let facts = SystemFacts::of_an_ordinary_user();
        let plan = make(&config, None, &facts, &paths, file, &BuildRequest::default(), &crate::plan::Domain::Own);
        plan.map(drop).map_err(|error| error.to_string())
    }

    fn bind(bind: &str) -> Result<(), String> {
        plan_with(&format!("directories: {{layers: /srv/store}}\nhost: {{recipe: mine, binds: [{{{bind}}}]}}"))
    }

    #[test]
    fn inputs_of_later_builds_are_guarded() {
        for (source, why) in [
            ("./smidr.yaml", "it is smidr.yaml, and the build could write to it"),
            ("./smidr.lock", "it is smidr.lock"),
            ("./smidr.local.yaml", "it is smidr.local.yaml"),
            ("./smidr.local.lock", "it is smidr.local.lock"),
            (".", "it holds smidr.yaml"),
            ("./mine.yaml", "it is the rootfs recipe"),
            ("./layers", "it holds the layer `l`"),
            ("./layers/l/conf/layer.conf", "it lies in the layer `l`"),
            ("./patches", "it holds a patch of the layer `g`"),
            ("./patches/one.patch", "it is a patch of the layer `g`"),
            ("../bb/lib", "it lies in BitBake"),
            ("/srv/store", "it is the store of layers"),
            ("/srv/store/mirrors", "it lies in the store of layers"),
            ("/srv", "it holds the store of layers"),
        ] {
            let refused = bind(&format!("source: {source}, dest: /opt/x, writable: true")).expect_err(source);
            assert!(refused.contains(why), "{source}: {refused}");
            assert_eq!(bind(&format!("source: {source}, dest: /opt/x")), Ok(()), "{source} to be read");
        }
        for good in ["./smidr.yaml-evil", "./out", "./layers/l-evil", "./patches/two", "../bb-evil", "/srv/store-evil"]
        {
            assert_eq!(bind(&format!("source: {good}, dest: /opt/x, writable: true")), Ok(()), "{good}");
        }
    }

    #[test]
    fn the_store_of_layers_stays_as_it_is() {
        for dest in ["/srv/store", "/srv/store/checkouts/x", "/srv"] {
            let refused = bind(&format!("source: /opt/x, dest: {dest}")).expect_err(dest);
            assert!(refused.contains("would hide or change /srv/store"), "{refused}");
        }
        for folder in ["/srv/store/dl", "/srv"] {
            let folders = format!("directories: {{layers: /srv/store, downloads: {folder}}}");
            let refused = plan_with(&folders).expect_err(folder);
            assert!(
                refused.contains("cannot be a folder of the build: it holds the store of layers, or lies"),
                "{refused}"
            );
        }
        assert_eq!(plan_with("directories: {layers: /srv/store, downloads: /srv/store-evil}"), Ok(()));
    }
}
