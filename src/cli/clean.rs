//! `smidr clean`: frees space on the disk, in all stores by one policy. Each store's own verb decides what goes and what is in use; here they are
//! called one after the other, first only to tell what would go.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    args::{CleanUp, Store},
    command_context::CommandContext,
    output::{Document, bytes, say, talk},
    report::{Done, Failure, Refused},
    times::day,
    trust::says_yes,
};
use crate::{
    config::{Age, Size},
    image, layers,
    layers::prune::Keep,
    model::Hint,
    service::{self, LocalService, gone, unused},
    system::files::shell,
};

/// What is shown where nothing was asked for.
const USUAL: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What goes, or would.
#[derive(Serialize)]
struct Thing {
    kind: Store,
    name: String,
    bytes: u64,
    last_used: Option<Timestamp>,
    // For people, where many are one line.
    #[serde(skip)]
    within: Option<Arc<Path>>,
}

/// What stays though it would have to go.
#[derive(Serialize)]
struct Kept {
    name: String,
    why: String,
}

#[derive(Default)]
struct Swept {
    things: Vec<Thing>,
    kept: Vec<Kept>,
}

/// What may go.
struct Policy {
    older_than: Option<Duration>,
    keep_size: Option<u64>,
    gone: bool,
    only: Vec<Store>,
}

/// Runs the command.
pub(super) fn clean(args: &CleanUp) -> Done {
    let asked = policy(args)?;
    let is_asked = asked.older_than.is_some() || asked.keep_size.is_some() || asked.gone;
    if args.yes && !is_asked {
        return Err(Refused::new("say what may be removed", [options()]).into());
    }
    let policy = if is_asked { asked } else { Policy { older_than: Some(USUAL), gone: true, ..asked } };
    let context = CommandContext::open("clean")?;
    let would = context.sweep(&policy, true)?;
    let is_dry = args.dry_run || !is_asked;
    if is_dry || !args.json {
        would.show(args.json, true)?;
    }
    if is_dry && would.things.is_empty() && !args.json {
        talk(match is_asked {
            true => "nothing to remove: nothing that is here is that old, that large, or of a project that is gone",
            false => "nothing to remove: all of it has been used within 30 days, by projects that are there",
        });
        return Ok(ExitCode::SUCCESS);
    }
    if !is_asked {
        talk("nothing was removed: this has not been used for 30 days, or belongs to projects that are gone");
        talk(format!("to remove it:  smidr clean --older-than 30d --gone; all options:  {}", "smidr clean --help"));
    }
    if is_dry || would.things.is_empty() && !args.json {
        return Ok(ExitCode::SUCCESS);
    }
    let is_terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    if is_terminal && !args.yes && !says_yes("Remove it?", &context.stop) {
        talk("nothing was removed");
        return Ok(ExitCode::SUCCESS);
    }
    context.sweep(&policy, false)?.show(args.json, false)?;
    Ok(ExitCode::SUCCESS)
}

fn options() -> Hint {
    Hint::new("add  --older-than 30d,  --keep-size 20g  or  --gone; with  --dry-run  nothing is removed")
}

fn policy(args: &CleanUp) -> Result<Policy, Refused> {
    let no_age = |text: &String| {
        Refused::new(format!("`{text}` is not an age"), [Hint::new("write  --older-than 30d,  12h  or  8w")])
    };
    let older_than = args.older_than.as_ref().map(|text| text.parse::<Age>().map_err(|()| no_age(text))).transpose()?;
    Ok(Policy {
        older_than: older_than.map(|Age(age)| age),
        keep_size: args.keep_size.as_deref().map(|text| size(text, "smidr clean --keep-size 20g")).transpose()?,
        gone: args.gone,
        only: args.only.clone(),
    })
}

/// A size with its unit: a plain number is as likely meant as gigabytes, or as a count.
pub(super) fn size(text: &str, example: &str) -> Result<u64, Refused> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.strip_prefix(digits).unwrap_or_default();
    let hint = [Hint::command("write the unit", example)];
    match (digits.parse::<u64>(), text.parse::<Size>()) {
        // Nothing needs no unit.
        (Ok(0), _) if format!("1{unit}").parse::<Size>().is_ok() => Ok(0),
        (Ok(_), Ok(Size(bytes))) if !unit.is_empty() => Ok(bytes),
        (Ok(_), Ok(_)) => Err(Refused::new(format!("`{text}` has no unit: it is {text} bytes"), hint)),
        _ => Err(Refused::new(format!("`{text}` is not a size"), hint)),
    }
}

