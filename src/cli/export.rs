//! `smidr export`: the project as files of another tool, for people who stay with it. What that tool has no words for is named.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{
    context,
    exchange_args::{Export, ExportForm},
    output::{say_block, talk},
    report::{Done, Failure, Refused},
};
use crate::{
    bitbake::assignment,
    kas::{Form, Node, Scalar, Value, dump},
    layers::{self, Store},
    model::{BuildRequest, Hint, SystemFacts},
    plan::{Domain, Plan, PlannedGit, PlannedLayer, PlannedSource},
    project::Project,
    system::paths,
};

/// Runs the command.
pub(super) fn export(file: &Path, args: &Export) -> Done {
    let facts = context::gather();
    let project = Project::look(file, args.variant.as_deref(), &facts)?;
    let paths = paths::find(&facts.environment)?;
    let request = BuildRequest { variant: args.variant.clone(), ..BuildRequest::default() };
    let plan = project.plan(&request, &facts, &paths, &Domain::Own)?;
    if plan.as_is.is_some() {
        let what = format!("{} is a project of another tool already", file.display());
        return Err(Refused::new(what, None).into());
    }
    let repositories = repositories(&plan, &facts)?;
    let mut left_out = vec![format!("the build host, {}", plan.host.name)];
    let others: Vec<&str> = project.config.variants.iter().map(|name| name.text.as_str()).collect();
    if !others.is_empty() {
        left_out.push(format!("variants ({}): each is a file of its own, with --variant", others.join(", ")));
    }
    let (document, form, indent) = match args.form {
        ExportForm::Kas => (kas(&plan, &project, &repositories), Form::Yaml, 2),
        ExportForm::ConfJson => (conf_json(&plan, &project, &repositories, &mut left_out), Form::Json, 4),
    };
    say_block(dump(&document, form, indent, false).trim_end());
    left_out.iter().for_each(|what| talk(format!("left out   {what}")));
    Ok(ExitCode::SUCCESS)
}

/// A repository with its layers.
struct Exported<'p> {
    name: &'p str,
    source: &'p PlannedSource,
    layers: Vec<String>,
}

fn repositories<'p>(plan: &'p Plan, facts: &SystemFacts) -> Result<Vec<Exported<'p>>, Failure> {
    let store = Store::of(plan);
    let mut all = Vec::new();
    for layer in &plan.layers {
        all.push(Exported { name: &layer.name, source: &layer.source, layers: layers_of(layer, &store, facts)? });
    }
    if let Some(source) = &plan.bitbake {
        all.push(Exported { name: "bitbake", source, layers: Vec::new() });
    }
    Ok(all)
}

/// The layers of a repository, as the config names them or as they are found in it.
fn layers_of(layer: &PlannedLayer, store: &Store, facts: &SystemFacts) -> Result<Vec<String>, Failure> {
    if !layer.has_layers || !layer.include.is_empty() {
        return Ok(layer.include.clone());
    }
    let Some(found) = store.find(&layer.name, &layer.source, &facts.home)? else {
        let what = format!("the layers of {} are not here yet", layer.name);
        return Err(Refused::new(what, [Hint::command("bring them", "smidr layers sync")]).into());
    };
    let root = found.folder();
    let found = layers::discover(root, layer).map_err(layers::LayerError::from)?;
    let inside = |folder: &PathBuf| match folder.strip_prefix(root).unwrap_or(folder).display().to_string() {
        whole if whole.is_empty() => ".".to_owned(),
        inside => inside,
    };
    Ok(found.iter().map(|layer| inside(&layer.folder)).collect())
}

/// Variables of conf that smidr sets for its own folders and this machine.
const OWN: [&str; 9] = [
    "BB_HASHSERVE_DB_DIR",
    "BB_NUMBER_THREADS",
    "DEPLOY_DIR",
    "DISTRO",
    "DL_DIR",
    "MACHINE",
    "PARALLEL_MAKE",
    "SSTATE_DIR",
    "TMPDIR",
];

fn text(text: &str) -> Node {
    Node::text(text)
}

fn null() -> Node {
    Node::made(Value::Scalar(Scalar::Null))
}

fn list<'t>(texts: impl IntoIterator<Item = &'t str>) -> Node {
    Node::made(Value::List(texts.into_iter().map(Node::text).collect()))
}

