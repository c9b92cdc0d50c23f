//! What a project asks for, whole: what its plan tells, its rootfs recipe, and conf that was left in its build folder.

use std::{fs, io::Read as _, path::Path};

use sha2::{Digest as _, Sha256};

use super::recipes;
use crate::{
    config::Config,
    host::{rooted::Rooted, trail::trail},
    image::recipe::Base,
    layers,
    model::{Ask, Digest, Paths},
    plan::{self, Isolation, Plan, PlannedSource},
};

/// Conf that BitBake reads beside what smidr writes (bitbake.conf).
const LEFT: [&str; 2] = ["site.conf", "auto.conf"];

/// Of a file of conf, in bytes.
const CONF_LIMIT: u64 = 4 << 20;

/// Everything that a project asks for.
pub fn asks(config: &Config, plan: &Plan, home: &Path, paths: &Paths) -> Vec<Ask> {
    let real = |path: &Path| {
        fs::canonicalize(path).unwrap_or_else(|_| trail(path).pop().unwrap_or_else(|| path.to_path_buf()))
    };
    let mut asks = plan::asks(config, plan, &real);
    // A build sees `.git` of the repository around a layer, with its history.
    for (name, source) in plan.sources() {
        if let PlannedSource::Path(path) = source
            && let Some(root) = layers::repository_around(&path.folder, home).map(|root| real(&root))
            && !root.starts_with(real(&plan.project))
        {
            asks.push(Ask::Outside { what: format!("the repository of {name}"), path: root });
        }
    }
    asks.extend(of_recipe(plan, paths));
    asks.extend(left_conf(plan));
    asks.sort();
    asks.dedup();
    asks
}

/// What a rootfs recipe of the project asks for. One of the user's own, or of smidr, asks nothing.
fn of_recipe(plan: &Plan, paths: &Paths) -> Vec<Ask> {
    if !plan.host.recipe || plan.isolation == Isolation::None {
        return Vec::new();
    }
    // What is wrong with a recipe is said when it is used.
    let Ok(found) = recipes::find(&plan.host.name, &plan.project, paths) else { return Vec::new() };
    if !found.is_beside_a_config(paths) {
        return Vec::new();
    }
    let recipe = found.name.clone();
    let mut asks = Vec::new();
    if !found.recipe.commands.is_empty() {
        asks.push(Ask::RecipeCommands { recipe: recipe.clone(), network: found.recipe.network });
    }
    // Its pip and apt come with a base image; its pip also with packages of a mirror of its own.
    let gives = match &found.recipe.base {
        Base::Image(_) => found.recipe.pip.is_some() || !found.recipe.packages.is_empty(),
        Base::Packages(suite) => found.recipe.pip.is_some() && (suite.mirror.is_some() || suite.signed_by.is_some()),
    };
    if gives {
        asks.push(Ask::RecipeCredentials { recipe: recipe.clone() });
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
pub fn left_conf(plan: &Plan) -> Vec<Ask> {
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