impl CommandContext {
    /// Removes what the policy says, or finds out what that would be.
    fn sweep(&self, policy: &Policy, dry_run: bool) -> Result<Swept, Failure> {
        let mut swept = Swept::default();
        let now = Timestamp::now();
        let wants = |kind| policy.only.is_empty() || policy.only.contains(&kind);
        if policy.gone && wants(Store::Workspaces) {
            swept.take_gone(gone::clean(&self.paths, dry_run)?);
        }
        if let Some(limit) = policy.older_than {
            if wants(Store::Artifacts) {
                let policy = service::Clean { project: None, keep: Some(1), older_than: Some(limit), dry_run };
                for (build, freed) in LocalService::new(&self.paths).clean(&policy, now)? {
                    swept.take(Store::Artifacts, build.id.to_string(), freed, build.ended);
                }
            }
            if wants(Store::Layers) {
                let store = layers::Store::at(&self.paths.layers());
                let keep = Keep { used_within: limit, dry_run };
                swept.take_layers(store.checkouts.prune(keep, now, &self.on, &self.stop)?);
            }
            if wants(Store::Images) {
                let policy = image::Policy { unused_for: Some(limit), keep_bytes: None, dry_run };
                swept.take_images(self.store.prune(policy, now, &self.on)?);
            }
        }
        let policy = unused::Policy {
            older_than: policy.older_than,
            keep_size: policy.keep_size,
            downloads: wants(Store::Downloads),
            sstate: wants(Store::Sstate),
            dry_run,
        };
        if policy.older_than.is_some() || policy.keep_size.is_some() {
            swept.take_unused(unused::clean(&self.paths, policy, now)?);
        }
        Ok(swept)
    }
}

impl Swept {
    fn take(&mut self, kind: Store, name: String, bytes: u64, last_used: Option<Timestamp>) {
        self.things.push(Thing { kind, name, bytes, last_used, within: None });
    }

    fn keep(&mut self, name: impl Into<String>, why: String) {
        self.kept.push(Kept { name: name.into(), why });
    }

    fn take_gone(&mut self, removed: gone::Removed) {
        for gone in removed.gone {
            let of = gone.config.map(|config| format!(" of {}, which is gone", shown(&config))).unwrap_or_default();
            self.take(Store::Workspaces, format!("{}{of}", shown(&gone.path)), gone.bytes, None);
        }
        removed.kept.into_iter().for_each(|(path, why)| self.keep(shown(&path), why));
    }

    fn take_layers(&mut self, gone: layers::prune::Gone) {
        for one in gone.checkouts {
            self.take(Store::Layers, format!("{} {}", one.url, one.commit.short()), one.bytes, Some(one.last_used));
        }
        gone.mirrors.iter().for_each(|(path, bytes)| self.take(Store::Layers, shown(path), *bytes, None));
        if gone.leftovers > 0 {
            self.take(Store::Layers, "checkouts that are not whole".into(), gone.leftovers, None);
        }
        for one in gone.in_use {
            let user = one.user.unwrap_or_else(|| "another smidr".into());
            self.keep(format!("{} {}", one.url, one.commit.short()), format!("{user} uses it"));
        }
    }

    fn take_images(&mut self, pruned: image::Pruned) {
        for (image, bytes) in pruned.images {
            self.take(Store::Images, image.name.to_string(), bytes, Some(image.last_used));
        }
        pruned.damaged.iter().for_each(|name| self.take(Store::Images, format!("{name} (damaged)"), 0, None));
        if pruned.leftovers > 0 {
            self.take(Store::Images, "what no image needs".into(), pruned.leftovers, None);
        }
        pruned.in_use.iter().for_each(|(image, user)| self.keep(image.name.to_string(), format!("{user} uses it")));
    }

    fn take_unused(&mut self, cleaned: unused::Cleaned) {
        for one in cleaned.gone {
            let kind = match one.what {
                unused::What::Download => Store::Downloads,
                unused::What::Sstate => Store::Sstate,
            };
            // There may be a million of them.
            let within = (kind == Store::Sstate).then_some(one.cache);
            let (name, last_used) = (shown(&one.path), Some(one.used));
            self.things.push(Thing { kind, name, bytes: one.bytes, last_used, within });
        }
        for (folder, user) in cleaned.busy {
            self.keep(shown(&folder), format!("{user} uses it, and the sstate of its domain"));
        }
    }

    fn show(&self, json: bool, would: bool) -> Result<(), Failure> {
        let freed = self.things.iter().fold(0, |sum: u64, thing| sum.saturating_add(thing.bytes));
        if json {
            let document = Document::new().with("dry_run", &would)?.with("bytes", &freed)?;
            document.with("things", &self.things)?.with("kept", &self.kept)?.say();
            return Ok(());
        }
        if would {
            self.lines().into_iter().for_each(say);
        }
        self.kept.iter().for_each(|kept| talk(format!("{} stays: {}", kept.name, kept.why)));
        let verb = if would { "would free" } else { "freed" };
        talk(format!("{verb} {}", bytes(freed)));
        Ok(())
    }

    /// A line for each thing; one for all sstate of a domain.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut objects: BTreeMap<&Path, (u64, u64)> = BTreeMap::new();
        for thing in &self.things {
            if let Some(root) = &thing.within {
                let (count, size) = objects.entry(root).or_default();
                (*count, *size) = (*count + 1, size.saturating_add(thing.bytes));
                continue;
            }
            let used = thing.last_used.map(|used| format!(", last used {}", day(used))).unwrap_or_default();
            lines.push(format!("{:>9}  {:<10} {}{used}", bytes(thing.bytes), word(thing.kind), thing.name));
        }
        for (root, (count, size)) in objects {
            lines.push(format!("{:>9}  {:<10} {count} objects in {}", bytes(size), word(Store::Sstate), shown(root)));
        }
        lines
    }
}

fn word(kind: Store) -> &'static str {
    match kind {
        Store::Downloads => "download",
        Store::Sstate => "sstate",
        Store::Layers => "layers",
        Store::Images => "image",
        Store::Artifacts => "artifacts",
        Store::Workspaces => "workspace",
    }
}

fn shown(path: &Path) -> String {
    shell(path)
}