fn kas(plan: &Plan, project: &Project, repositories: &[Exported<'_>]) -> Node {
    let mut root = Node::map([("header", Node::map([("version", Node::made(Value::Scalar(Scalar::Int(14))))]))]);
    root.set("machine", text(&plan.machine));
    let distro = project.config.base.distro.as_ref();
    root.set("distro", text(distro.map_or("nodistro", |distro| &distro.text)));
    root.set("target", list(plan.targets.iter().map(String::as_str)));
    if let Some(task) = &plan.task {
        root.set("task", text(task));
    }
    if !plan.exports.is_empty() {
        root.set("env", Node::map(plan.exports.iter().map(|(name, value)| (name.as_str(), text(value)))));
    }
    let patched = |source: &PlannedSource| matches!(source, PlannedSource::Git(git) if !git.patches.is_empty());
    let mut repos = Vec::new();
    if repositories.iter().any(|one| patched(one.source)) {
        repos.push((THIS, Node::map([("layers", Node::map([(".", text("disabled"))]))])));
    }
    repos.extend(repositories.iter().map(|one| (one.name, kas_repository(one, &plan.project))));
    root.set("repos", Node::map(repos));
    let own = plan.conf.iter().filter(|(name, _)| !OWN.contains(&name.as_str()));
    let mut conf: String = own.map(|(name, value)| assignment(name, value)).collect();
    conf.extend(plan.exports.iter().map(|(name, _)| format!("export {name}\n")));
    if !plan.conf_tail.is_empty() {
        conf.push_str(plan.conf_tail.trim_end());
        conf.push('\n');
    }
    if !conf.is_empty() {
        root.set("local_conf_header", Node::map([("smidr", text(&conf))]));
    }
    root
}

/// In the place of the project's own repository, which has its patches.
const THIS: &str = "this";

fn kas_repository(one: &Exported<'_>, project: &Path) -> Node {
    let mut node = Node::map([]);
    match one.source {
        PlannedSource::Path(path) => node.set("path", text(&path.written)),
        PlannedSource::Git(git) => {
            node.set("url", text(&git.url));
            for (key, value) in [("branch", &git.branch), ("tag", &git.tag), ("commit", &commit(git))] {
                if let Some(value) = value {
                    node.set(key, text(value));
                }
            }
            let patches = git.patches.iter().enumerate().map(|(at, patch)| {
                let path = patch.file.strip_prefix(project).unwrap_or(&patch.file).display().to_string();
                (format!("p{at:03}"), Node::map([("repo", text(THIS)), ("path", text(&path))]))
            });
            let patches: Vec<(String, Node)> = patches.collect();
            if !patches.is_empty() {
                node.set("patches", Node::map(patches.iter().map(|(id, patch)| (id.as_str(), patch.clone()))));
            }
        }
    }
    let layers: Vec<(&str, Node)> = match one.layers.as_slice() {
        [] => vec![(".", text("disabled"))],
        layers => layers.iter().map(|layer| (layer.as_str(), null())).collect(),
    };
    node.set("layers", Node::map(layers));
    node
}

/// What the lock or the config says.
fn commit(git: &PlannedGit) -> Option<String> {
    let pinned = git.pinned.as_ref().and_then(|pin| pin.commit.as_ref());
    git.commit.as_ref().or(pinned).map(ToString::to_string)
}

fn conf_json(plan: &Plan, project: &Project, repositories: &[Exported<'_>], left_out: &mut Vec<String>) -> Node {
    let mut sources = Vec::new();
    for one in repositories {
        let source = match one.source {
            PlannedSource::Path(path) => ("local", Node::map([("path", text(&path.folder.display().to_string()))])),
            PlannedSource::Git(git) => {
                let mut remote = Node::map([("uri", text(&git.url))]);
                if let Some(branch) = &git.branch {
                    remote.set("branch", text(branch));
                }
                let rev = commit(git).or_else(|| git.tag.clone()).or_else(|| git.branch.clone()).unwrap_or_default();
                remote.set("rev", text(&rev));
                if !git.patches.is_empty() {
                    left_out.push(format!("patches of {}", one.name));
                }
                ("git-remote", remote)
            }
        };
        sources.push((one.name, Node::map([source])));
    }
    let layers = repositories.iter().flat_map(|one| {
        one.layers.iter().map(|layer| match layer.as_str() {
            "." => one.name.to_owned(),
            layer => format!("{}/{layer}", one.name),
        })
    });
    let layers: Vec<String> = layers.collect();
    let distro = project.config.base.distro.as_ref().map(|distro| format!("distro/{distro}"));
    let machine = format!("machine/{}", plan.machine);
    let description = project.config.description.as_ref().map_or(plan.name.as_str(), |about| &about.text);
    let configuration = Node::map([
        ("name", text(&plan.name)),
        ("description", text(description)),
        ("bb-layers", list(layers.iter().map(String::as_str))),
        ("oe-fragments", list(distro.as_deref().into_iter().chain([machine.as_str()]))),
    ]);
    let further: Vec<&str> =
        plan.conf.iter().map(|(name, _)| name.as_str()).filter(|name| !OWN.contains(name)).collect();
    if !further.is_empty() {
        left_out.push(format!("variables of conf: {}", further.join(", ")));
    }
    for (what, is_there) in [("local_conf", !plan.conf_tail.is_empty()), ("env", !plan.exports.is_empty())] {
        if is_there {
            left_out
                .push(format!("{what}: bitbake-setup takes it from a layer's fragment, or from local.conf by hand"));
        }
    }
    left_out.push(format!("what is built, {}", plan.targets.join(" ")));
    Node::map([
        ("description", text(description)),
        ("sources", Node::map(sources)),
        ("bitbake-setup", Node::map([("configurations", Node::made(Value::List(vec![configuration])))])),
        ("version", text("1.0")),
    ])
}
