//! What builds reach to write. A path that leads over such a place could lead anywhere by the next build: nothing that is shown to a
//! build, and no folder of its own, may be found that way.

use std::path::{Path, PathBuf};

use crate::{
    model::Paths,
    plan::{Guarded, InputError, OffLimits, Plan, is_hidden},
    system::trail::trail,
};

/// The places that matter, as they are on this machine just now: without links.
pub(super) struct Reach {
    home: PathBuf,
    smidr: PathBuf,
    workspaces: PathBuf,
    // What this build may write to.
    own: Vec<PathBuf>,
    // What builds of other projects may, if nothing else is said there.
    others: Vec<PathBuf>,
    guarded: Vec<Guarded>,
    // What builds of all projects stand on.
    shared: Vec<Guarded>,
}

impl Reach {
    /// Looks at everything that a plan lets its build write to.
    pub(super) fn of(plan: &Plan, home: &Path, paths: &Paths) -> Self {
        let written = plan.inputs.iter().filter(|input| input.writable).filter_map(|input| input.source.as_deref());
        let shared = [
            (plan.layer_store.clone(), "the store of layers"),
            (paths.images(), "the store of images"),
            (paths.builds(), "what is kept of builds"),
            (paths.locks(), "the locks of smidr"),
            (paths.tmp().join("roots"), "what sandboxes begin with"),
            (paths.tmp().join("sessions"), "what sandboxes begin with"),
        ];
        let shared = shared.map(|(path, what)| Guarded { path, what: what.into() });
        Self {
            home: real(home),
            smidr: real(paths.home()),
            workspaces: real(&paths.workspaces()),
            own: plan.folders.writable().into_iter().chain(written).map(real).collect(),
            others: [paths.downloads(), paths.sstate()].map(|path| real(&path)).into(),
            guarded: everywhere(&plan.guarded),
            shared: everywhere(&shared),
        }
    }

    /// Checks a file or folder of this machine that a build is to be given, by the name that it was given.
    ///
    /// # Errors
    ///
    /// When it must not be shown, or a build could have put it there.
    pub(super) fn check_source(&self, named: &Path) -> Result<(), InputError> {
        let off_limits = OffLimits { home: &self.home, smidr: &self.smidr, writable: &[] };
        way(named).iter().try_for_each(|(place, _)| off_limits.check(place))?;
        self.check_way(named)
    }

    /// Checks that no build could have put there what is found at a path.
    ///
    /// # Errors
    ///
    /// When one could.
    pub(super) fn check_way(&self, named: &Path) -> Result<(), InputError> {
        match way(named).into_iter().find(|(place, is_end)| self.outer(place, *is_end).is_some()) {
            None => Ok(()),
            Some((place, _)) => {
                let why = "lies where builds may write, and could be a link to anything by the next build".into();
                Err(InputError::Source { path: place, why })
            }
        }
    }

    /// Checks a layer, which may lie in a folder of the build, as devtool's does: no build may have put a link on the way.
    ///
    /// # Errors
    ///
    /// When one could have.
    pub(super) fn check_layer(&self, folder: &Path) -> Result<(), InputError> {
        let mut links = way(folder).into_iter().filter(|(_, is_end)| !is_end);
        match links.find(|(place, _)| self.outer(place, false).is_some()) {
            None => Ok(()),
            Some((path, _)) => {
                Err(InputError::Source { path, why: "is a symbolic link that a build may have put there".into() })
            }
        }
    }

    /// Checks something that a build is to be given to write to.
    ///
    /// # Errors
    ///
    /// When it decides over later builds, or belongs to those of other projects.
    pub(super) fn check_written(&self, source: &Path) -> Result<(), InputError> {
        let refused = |why: String| Err(InputError::Source { path: source.into(), why });
        if let Some(why) = self.guarded.iter().chain(&self.shared).find_map(|guarded| guarded.refuses(source)) {
            return refused(why);
        }
        match self.workspaces.starts_with(source) || source.starts_with(&self.workspaces) {
            true => refused("holds workspaces of builds, or lies in one".into()),
            false => Ok(()),
        }
    }

    /// Checks a folder of the build.
    ///
    /// # Errors
    ///
    /// When it holds what other projects stand on, or a build could have made it lead somewhere else.
    pub(super) fn check_folder(&self, folder: &Path) -> Result<(), InputError> {
        let refused = |why: String| Err(InputError::Folder { path: folder.into(), why });
        for (place, is_end) in way(folder) {
            if let Some(outer) = self.outer(&place, is_end) {
                let (place, outer) = (place.display(), outer.display());
                return refused(format!("leads over {place} in {outer}, where builds may put a link to anything"));
            }
            if is_end && !place.starts_with(&self.smidr) && is_hidden(&place, &self.home) {
                return refused("leads to a hidden folder of your home".into());
            }
            // The folders of a build may hold layers, such as devtool's own, but not those of other projects.
            if let Some(why) = self.shared.iter().filter(|_| is_end).find_map(|guarded| guarded.refuses(&place)) {
                return refused(why);
            }
        }
        Ok(())
    }

    /// The place that builds write to in which this one lies. A folder that they write to may itself be what is wanted; what lies in it
    /// may have become a link.
    fn outer(&self, place: &Path, is_end: bool) -> Option<&Path> {
        // Builds reach their own workspaces, and not the folder that these stand in.
        let is_workspace = place.parent() == Some(&self.workspaces);
        let in_workspaces = place.starts_with(&self.workspaces) && place != self.workspaces && !is_workspace;
        let mut writable = self.own.iter().chain(&self.others).filter(|path| !(is_end && **path == place));
        let outer = writable.find(|path| place.starts_with(path));
        outer.or(in_workspaces.then_some(&self.workspaces)).map(PathBuf::as_path)
    }
}

fn real(path: &Path) -> PathBuf {
    // What is not there yet leads over links as well.
    trail(path).pop().unwrap_or_else(|| path.into())
}

/// Every place that a path leads over, and whether it is the last.
fn way(path: &Path) -> Vec<(PathBuf, bool)> {
    let places = trail(path);
    let last = places.len().saturating_sub(1);
    places.into_iter().enumerate().map(|(index, place)| (place, index == last)).collect()
}

/// What is guarded, in every place on the way to it: a link that was replaced would lead somewhere else.
pub(super) fn everywhere(guarded: &[Guarded]) -> Vec<Guarded> {
    let places = |guarded: &Guarded| {
        let what = guarded.what.clone();
        trail(&guarded.path).into_iter().map(move |path| Guarded { path, what: what.clone() })
    };
    guarded.iter().flat_map(places).collect()
}
