//! `smidr plan`: what a build would do. Touches nothing and reaches no network.

use std::{path::Path, process::ExitCode};

use super::{
    args::{Grant, Plan},
    context, local,
    output::{Document, bytes, say, say_block, say_lines, talk_block},
    report::Done,
    trust,
    voice::coloured,
};
use crate::{
    config::Network,
    engine::{self, Judged},
    events::Redactor,
    model::{BuildRequest, Logins},
    plan::{self, Isolation, PlannedSource},
    project::Project,
    system::paths,
};

/// Runs the command.
pub(super) fn plan(file: &Path, grant: &Grant, args: &Plan) -> Done {
    let facts = context::gather();
    let project = Project::look(file, args.variant.as_deref(), &facts)?;
    let paths = paths::find(&facts.environment)?;
    let judged = trust::judge(
        &project,
        &BuildRequest { variant: args.variant.clone(), ..(&args.wanted).into() },
        &facts,
        &paths,
        &trust::given(&facts, grant),
    )?;
    let plan = &judged.plan;
    let redactor = Redactor::new(&plan.secrets());
    if args.conf {
        conf(plan, &facts.home, &redactor);
    } else if args.json {
        let document =
            Document::new().with("plan", plan)?.with("asks", &judged.asks)?.with("refused", &judged.refused)?;
        document.with("digest", &judged.digest())?.say_without(&redactor);
    } else {
        summary(&judged, &redactor, &project, &facts.home);
    }
    Ok(ExitCode::SUCCESS)
}

/// What BitBake reads, as comments say where.
fn conf(plan: &plan::Plan, home: &Path, redactor: &Redactor) {
    let (local, layers, missing) = engine::conf::planned(plan, home);
    let folder = plan.folders.top.join("conf");
    for (name, text) in [("local.conf", local), ("bblayers.conf", layers)] {
        say(format!("# {}", folder.join(name).display()));
        say_block(&redactor.text(&text));
    }
    for name in missing {
        say(format!("# the layers of {name} are not here yet:  smidr layers sync"));
    }
}

fn is_unresolved(plan: &plan::Plan) -> bool {
    let has_host = plan.host.pinned.is_some() || plan.isolation == Isolation::None;
    // What a path layer has is no pin.
    let git = |source: &PlannedSource| matches!(source, PlannedSource::Git(_));
    !has_host || plan.sources().any(|(_, source)| git(source) && !source.is_pinned())
}

/// What the build may and may not do, and what was asked of it.
fn rules(plan: &plan::Plan) -> Vec<(&'static str, String)> {
    let isolation = match plan.isolation {
        Isolation::Full => "its own processes, files and users",
        Isolation::SharedProcesses => "its own files and users; it sees this machine's processes",
        Isolation::None => "none: this machine's own files and programs (host.isolation: none)",
    };
    let least = if plan.strict { "; with less there is no build (host.isolation: full)" } else { "" };
    let network = match plan.network {
        _ if plan.offline => "none, neither for image and layers nor in the build (--offline)",
        Network::Full => "for all tasks that ask for it",
        Network::FetchOnly => "for fetching sources, not for the build (host.network: fetch-only)",
        Network::None => "none for the build (host.network: none)",
    };
    let logins = match &plan.logins {
        Logins::All => "shown to all servers that the project names".into(),
        Logins::Below(below) if below.is_empty() => "shown to no server".into(),
        Logins::Below(below) => format!("shown to {}", below.join(", ")),
    };
    let memory = plan.limits.memory.map_or_else(|| "no limit".into(), |memory| format!("at most {}", bytes(memory)));
    let mut rules = vec![
        ("isolation", format!("{isolation}{least}")),
        ("network", network.into()),
        ("logins", logins),
        ("memory", memory),
    ];
    rules.extend(plan.limits.cpus.map(|cpus| ("processors", format!("at most {cpus}"))));
    rules.extend(plan.limits.tasks.map(|tasks| ("processes", format!("at most {tasks} at once, threads included"))));
    rules.extend(plan.timeout.map(|time| ("time", format!("at most {} s (advanced.build_timeout)", time.as_secs()))));
    rules.extend(
        plan.openat2.map(|may| ("openat2", format!("programs {} use it", if may { "may" } else { "may not" }))),
    );
    rules.extend(plan.devices.iter().map(|device| ("device", device.display().to_string())));
    rules.extend(plan.exports.iter().map(|(name, value)| ("env", format!("{name}={value}"))));
    let steps = [
        (plan.clean, "first removes what builds of the project wrote; downloads and sstate stay (--clean)"),
        (plan.fetch_only, "fetches all sources and stops (--fetch-only)"),
        (plan.locked, "pins nothing anew (--locked)"),
    ];
    rules.extend(steps.iter().filter(|(is_so, _)| *is_so).map(|(_, text)| ("build", (*text).to_owned())));
    if !plan.bitbake_args.is_empty() {
        rules.push(("arguments", plan.bitbake_args.join(" ")));
    }
    rules
}

fn summary(judged: &Judged, redactor: &Redactor, project: &Project, home: &Path) {
    let plan = &judged.plan;
    let line = |subject: &str, text: &str| say(redactor.text(&format!("{subject:<10} {text}")));
    for ask in trust::lines(judged) {
        line("asks", &ask);
    }
    line("project", &format!("{} in {}", plan.name, plan.project.display()));
    let (own, warning) = local::lines(project, home);
    own.iter().for_each(|own| line("local", own));
    line("target", &format!("{} for {}", plan.targets.join(" "), plan.machine));
    let kind = if plan.host.recipe { "rootfs recipe" } else { "image" };
    let pinned = plan.host.pinned.as_ref().map_or_else(|| "unresolved".into(), ToString::to_string);
    match plan.isolation {
        Isolation::None => line("host", "this machine as it is, without any isolation"),
        _ => line("host", &format!("{kind} {}, {pinned}", plan.host.name)),
    }
    if let Some(provider) = &plan.provider {
        line("provider", &provider.to_string());
    }
    for layer in &plan.layers {
        line("layer", &format!("{}  {}", layer.name, plan::describe(&layer.source)));
    }
    if let Some(layer) = engine::conf::devtool_layer(plan) {
        line("layer", &format!("{}, of devtool", layer.display()));
    }
    if let Some(bitbake) = &plan.bitbake {
        line("bitbake", &plan::describe(bitbake));
    }
    if is_unresolved(plan) {
        let end =
            if plan.locked { "--locked refuses to build" } else { "the build pins what it finds then, smidr lock now" };
        line("unresolved", &format!("means: not pinned in smidr.lock; {end}"));
    }
    for (subject, text) in rules(plan) {
        line(subject, &text);
    }
    line("caches", &plan.domain.to_string());
    line("workspace", &plan.folders.workspace.display().to_string());
    for input in &plan.inputs {
        line("input", &input.to_string());
    }
    for (name, value) in plan.conf.iter().filter(|_| plan.as_is.is_none()) {
        line("conf", &format!("{name} = \"{value}\""));
    }
    for text in plan.conf_tail.lines() {
        line("conf", text);
    }
    line("artifacts", &format!("{} in {}", plan.artifacts.join(" "), plan.folders.deploy.display()));
    if let Some(drawn) = project.drawn_warnings(coloured()) {
        talk_block(&redactor.text(&drawn));
    }
    for warning in plan.warnings.iter().filter(|warning| !project.draws(warning)).chain(&warning) {
        say_lines(redactor.text(&format!("{:<10} {warning}", "warning")));
    }
}
