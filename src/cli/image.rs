//! `smidr image`: build-host images.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use super::{
    args::{Compression, Image, Prune},
    clean::size,
    command_context::CommandContext,
    output::{Document, Unwritable, bytes, say, say_lines, talk},
    report::{Done, Failure, Refused, report},
    times::day,
};
use crate::{
    config::nearest,
    engine::{EngineError, owner},
    image::{
        Checked, Damage, Finding, ImageName, LayerForm, Limits, Policy, Reference, RegistryReference, RegistrySettings,
        StoredImage, Usage, stored_name,
    },
    model::{Digest, Hint, Kind},
    project, recipes,
    system::files::FileError,
};

/// Runs the command. `config` says beside which file rootfs recipes are looked for.
pub(super) fn image(config: &Path, command: &Image) -> Done {
    let context = CommandContext::open("image")?;
    // The next process that opens the store removes what is half-made. Only making an image has steps of its own to end.
    let at_once = !matches!(command, Image::Build { .. });
    let _at_once = at_once.then(|| context.stop.listen(|_| std::process::exit(130)));
    match command {
        Image::Ls { json } => return context.list(*json),
        Image::Build { recipe } => tell(&context.build(config, recipe)?),
        Image::Pull { reference, name, reach, limits } => {
            tell(&context.pull(reference, name.as_deref(), reach.insecure, limits)?);
        }
        Image::Push { name, reference, reach, compression } => {
            context.push(name, reference, reach.insecure, form(*compression))?;
        }
        Image::Import { source, name, limits } => {
            let store = context.store.clone().with_limits(limits_of(limits)?);
            let (path, label) = source_of(source)?;
            tell(&store.import(&path, label.as_deref(), &name.parse::<ImageName>()?, &context.on)?);
        }
        Image::Export { name, dest, compression } => {
            context.store.export(&context.find(name)?, dest, form(*compression), &context.on)?;
            talk(format!("{name} is in {}", dest.display()));
        }
        Image::Rm { name, json } => context.remove(name, *json)?,
        Image::Verify { name, repair, insecure, json } => {
            return context.verify(name.as_deref(), repair.then_some(*insecure), *json);
        }
        Image::Prune(wanted) => context.prune(wanted)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl CommandContext {
    fn find(&self, name: &str) -> Result<StoredImage, Failure> {
        for known in [name, &stored_name(name)] {
            if let Some(image) = self.store.find(known)? {
                return Ok(image);
            }
        }
        let all = self.store.names()?;
        let hint = match nearest(name, all.iter().map(ImageName::as_str)) {
            Some(near) => Hint::new(format!("did you mean `{near}`?")),
            None => Hint::command("all images", "smidr image ls"),
        };
        Err(Refused::new(format!("there is no image `{name}`"), [hint]).into())
    }

    fn settings(&self, insecure: bool) -> RegistrySettings {
        RegistrySettings { insecure, ..RegistrySettings::new(&self.facts, &self.spawner, &self.stop, &self.on) }
    }

    fn build(&self, config: &Path, recipe: &str) -> Result<StoredImage, Failure> {
        let project = config.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let project = std::path::absolute(project).map_err(FileError::new("find", project))?;
        let found = match recipe.contains('/') {
            true => recipes::at(&project.join(recipe))?,
            false => recipes::find(recipe, &project, &self.paths)?,
        };
        match recipes::build(self.tools().recipes(), &found, &BTreeMap::new()) {
            Err(_) if self.stop.is_requested() => Err(EngineError::Stopped.into()),
            made => Ok(made?),
        }
    }

    fn pull(
        &self,
        reference: &str,
        name: Option<&str>,
        insecure: bool,
        limits: &[String],
    ) -> Result<StoredImage, Failure> {
        let store = self.store.clone().with_limits(limits_of(limits)?);
        let name = name.map(str::parse::<ImageName>).transpose()?;
        match reference.parse()? {
            Reference::Registry(reference) => {
                let name = name.map_or_else(|| reference.to_string().parse(), Ok)?;
                Ok(store.pull(&reference, &name, &self.settings(insecure), &self.on)?)
            }
            Reference::Local { path, name: label } => {
                let unnamed = || Refused::new("an image from a file needs a name", [Hint::new("add  --name NAME")]);
                Ok(store.import(&path, label.as_deref(), &name.ok_or_else(unnamed)?, &self.on)?)
            }
        }
    }

    fn push(&self, name: &str, to: &str, insecure: bool, form: LayerForm) -> Result<(), Failure> {
        let image = self.find(name)?;
        let Reference::Registry(to) = to.parse()? else {
            let hint = Hint::command("write it into a file", format!("smidr image export {name} DEST"));
            return Err(Refused::new("images are pushed to registries only", [hint]).into());
        };
        let digest = self.store.push(&image, &to, form, &self.settings(insecure), &self.on)?;
        say(format!("{to}  {digest}"));
        Ok(())
    }

    fn remove(&self, name: &str, json: bool) -> Result<(), Failure> {
        let name = match name.parse::<ImageName>() {
            Ok(name) if self.store.names()?.contains(&name) => name,
            _ => self.find(name)?.name,
        };
        let manifest = self.store.find(name.as_str()).ok().flatten().map(|image| image.manifest);
        let freed = self.store.remove(&name, &self.on)?;
        let is_gone = |manifest: &Digest| matches!(self.store.find(&manifest.to_string()), Ok(None));
        let configs = self.known_configs();
        let pinned = manifest.filter(is_gone).map_or_else(Vec::new, |manifest| project::pinning(&manifest, configs));
        if json {
            let document = Document::new().with("name", &name)?.with("bytes", &freed)?;
            let shown: Vec<String> = pinned.iter().map(|config| config.display().to_string()).collect();
            document.with("pinned_by", &shown)?.say();
            return Ok(());
        }
        talk(match freed {
            0 => format!("removed the name {name}; other images need all of it"),
            freed => format!("removed {name}, {}", bytes(freed)),
        });
        for config in pinned {
            talk(format!("{} is pinned to it: its next build makes or pulls it again", config.display()));
        }
        Ok(())
    }

    /// The configs of all projects that smidr knows: those that are trusted, and those that have been built.
    fn known_configs(&self) -> BTreeSet<PathBuf> {
        let owners = owner::workspaces(&self.paths).into_iter().filter_map(|(_, owner)| Some(owner?.config));
        project::trusted(&self.paths).into_iter().chain(owners).collect()
    }

    /// Reads images again, and mends them if `repair` says how far a registry may be trusted.
    fn verify(&self, name: Option<&str>, repair: Option<bool>, json: bool) -> Done {
        let names = match name.map(str::parse::<ImageName>) {
            None => self.store.names()?,
            Some(Ok(name)) if self.store.names()?.contains(&name) => vec![name],
            Some(_) => vec![self.find(name.unwrap_or_default())?.name],
        };
        let (mut damaged, mut kind, mut checked) = (0, Kind::Host, Checked::default());
        let mut seen = Vec::new();
        let say_lines = |line: String| (!json).then(|| say_lines(line));
        for name in &names {
            let wrong = self.look(name, &mut checked);
            wrong.iter().for_each(|line| _ = say_lines(format!("{name}  DAMAGED  {}", line.0)));
            let words: Vec<&String> = wrong.iter().map(|(words, _)| words).collect();
            let document = Document::default().with("name", name)?.with("damage", &words)?;
            if wrong.is_empty() {
                say_lines(format!("{name}  good"));
                seen.push(document.with("repaired", &false)?);
                continue;
            }
            let repaired = repair.map(|insecure| self.repair(name, insecure));
            seen.push(document.with("repaired", &matches!(repaired, Some(Ok(()))))?);
            // What others have in common with it is mended as well.
            checked = if repair.is_some() { Checked::default() } else { checked };
            match &repaired {
                Some(Ok(())) => _ = say_lines(format!("{name}  repaired")),
                // The next one may be mended all the same.
                Some(Err(failure)) => {
                    report(failure);
                    kind = failure.kind();
                }
                None => {}
            }
            damaged += usize::from(!matches!(repaired, Some(Ok(()))));
        }
        if json {
            Document::new().with("images", &seen)?.say();
        }
        if damaged == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        let all = names.len();
        let hint = if repair.is_some() { "" } else { "; to mend what can be:  smidr image verify --repair" };
        talk(format!("damaged: {damaged} of {}{hint}", images(all)));
        Ok(ExitCode::from(kind.exit_code()))
    }

    // What is wrong with an image, in words, and as far as it is about single parts.
    fn look(&self, name: &ImageName, checked: &mut Checked) -> Vec<(String, Option<Finding>)> {
        let looked = self.store.find(name.as_str()).and_then(|image| match image {
            Some(image) => self.store.verify(&image, checked, &self.on),
            // Gone meanwhile.
            None => Ok(Vec::new()),
        });
        match looked {
            Ok(findings) => findings.into_iter().map(|finding| (words(&finding), Some(finding))).collect(),
            Err(error) => vec![(error.to_string(), None)],
        }
    }

    fn repair(&self, name: &ImageName, insecure: bool) -> Result<(), Failure> {
        let findings: Vec<Finding> =
            self.look(name, &mut Checked::default()).into_iter().filter_map(|(_, finding)| finding).collect();
        let image = self.store.find(name.as_str()).ok().flatten();
        if let Some(image) = &image {
            self.store.discard_damaged(image, &findings, &self.on)?;
            if findings.iter().all(|finding| matches!(finding.damage, Damage::Differs(_))) {
                self.store.checkout(image, &self.on)?;
                return Ok(());
            }
        }
        let Some((origin, manifest)) = self.store.origin(name)? else {
            let what = format!("{name} did not come from a registry, so what is damaged is lost");
            return Err(Refused::new(
                what,
                [Hint::command("remove it, and bring it again", format!("smidr image rm {name}"))],
            )
            .into());
        };
        // It has been accepted once, with this very digest.
        let store = self.store.clone().with_limits(Limits::none());
        let wanted = RegistryReference { tag: None, ..origin.reference.parse::<RegistryReference>()?.pinned(manifest) };
        store.pull(&wanted, name, &self.settings(insecure), &self.on)?;
        Ok(())
    }

    fn prune(&self, wanted: &Prune) -> Result<(), Failure> {
        let keep_bytes = wanted.keep.as_deref().map(|text| size(text, "smidr image prune --keep 20g")).transpose()?;
        let day = Duration::from_secs(24 * 60 * 60);
        let policy = Policy { unused_for: wanted.days.map(|days| day * days), keep_bytes, dry_run: wanted.dry_run };
        let pruned = self.store.prune(policy, jiff::Timestamp::now(), &self.on)?;
        let freed = pruned.images.iter().fold(0, |sum: u64, (_, freed)| sum.saturating_add(*freed));
        if wanted.json {
            let image = |(image, freed): &(StoredImage, u64)| {
                Document::default().with("name", &image.name)?.with("bytes", freed)?.with("last_used", &image.last_used)
            };
            let kept = |(image, holder): &(StoredImage, String)| {
                Document::default().with("name", &image.name)?.with("why", &format!("{holder} uses it"))
            };
            let images = pruned.images.iter().map(image).collect::<Result<Vec<_>, _>>()?;
            let kept = pruned.in_use.iter().map(kept).collect::<Result<Vec<_>, _>>()?;
            let bytes = freed.saturating_add(pruned.leftovers);
            let document = Document::new().with("dry_run", &wanted.dry_run)?.with("bytes", &bytes)?;
            let document = document.with("leftovers", &pruned.leftovers)?.with("images", &images)?;
            document.with("damaged", &pruned.damaged)?.with("kept", &kept)?.say();
            return Ok(());
        }
        for (image, freed) in &pruned.images {
            say(format!("{:<24} {:>8}", image.name, bytes(*freed)));
        }
        pruned.damaged.iter().for_each(|name| say(format!("{name:<24} damaged")));
        for (image, holder) in &pruned.in_use {
            talk(format!("{} stays: {holder} uses it", image.name));
        }
        let verb = if wanted.dry_run { "would remove" } else { "removed" };
        let rest = match pruned.leftovers {
            0 => String::new(),
            rest => format!(", and {} that no image needed", bytes(rest)),
        };
        talk(format!("{verb} {}, {}{rest}", images(pruned.images.len() + pruned.damaged.len()), bytes(freed)));
        Ok(())
    }

    fn list(&self, json: bool) -> Done {
        let images = self.store.list()?;
        let usage = self.store.usage(&images);
        if json {
            let list = images.iter().map(|image| document(image, &usage)).collect::<Result<Vec<_>, _>>()?;
            Document::new().with("images", &list)?.say();
        } else if images.is_empty() {
            talk("there are no images yet:  smidr image build debian-12");
        }
        for image in images.iter().filter(|_| !json) {
            let used = day(image.last_used);
            let (size, shared) = (bytes(usage.of(&image.name)), bytes(usage.shared(&image.name)));
            say(format!(
                "{:<24} sha256:{}…  {size:>8}  shared {shared:>8}  used {used}  {}",
                image.name,
                image.manifest.short(),
                image.source
            ));
        }
        for name in self.store.names()?.iter().filter(|name| images.iter().all(|image| image.name != **name)) {
            talk(format!("{name} is damaged:  smidr image verify --repair {name}"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn words(finding: &Finding) -> String {
    match &finding.damage {
        Damage::Missing => format!("{} is not there, or not whole", finding.part),
        Damage::Digest(found) => format!("{} has the digest {found}", finding.part),
        Damage::Differs(path) => format!("{} as it is unpacked differs at /{}", finding.part, path.display()),
    }
}

fn images(count: usize) -> String {
    if count == 1 { "1 image".into() } else { format!("{count} images") }
}

/// The file or folder that is to be imported, which may be written as for `pull`, and the label of the image in it.
fn source_of(source: &Path) -> Result<(PathBuf, Option<String>), Failure> {
    let text = source.to_str().unwrap_or_default();
    match text.parse() {
        Ok(Reference::Local { path, name }) if !source.exists() => Ok((path, name)),
        Ok(Reference::Registry(_)) if text.contains("://") => {
            let hint = Hint::command("pull it", format!("smidr image pull {text}"));
            Err(Refused::new(format!("`{text}` is an image of a registry, not a file or folder"), [hint]).into())
        }
        _ => Ok((source.into(), None)),
    }
}

fn form(compression: Option<Compression>) -> LayerForm {
    match compression {
        Some(Compression::Gzip) => LayerForm::Gzip,
        None => LayerForm::AsIs,
    }
}

fn limits_of(texts: &[String]) -> Result<Limits, Failure> {
    let mut limits = Limits::default();
    for text in texts {
        limits.set(text)?;
    }
    Ok(limits)
}

fn tell(image: &StoredImage) {
    say(format!("{}  {}", image.name, image.manifest));
}

fn document(image: &StoredImage, usage: &Usage) -> Result<Document, Unwritable> {
    Document::default()
        .with("name", &image.name)?
        .with("digest", &image.manifest)?
        .with("created", &image.created)?
        .with("source", &image.source)?
        .with("size", &image.size)?
        .with("shared", &image.shared)?
        .with("on_disk", &usage.of(&image.name))?
        .with("on_disk_shared", &usage.shared(&image.name))?
        .with("layers", &image.layers)?
        .with("last_used", &image.last_used)
}
