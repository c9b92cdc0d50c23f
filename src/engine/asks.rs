//! What a project asks for, whole: what its plan tells, its rootfs recipe, and conf that was left in its build folder.

use std::{fs, io::Read as _, path::Path};

use sha2::{Digest as _, Sha256};

use crate::{
    config::Config,
    image::{ImageStore, Reference, stored_name},
    layers,
    model::{Ask, BuildRequest, Digest, Paths, RemoteCaller, SystemFacts, asks_digest},
    plan::{self, Domain, Isolation, Plan, PlanError, PlannedSource},
    project::Project,
    recipes::{self, Base, FoundRecipe},
    system::{rooted::Rooted, trail::trail},
};

/// Conf that BitBake reads beside what smidr writes (bitbake.conf).
const LEFT: [&str; 2] = ["site.conf", "auto.conf"];

/// Of a file of conf, in bytes.
const CONF_LIMIT: u64 = 4 << 20;

/// A plan, and what its project asks for.
pub(crate) struct Judged {
    /// The plan, with the caches that the project may use.
    pub plan: Plan,
    /// Everything that is asked for.
    pub asks: Vec<Ask>,
    /// What of it is not granted.
    pub refused: Vec<Ask>,
}

impl Judged {
    /// Identifies what is asked for.
    pub(crate) fn digest(&self) -> Digest {
        asks_digest(&self.asks)
    }

    /// What was granted.
    pub(crate) fn granted(&self) -> Vec<Ask> {
        self.asks.iter().filter(|ask| !self.refused.contains(ask)).cloned().collect()
    }

    /// Whether what was refused stops a build. Shared caches alone do not: a build without them uses some of its own.
    pub(crate) fn stops(&self) -> bool {
        self.refused.iter().any(|ask| !matches!(ask, Ask::SharedCache { .. }))
    }
}

/// The plan of a project with what it asks for. `refused` picks what is not granted to the project with this plan.
///
/// # Errors
///
/// When what is wanted cannot be built anywhere.
pub(crate) fn judge(
    project: &Project,
    wanted: &BuildRequest,
    facts: &SystemFacts,
    paths: &Paths,
    refused: impl FnOnce(&Plan, &[Ask]) -> Vec<Ask>,
) -> Result<Judged, PlanError> {
    // A client asks for nothing with caches that are its customer's, whatever the daemon's policy calls these.
    let customer = facts.remote.as_ref().map(RemoteCaller::own_caches);
    let customer = customer.as_deref();
    let domain = Domain::wanted(project.config.cache.as_ref().map(|name| name.text.as_str()), customer);
    let plan = project.plan(wanted, facts, paths, &domain)?;
    let asks = asks(&project.config, &plan, &facts.home, paths);
    let refused = refused(&plan, &asks);
    let plan = match refused.iter().any(|ask| matches!(ask, Ask::SharedCache { .. })) {
        true => project.plan(wanted, facts, paths, &Domain::instead(customer))?,
        false => plan,
    };
    Ok(Judged { plan, asks, refused })
}

/// Everything that a project asks for.
fn asks(config: &Config, plan: &Plan, home: &Path, paths: &Paths) -> Vec<Ask> {
    let real = |path: &Path| {
        fs::canonicalize(path).unwrap_or_else(|_| trail(path).pop().unwrap_or_else(|| path.to_path_buf()))
    };
    // Another tool's project is the repository that holds its files.
    let around = plan.as_is.as_ref().and_then(|_| layers::repository_around(&plan.project, home));
    let own = around.as_deref().unwrap_or(&plan.project);
    let mut asks = plan::asks(config, plan, own, &real);
    // A build sees `.git` of the repository around a layer, with its history.
    for (name, source) in plan.sources() {
        if let PlannedSource::Path(path) = source
            && path.sent.is_none()
            && let Some(root) = layers::repository_around(&path.folder, home).map(|root| real(&root))
            && !root.starts_with(real(own))
        {
            asks.push(Ask::Outside { what: format!("the repository of {name}"), path: root });
        }
    }
    asks.extend(of_host(plan, paths));
    asks.extend(left_conf(plan));
    asks.sort();
    asks.dedup();
    asks
}

/// What the build host asks for.
fn of_host(plan: &Plan, paths: &Paths) -> Vec<Ask> {
    match &plan.host {
        _ if plan.isolation == Isolation::None => Vec::new(),
        host if host.recipe => of_recipe(plan, paths),
        host => {
            let wanted = host.pinned.as_ref().map_or_else(|| stored_name(&host.name), ToString::to_string);
            of_image(&wanted, plan, paths).into_iter().collect()
        }
    }
}

