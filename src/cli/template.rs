//! The config that `init` writes for a provider: short, and with what can be changed as comments. In goes a provider, out comes text.

use std::fmt::Write as _;

use crate::config::{
    Text,
    provider::{Provider, ProviderVersion},
    series::Series,
};

/// A `smidr.yaml` that builds as it is.
pub(super) fn config(provider: &Provider, name: &str) -> String {
    let Provider { name: called, about, image, machines, .. } = provider;
    let machine = machines.first().map(|machine| machine.text.as_str()).unwrap_or_default();
    let version = default_version(provider);
    let (distro, series) = (
        version.and_then(|version| version.distro.as_deref()).unwrap_or_default(),
        version.and_then(|version| version.series.as_deref()).unwrap_or_default(),
    );
    let what = version.map(|version| version.about.text.as_str()).unwrap_or_default();
    let mut text = format!(
        "\
# {about}.  Build it:  smidr build
name: {name}

base:
  # Brings layers and a distro, where this file says nothing of them. To see them:  smidr plan
  provider: {called}
  version: \"{default}\"  # {what}{versions}
  machine: {machine}{boards}
  # distro: {distro}

build:
  image: {image}
  # extra_packages: [strace]

# Layers of your own come after the provider's; one of the same name takes its place.
# layers:
#   - name: meta-mycompany
#     path: ./layers/meta-mycompany
#   - name: meta-vendor
#     git: https://git.example.org/meta-vendor
#     branch: {series}

# The machine that BitBake runs on, inside the sandbox.
host:
  recipe: {host}
",
        default = provider.default,
        host = Series::called(series).map_or("debian-12", |series| series.host.as_str()),
        versions = others("; ", provider.versions.iter().map(|version| &version.name), &provider.default),
        boards = others("  # ", machines, machine),
    );
    if let Some(eula) = &provider.eula {
        let _ = write!(
            text,
            "
# {} Read it, and if you accept it, take the # from the last two lines.
# {}
# advanced:
#   accept_fsl_eula: true
",
            eula.about, eula.source
        );
    }
    if let Some(notes) = &provider.notes {
        text.push('\n');
        notes.lines().for_each(|line| _ = writeln!(text, "# {line}"));
    }
    text
}

/// What is to be said beside the file.
pub(super) fn warnings(provider: &Provider) -> Vec<String> {
    let mut warnings = Vec::new();
    if default_version(provider).is_none_or(|version| version.verified.is_none()) {
        warnings.push(format!(
            "not built with smidr yet: {} {} as its vendor documents it",
            provider.name, provider.default
        ));
    }
    if let Some(eula) = &provider.eula {
        warnings.push(format!("{} smidr.yaml says how to accept it", eula.about));
    }
    warnings
}

fn default_version(provider: &Provider) -> Option<&ProviderVersion> {
    provider.version(&provider.default)
}

/// The other choices, if there are any.
fn others<'a>(before: &str, all: impl IntoIterator<Item = &'a Text>, chosen: &str) -> String {
    let others: Vec<&str> = all.into_iter().map(|one| one.text.as_str()).filter(|one| *one != chosen).collect();
    if others.is_empty() { String::new() } else { format!("{before}also: {}", others.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{provider, read};

    /// Takes the `#` from every key that is written as a comment, and leaves sentences alone.
    fn with_all_choices(text: &str) -> String {
        let mut inside = false;
        let uncommented = text.lines().map(|line| {
            let Some(rest) = line.strip_prefix("# ") else { return line.to_owned() };
            inside = ["layers:", "advanced:", "local_conf: |"].contains(&rest) || inside && rest.starts_with("  ");
            if inside { rest.to_owned() } else { line.to_owned() }
        });
        uncommented.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn every_template_reads_with_and_without_its_comments() {
        for provider in provider::names().into_iter().filter_map(provider::find) {
            let text = config(&provider, "x");
            let version = default_version(&provider).expect("a default version");
            let read = |text: &str| match read("smidr.yaml", text, None, &|_| None) {
                Ok(config) => config,
                Err(problems) => panic!("{}\n{text}", problems.render(false)),
            };
            let plain = read(&text);
            assert_eq!(plain.layers.len(), version.layers.len(), "{text}");
            assert_eq!(plain.base.machine.as_deref(), Some(provider.machines[0].text.as_str()));
            assert_eq!((plain.advanced.accept_fsl_eula, plain.advanced.license_flags.len()), (None, 0), "{text}");
            let full = read(&with_all_choices(&text));
            assert_eq!(full.layers.len(), version.layers.len() + 2, "{text}");
            assert_eq!(full.advanced.accept_fsl_eula.is_some(), provider.eula.is_some(), "{text}");
            assert!(text.lines().count() < 50, "small enough to be read:\n{text}");
        }
    }
}
