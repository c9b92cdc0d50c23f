//! Submissions: what a client sends of a project, and what the daemon makes of it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    convert::{Invalid, path, path_of},
    proto,
};
use crate::model::{
    Ask, BuildRequest, Digest, FileContent, Logins, Origin, Submission, SubmittedLayer, SubmittedLocal,
    SubmittedRecipe, without_dots,
};

/// The name of a config that was sent without one.
const CONFIG: &str = "smidr.yaml";

/// Bounds of what stays in memory while a build waits, and is in each list of builds: bytes of a word, and how many there are.
const WORD: usize = 256;
const TARGETS: usize = 256;
const LABELS: usize = 64;
/// Arguments are handed to BitBake alone, and some are assignments of variables.
const ARGUMENT: usize = 4096;
const ARGUMENTS: usize = 256;

/// What is sent of a submission. `with_folder`: the daemon is on this machine and belongs to this user, so that the project's folder counts.
pub(crate) fn request(submission: &Submission, request_id: &str, with_folder: bool) -> proto::StartBuildRequest {
    let config = submission.config_path();
    let base = config.parent().unwrap_or(Path::new("/"));
    let wanted = submission.request.clone();
    let json = |value: &Ask| serde_json::to_string(value).unwrap_or_default();
    let local = with_folder.then(|| proto::LocalProject {
        config: Some(path(config)),
        config_is_link: submission.config_is_link,
        granted: submission.granted.iter().map(json).collect(),
        logins: serde_json::to_string(&submission.logins).unwrap_or_default(),
    });
    proto::StartBuildRequest {
        config: submission.config.clone(),
        config_name: config.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        lock: submission.lock.clone(),
        local_config: submission.local.as_ref().map(|local| local.config.clone()),
        local_lock: submission.local.as_ref().and_then(|local| local.lock.clone()),
        targets: wanted.targets,
        machine: wanted.machine,
        variant: wanted.variant,
        fetch_only: wanted.fetch_only,
        locked: wanted.locked,
        offline: wanted.offline,
        clean: wanted.clean,
        fail_on_warning: wanted.fail_on_warning,
        bitbake_args: wanted.bitbake_args,
        customer: submission.customer.clone().unwrap_or_default(),
        labels: submission.labels.clone().into_iter().collect(),
        priority: submission.priority,
        request_id: request_id.into(),
        variables: submission.variables.clone().into_iter().collect(),
        files: submission.files.iter().map(|content| file(content, base)).collect(),
        recipe: submission.recipe.as_ref().map(|sent| recipe(sent, base)),
        layers: submission.layers.iter().map(layer).collect(),
        local,
        retry_interrupted: submission.retry_interrupted,
    }
}

fn file(content: &FileContent, base: &Path) -> proto::SubmittedFile {
    let inside = content.path.strip_prefix(base).unwrap_or(&content.path);
    proto::SubmittedFile { path: Some(path(inside)), content: content.content.clone(), executable: content.executable }
}

fn recipe(sent: &SubmittedRecipe, base: &Path) -> proto::SubmittedRecipe {
    match sent {
        SubmittedRecipe::Shipped => proto::SubmittedRecipe::default(),
        SubmittedRecipe::File { text, digest, copies } => proto::SubmittedRecipe {
            file: Some(file(text, base)),
            digest: digest.to_string(),
            has_copies: copies.is_some(),
            copies: copies.iter().flatten().map(|(source, files)| copied(source, files)).collect(),
        },
    }
}

fn copied(source: &str, files: &[FileContent]) -> proto::CopiedFiles {
    // Their paths are relative already.
    let files = files.iter().map(|content| file(content, Path::new("/"))).collect();
    proto::CopiedFiles { source: source.into(), files }
}

fn layer(layer: &SubmittedLayer) -> proto::SubmittedLayer {
    proto::SubmittedLayer {
        name: layer.name.clone(),
        digest: layer.digest.to_string(),
        size: layer.size,
        commit: layer.commit.as_ref().map(ToString::to_string),
        dirty: layer.dirty,
    }
}