/// The image of a registry that a plan names, as `HOST/REPOSITORY:TAG`; by its digest only where it has no tag.
pub(crate) fn registry_image(plan: &Plan) -> Option<String> {
    if plan.isolation == Isolation::None || plan.host.recipe {
        return None;
    }
    let Ok(Reference::Registry(mut reference)) = plan.host.name.parse() else { return None };
    reference.digest.take_if(|_| reference.tag.is_some());
    Some(reference.to_string())
}

/// An image of the store that was not public. What the store does not have can only be pulled.
fn of_image(wanted: &str, plan: &Plan, paths: &Paths) -> Option<Ask> {
    let store = ImageStore::at(paths);
    let image = store.find(wanted).ok()??;
    let name = image.name.as_str();
    let is_made_of = |found: &FoundRecipe| recipes::is_made_of(&store, &image, found);
    let is_open = match &image.origin {
        Some(origin) => origin.anonymous,
        None => {
            let of_project = recipes::find(name, &plan.project, paths).ok().filter(|found| !found.is_the_users(paths));
            let shipped = recipes::shipped(name).and_then(Result::ok);
            shipped.iter().chain(&of_project).any(is_made_of)
        }
    };
    (!is_open).then(|| Ask::StoredImage { name: name.into() })
}

/// What a rootfs recipe asks for: one of the project, and the image of one of the user's own.
fn of_recipe(plan: &Plan, paths: &Paths) -> Vec<Ask> {
    if recipes::is_shipped(plan, paths) {
        return Vec::new();
    }
    // What is wrong with a recipe is said when it is used.
    let Ok(found) = recipes::planned(plan, paths) else { return Vec::new() };
    if found.is_the_users(paths) {
        return vec![Ask::StoredImage { name: found.image }];
    }
    let recipe = found.name.clone();
    let mut asks = Vec::new();
    if !found.recipe.commands.is_empty() {
        asks.push(Ask::RecipeCommands { recipe: recipe.clone(), network: found.recipe.network });
    }
    // Its pip and apt come with a base image; its pip also with packages of a mirror of its own.
    let gives = match &found.recipe.base {
        Base::Image(_) => found.recipe.pip.is_some() || !found.recipe.packages.is_empty(),
        // What comes with smidr brings its own.
        Base::Recipe(_) => false,
        Base::Packages(suite) => found.recipe.pip.is_some() && (suite.mirror.is_some() || suite.signed_by.is_some()),
    };
    if gives {
        asks.push(Ask::RecipeCredentials { recipe: recipe.clone() });
    }
    if let Base::Image(name) = &found.recipe.base {
        asks.extend(of_image(name, plan, paths));
    }
    if let Base::Packages(suite) = &found.recipe.base {
        let mirror = suite.mirror.as_ref().map(|mirror| mirror.text.clone());
        asks.extend(mirror.map(|mirror| Ask::RecipeMirror { recipe: recipe.clone(), mirror }));
        let keys = suite.signed_by.as_ref().map(|path| path.text.clone().into());
        asks.extend(keys.map(|path| Ask::RecipeKeys { recipe, path }));
    }
    asks
}

/// Conf in the build folder that smidr did not write.
pub(crate) fn left_conf(plan: &Plan) -> Vec<Ask> {
    let one = |name: &&str| {
        let path = plan.folders.top.join("conf").join(name);
        let (root, inside) = plan.folders.inside(&path)?;
        let file = Rooted::open(root).ok()?.open_file(inside).ok()?;
        let mut bytes = Vec::new();
        file.take(CONF_LIMIT).read_to_end(&mut bytes).ok()?;
        Some(Ask::LeftConf { path, digest: Digest::from_sha256(Sha256::digest(bytes).into()) })
    };
    LEFT.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn only_images_of_registries_have_a_name_there() {
        let sha = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        for (host, wanted) in [
            ("image: docker://debian:12", Some("docker.io/library/debian:12".to_owned())),
            ("image: R.example.com/team/x", Some("r.example.com/team/x:latest".into())),
            (&format!("image: r.example.com/x:1@{sha}"), Some("r.example.com/x:1".into())),
            (&format!("image: r.example.com/x@{sha}"), Some(format!("r.example.com/x@{sha}"))),
            ("image: of-the-store", None),
            ("recipe: debian-12", None),
            ("isolation: none", None),
        ] {
            let text = format!("name: x\nbase: {{machine: m}}\nbuild: {{image: i}}\nhost: {{{host}}}\n");
            let config = config::read("smidr.yaml", &text, None, &|_| None).expect(host);
            let (facts, paths) = (SystemFacts::of_an_ordinary_user(), Paths::new("/home/u/.smidr".into()));
            let (file, request) = (Path::new("/home/u/p/smidr.yaml"), BuildRequest::default());
            let plan = plan::make(&config, None, &facts, &paths, file, &request, &Domain::Own).expect("a plan");
            assert_eq!(registry_image(&plan), wanted, "{host}");
        }
    }
}
