//! `smidr plan`: what a build would do. Touches nothing and reaches no network.

use std::{path::Path, process::ExitCode};

use super::{
    args::{Grant, Plan},
    context, local,
    output::{Document, say, say_block, say_lines, talk_block},
    report::Done,
    trust,
    voice::coloured,
};
use crate::{
    engine::{self, Judged},
    events::Redactor,
    model::BuildRequest,
    plan::{self, Isolation},
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
    line("caches", &plan.domain.to_string());
    line("workspace", &plan.folders.workspace.display().to_string());
    for input in &plan.inputs {
        line("input", &input.to_string());
    }
    for (name, value) in &plan.conf {
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