/// What came in, but for the id and the origin, which the daemon decides. `folder` is where a remote project is kept.
///
/// # Errors
///
/// For what cannot be a submission.
pub(crate) fn submission(
    request: proto::StartBuildRequest,
    origin: Origin,
    id: crate::model::BuildId,
) -> Result<Submission, Invalid> {
    check_words(&request)?;
    let folder = match &origin {
        Origin::Local { config } | Origin::Remote { config, .. } => {
            config.parent().unwrap_or(Path::new("/")).to_owned()
        }
    };
    let local = request.local.unwrap_or_default();
    let granted = local.granted.iter().map(|ask| serde_json::from_str(ask));
    let granted = granted.collect::<Result<Vec<Ask>, _>>().map_err(|error| Invalid::new("local.granted", error))?;
    let logins = match local.logins.as_str() {
        "" => Logins::default(),
        text => serde_json::from_str(text).map_err(|error| Invalid::new("local.logins", error))?,
    };
    let files = request.files.into_iter().map(|sent| file_of("files", sent, &folder)).collect::<Result<_, _>>()?;
    let recipe = request.recipe.map(|sent| recipe_of(sent, &folder)).transpose()?;
    Ok(Submission {
        version: Submission::VERSION,
        id,
        origin,
        request: BuildRequest {
            targets: request.targets,
            machine: request.machine,
            variant: request.variant,
            fetch_only: request.fetch_only,
            locked: request.locked,
            offline: request.offline,
            clean: request.clean,
            fail_on_warning: request.fail_on_warning,
            bitbake_args: request.bitbake_args,
        },
        config: request.config,
        config_is_link: local.config_is_link,
        lock: request.lock,
        local: request.local_config.map(|config| SubmittedLocal { config, lock: request.local_lock }),
        files,
        recipe,
        variables: request.variables.into_iter().collect(),
        granted,
        logins,
        share: None,
        group: None,
        // In the queue no two builds of one workspace run; what else holds it is waited for.
        wait: true,
        customer: Some(request.customer).filter(|customer| !customer.is_empty()),
        project: None,
        labels: request.labels.into_iter().collect(),
        priority: request.priority,
        retry_interrupted: request.retry_interrupted,
        layers: request.layers.into_iter().map(layer_of).collect::<Result<_, _>>()?,
    })
}

/// The config of a project of this machine, as its own user sent it.
///
/// # Errors
///
/// When it is no absolute path.
pub(crate) fn local_config(local: &proto::LocalProject) -> Result<PathBuf, Invalid> {
    let config = path_of(local.config.clone()).ok_or_else(|| Invalid::missing("local.config"))?;
    match config.is_absolute() && without_dots(&config) == config {
        true => Ok(config),
        false => Err(Invalid::new("local.config", "is not an absolute path")),
    }
}

/// Refuses words that make no sense in any request.
///
/// # Errors
///
/// With the field.
pub(crate) fn check_words(request: &proto::StartBuildRequest) -> Result<(), Invalid> {
    if request.config.is_empty() {
        return Err(Invalid::missing("config"));
    }
    // It becomes a file of the project's folder. That of a project of this machine is found by `local`.
    if request.local.is_none() && !is_name_of_config(config_name(request)) {
        return Err(Invalid::new("config_name", "is not the name of a file that ends in .yaml or .yml"));
    }
    if !(-100..=100).contains(&request.priority) {
        return Err(Invalid::new("priority", "is not between -100 and 100"));
    }
    let customer = &request.customer;
    if !customer.is_empty() && !crate::model::BuildId::is_valid_name(customer) {
        return Err(Invalid::new("customer", crate::model::InvalidName(customer.clone())));
    }
    let short = |field, text: &str, most: usize| match text.len() > most || text.contains('\0') {
        true => Err(Invalid::new(field, format!("is longer than {most} bytes, or holds a zero byte"))),
        false => Ok(()),
    };
    for (field, count, most) in [
        ("targets", request.targets.len(), TARGETS),
        ("bitbake_args", request.bitbake_args.len(), ARGUMENTS),
        ("fail_on_warning", request.fail_on_warning.len(), TARGETS),
        ("labels", request.labels.len(), LABELS),
    ] {
        if count > most {
            return Err(Invalid::new(field, format!("has more than {most} entries")));
        }
    }
    request.targets.iter().try_for_each(|text| short("targets", text, WORD))?;
    request.fail_on_warning.iter().try_for_each(|text| short("fail_on_warning", text, WORD))?;
    request.bitbake_args.iter().try_for_each(|text| short("bitbake_args", text, ARGUMENT))?;
    request.machine.iter().try_for_each(|text| short("machine", text, WORD))?;
    request.variant.iter().try_for_each(|text| short("variant", text, WORD))?;
    short("request_id", &request.request_id, WORD)?;
    request.labels.iter().flat_map(|(key, value)| [key, value]).try_for_each(|text| short("labels", text, WORD))
}

