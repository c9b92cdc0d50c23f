//! A manifest of git-repo as a smidr.yaml: its repositories are brought, and of their layers those are proposed that fit together.

use std::path::Path;

use super::imported::Imported;
use crate::cli::{
    args::{Grant, Import},
    command_context::CommandContext,
    output::talk,
    report::{Failure, Refused},
    trust,
};
use crate::{
    engine,
    kas::{Node, Scalar, Value, escaped, whole},
    layers::{self, Found, LayerError, LayerInfo, Store},
    lock::{Lock, Pins},
    model::{BuildRequest, Hint},
    project::{Project, Sources},
    repo_manifest::{self, Manifest, ManifestProject},
    system::files::{FileError, read_text},
};

/// Whether a file is a manifest.
pub(in crate::cli) fn is_manifest(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ending == "xml")
        && read_text(file).is_ok_and(|text| repo_manifest::is_manifest(&text))
}

/// What a manifest becomes. Brings its repositories.
pub(super) fn import(file: &Path, to: &Path, grant: &Grant, args: &Import) -> Result<Imported, Failure> {
    let (Some(machine), Some(target)) = (&args.machine, &args.target) else {
        let hint = Hint::new("name both:  --machine MACHINE --target core-image-minimal");
        return Err(Refused::new("a manifest says neither for which machine nor what is built", [hint]).into());
    };
    let context = CommandContext::open("import")?;
    let file = std::fs::canonicalize(file).map_err(FileError::new("find", file))?;
    let folder = file.parent().unwrap_or(Path::new("/"));
    let origin = layers::repository_around(folder, &context.facts.home).and_then(|root| layers::origin_of(&root));
    let read = |path: &Path| {
        crate::system::files::read_bounded(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let manifest = repo_manifest::read(&file, origin.as_deref(), &read)?;
    if manifest.projects.is_empty() {
        return Err(Refused::new(format!("{} names no repository", file.display()), None).into());
    }
    let names = names(&manifest);
    let entries = |layers: &dyn Fn(&str) -> Option<Vec<String>>| {
        let all = manifest.projects.iter().zip(&names).map(|(project, name)| entry(project, name, layers(name)));
        Node::made(Value::List(all.collect()))
    };
    let document = |layers: Node| {
        let mut base = Node::map([("machine", Node::text(machine))]);
        if let Some(distro) = &args.distro {
            base.set("distro", Node::text(distro));
        }
        let name = file.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let name = args.name.clone().unwrap_or(name);
        Node::map([
            ("name", Node::text(name)),
            ("base", base),
            ("layers", layers),
            ("build", Node::map([("image", Node::text(target))])),
        ])
    };
    let text = whole(&document(entries(&|_| Some(Vec::new()))), &[], &[]);
    let sources = Sources { file: to.into(), texts: text.as_str().into(), ..Sources::default() };
    let project = Project::of(sources, None, &context.facts)?;
    let given = trust::given(&context.facts, grant);
    let request = BuildRequest::default();
    let judged = trust::settle(&project, &request, &context.facts, &context.paths, &given, &context.stop)?;
    let pins = engine::repositories(&judged.plan, context.tools())?;
    let lock = Lock::of(Pins { hosts: Vec::new(), repositories: pins });
    let lock_text = lock.to_text().map_err(|error| Refused::new(error.to_string(), None))?;
    // The same once more, with what it is pinned to.
    let sources = Sources { lock: Some(lock_text.clone()), ..project.sources };
    let project = Project::of(sources, None, &context.facts)?;
    let plan = project.plan(&request, &context.facts, &context.paths, &judged.plan.domain)?;
    let found = find(&plan, &context)?;
    let infos = layers::look(&found).map_err(LayerError::from)?;
    let (chosen, reasons) = choose(&infos, machine, args.distro.as_deref())?;
    let mut left_out = manifest.left_out.clone();
    left_out.extend(reasons);
    let of = |name: &str| {
        let inside = found.iter().enumerate().filter(|(at, one)| one.repository == name && chosen.contains(at));
        let inside = inside.map(|(_, one)| match one.folder.strip_prefix(&one.root) {
            Ok(inside) if !inside.as_os_str().is_empty() => inside.display().to_string(),
            _ => ".".to_owned(),
        });
        Some(inside.collect::<Vec<_>>()).filter(|layers| !layers.is_empty())
    };
    let lines = [format!(
        "Written by `smidr import {}`. The layers are those that fit together; take out what you do not need.",
        file.file_name().map(|name| name.to_string_lossy()).unwrap_or_default()
    )];
    let text = whole(&document(entries(&of)), &[], &lines);
    Ok(Imported { text, left_out, lock: Some(lock_text) })
}

/// The layers of all repositories; one that has none is left alone.
fn find(plan: &crate::plan::Plan, context: &CommandContext) -> Result<Vec<Found>, Failure> {
    let store = Store::of(plan);
    let mut all = Vec::new();
    for layer in &plan.layers {
        let Some(repository) = store.find(&layer.name, &layer.source, &context.facts.home)? else { continue };
        match layers::discover(repository.folder(), layer) {
            Ok(found) => all.extend(found),
            Err(layers::DiscoverError::NoLayer { .. }) => talk(format!("{} has no layers", layer.name)),
            Err(error) => return Err(LayerError::from(error).into()),
        }
    }
    Ok(all)
}

/// Names that are their folders' last parts, where these are different.
fn names(manifest: &Manifest) -> Vec<String> {
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let all: Vec<String> = manifest.projects.iter().map(|one| last(&one.path)).collect();
    let is_twice = |name: &String| all.iter().filter(|other| *other == name).count() > 1;
    let name =
        |(project, name): (&ManifestProject, &String)| match is_twice(name) || name == "bitbake" || name == "host" {
            true if project.path.contains('/') => project.path.replace('/', "-"),
            true => format!("{name}-repository"),
            false => name.clone(),
        };
    manifest.projects.iter().zip(&all).map(name).collect()
}

/// `layers` are those that are used: none at all, or, empty, all that are found.
fn entry(project: &ManifestProject, name: &str, layers: Option<Vec<String>>) -> Node {
    let mut node = Node::map([("name", Node::text(name)), ("git", Node::text(escaped(&project.url)))]);
    let revision = project.revision.as_str();
    let is_commit = [40, 64].contains(&revision.len()) && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
    let (key, value) = match () {
        () if is_commit => ("commit", revision.to_ascii_lowercase()),
        () => match revision.strip_prefix("refs/tags/") {
            Some(tag) => ("tag", tag.to_owned()),
            None => ("branch", revision.strip_prefix("refs/heads/").unwrap_or(revision).to_owned()),
        },
    };
    node.set(key, Node::text(escaped(&value)));
    match layers {
        None => node.set("has_layers", Node::made(Value::Scalar(Scalar::Bool(false)))),
        Some(layers) if layers.is_empty() => {}
        Some(layers) => {
            let layers = Node::made(Value::List(layers.iter().map(Node::text).collect()));
            node.set("sublayers", Node::map([("include", layers)]));
        }
    }
    node
}

/// Those of the layers that work with the series of the core and have what they depend on; and why the others are left out.
fn choose(infos: &[LayerInfo], machine: &str, distro: Option<&str>) -> Result<(Vec<usize>, Vec<String>), Failure> {
    let name = |info: &LayerInfo| match &info.collection {
        Some(collection) => format!("{collection} ({})", info.repository),
        None => format!("{} ({})", info.folder.display(), info.repository),
    };
    let Some(core) = infos.iter().find(|info| info.collection.as_deref() == Some("core")) else {
        return Err(Refused::new("none of its repositories has OpenEmbedded-Core", None).into());
    };
    let mut reasons = Vec::new();
    let fits = |info: &LayerInfo| info.series.is_empty() || info.series.iter().any(|one| core.series.contains(one));
    let mut chosen: Vec<usize> = Vec::new();
    for (at, info) in infos.iter().enumerate() {
        let is_twin = chosen
            .iter()
            .filter_map(|at| infos.get(*at))
            .any(|other| info.collection.is_some() && other.collection == info.collection);
        match () {
            () if is_twin => reasons.push(format!("the layer {}: another one has that name", name(info))),
            () if !fits(info) => reasons.push(format!(
                "the layer {}: it works with {}, and the core is {}",
                name(info),
                info.series.join(" "),
                core.series.join(" ")
            )),
            () => chosen.push(at),
        }
    }
    // One that is left out may be missing to another one.
    loop {
        let there: Vec<&str> = chosen.iter().filter_map(|at| infos.get(*at)?.collection.as_deref()).collect();
        let lacking = chosen.iter().copied().find_map(|at| {
            let info = infos.get(at)?;
            let missing = info.depends.iter().find(|one| !there.contains(&one.as_str()))?;
            Some((at, format!("the layer {}: it needs {missing}", name(info))))
        });
        let Some((at, reason)) = lacking else { break };
        reasons.push(reason);
        chosen.retain(|one| *one != at);
    }
    for (what, wanted) in [("machine", Some(machine)), ("distro", distro)] {
        let Some(wanted) = wanted else { continue };
        let has = |at: &usize| {
            infos.get(*at).is_some_and(|info| info.folder.join(format!("conf/{what}/{wanted}.conf")).is_file())
        };
        if !chosen.iter().any(has) {
            let hints = reasons.iter().take(5).map(Hint::new).collect::<Vec<_>>();
            return Err(
                Refused::new(format!("none of its layers that fit together has the {what} {wanted}"), hints).into()
            );
        }
    }
    Ok((chosen, reasons))
}