/// A plain name: neither hidden nor the project's lock, and shown as it is.
fn is_name_of_config(name: &str) -> bool {
    let has_ending = name.ends_with(".yaml") || name.ends_with(".yml");
    has_ending && name.len() <= 255 && !name.starts_with('.') && !name.contains(|c: char| c == '/' || c.is_control())
}

/// The name of a config that was sent.
pub(crate) fn config_name(request: &proto::StartBuildRequest) -> &str {
    match request.config_name.as_str() {
        "" | "." => CONFIG,
        name => name,
    }
}

fn file_of(field: &'static str, sent: proto::SubmittedFile, folder: &Path) -> Result<FileContent, Invalid> {
    let path = path_of(sent.path).ok_or_else(|| Invalid::missing(field))?;
    // In the client's home: as its config calls it.
    let path = if path.starts_with("~") { path } else { without_dots(&folder.join(path)) };
    Ok(FileContent { path, content: sent.content, executable: sent.executable })
}

fn recipe_of(sent: proto::SubmittedRecipe, folder: &Path) -> Result<SubmittedRecipe, Invalid> {
    let Some(file) = sent.file else { return Ok(SubmittedRecipe::Shipped) };
    let digest: Digest = sent.digest.parse().map_err(|error| Invalid::new("recipe.digest", error))?;
    let mut copies = BTreeMap::new();
    for copied in sent.copies {
        let files = copied.files.into_iter().map(|sent| {
            let path = path_of(sent.path).ok_or_else(|| Invalid::missing("recipe.copies"))?;
            Ok(FileContent { path, content: sent.content, executable: sent.executable })
        });
        copies.insert(copied.source, files.collect::<Result<_, Invalid>>()?);
    }
    let text = file_of("recipe.file", file, folder)?;
    Ok(SubmittedRecipe::File { text, digest, copies: sent.has_copies.then_some(copies) })
}

fn layer_of(sent: proto::SubmittedLayer) -> Result<SubmittedLayer, Invalid> {
    let wrong = |error: &dyn std::fmt::Display| Invalid::new("layers", error);
    Ok(SubmittedLayer {
        name: sent.name,
        digest: sent.digest.parse().map_err(|error| wrong(&error))?,
        size: sent.size,
        commit: sent.commit.map(|commit| commit.parse()).transpose().map_err(|error| wrong(&error))?,
        dirty: sent.dirty,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(change: impl Fn(&mut proto::StartBuildRequest)) -> String {
        let mut request = proto::StartBuildRequest { config: "name: p\n".into(), ..Default::default() };
        change(&mut request);
        check_words(&request).map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn what_stays_in_memory_is_bounded() {
        let word = || "w".repeat(WORD);
        let labels = |count: usize| (0..count).map(|n| (format!("{n:0WORD$}"), word())).collect();
        assert_eq!(said(|sent| sent.labels = labels(LABELS)), "");
        assert_eq!(said(|sent| sent.labels = labels(LABELS + 1)), "labels: has more than 64 entries");
        let long = |field: &str, most| format!("{field}: is longer than {most} bytes, or holds a zero byte");
        assert_eq!(said(|sent| _ = sent.labels.insert(word() + "w", String::new())), long("labels", WORD));
        assert_eq!(said(|sent| _ = sent.labels.insert(String::new(), word() + "w")), long("labels", WORD));
        assert_eq!(said(|sent| sent.targets = vec![word(); TARGETS]), "");
        assert_eq!(said(|sent| sent.targets = vec![word(); TARGETS + 1]), "targets: has more than 256 entries");
        assert_eq!(said(|sent| sent.targets = vec![word() + "w"]), long("targets", WORD));
        let argument = || "w".repeat(ARGUMENT);
        assert_eq!(said(|sent| sent.bitbake_args = vec![argument(); ARGUMENTS]), "");
        assert_eq!(said(|sent| sent.bitbake_args = vec![argument() + "w"]), long("bitbake_args", ARGUMENT));
        assert_eq!(said(|sent| sent.machine = Some("a\0b".into())), long("machine", WORD));
    }

    #[test]
    fn a_config_is_a_plain_file() {
        for good in ["", ".", "smidr.yaml", "dev board.yml"] {
            assert_eq!(said(|sent| sent.config_name = good.into()), "", "{good}");
        }
        for bad in
            ["..", ".x.yaml", "a/b.yaml", "a\0.yaml", "a\n.yaml", "smidr.lock", "yaml", &("n".repeat(251) + ".yaml")]
        {
            assert!(said(|sent| sent.config_name = bad.into()).starts_with("config_name: "), "{bad:?}");
        }
    }
}
