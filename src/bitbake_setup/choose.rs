//! Choosing: a configuration of a file, and one fragment of each kind.

use super::document::{Configuration, Document, Named, OneOrMore, SetupError};

/// What the caller has chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The name of a configuration.
    pub configuration: Option<String>,
    /// Names of fragments.
    pub options: Vec<String>,
}

/// What comes of a choice.
#[derive(Clone, Debug)]
pub enum Chosen {
    /// All is chosen.
    Whole(Box<Setup>),
    /// This is to be chosen first.
    Open(Question),
}

/// A choice that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What is chosen, as people are asked for it.
    pub what: String,
    /// Each possible answer, with its description.
    pub answers: Vec<(String, String)>,
    /// What is chosen already.
    pub before: Choice,
}

/// A configuration with its choices.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What was chosen.
    pub choice: Choice,
    /// The name of its folder.
    pub folder: String,
    /// All fragments, in their order.
    pub fragments: Vec<String>,
    /// Layers below `layers`.
    pub layers: Vec<String>,
    /// Layers below the folder of the file.
    pub beside: Vec<String>,
    /// Variables of the environment that BitBake takes.
    pub passed: Vec<String>,
    /// For people.
    pub summary: String,
    /// For people.
    pub notes: String,
}

/// Chooses. Words that match nothing are left alone, as bitbake-setup does.
///
/// # Errors
///
/// When there is no such configuration, two of one kind are chosen, or it is of a kind that cannot be built.
pub fn choose(document: &Document, choice: &Choice) -> Result<Chosen, SetupError> {
    let mut before = choice.clone();
    let named = match &choice.configuration {
        Some(name) => document.configurations.get_key_value(name).ok_or_else(|| unknown(document, name))?,
        None => match document.configurations.len() {
            1 => document.configurations.first().expect("there is one"),
            _ => {
                let answers = document.configurations.iter();
                let answers = answers.map(|(name, one)| (name.clone(), one.description.clone().unwrap_or_default()));
                let what = format!("a configuration of {}", document.name);
                return Ok(Chosen::Open(Question { what, answers: answers.collect(), before }));
            }
        },
    };
    let (name, configuration) = named;
    before.configuration = Some(name.clone());
    let mut chosen: Vec<(&str, &str)> = Vec::new();
    for (key, one_of) in configuration.oe_fragments_one_of.iter().flatten() {
        let options = one_of.options.iter().map(Named::name);
        let wanted: Vec<&str> = options.filter(|name| choice.options.iter().any(|word| word == name)).collect();
        match wanted.as_slice() {
            [one] => chosen.push((key, one)),
            [] => {
                let answers =
                    one_of.options.iter().map(|one| (one.name().to_owned(), one.description().to_owned())).collect();
                let what = format!("{key} ({})", one_of.description);
                return Ok(Chosen::Open(Question { what, answers, before }));
            }
            all => {
                let what = format!("one of {} can be chosen for `{key}`, not several", all.join(" and "));
                return Err(SetupError::Choice { what, hints: Vec::new() });
            }
        }
    }
    before.options = chosen.iter().map(|(_, name)| (*name).to_owned()).collect();
    let refused = |what: &str| {
        let what = format!("the configuration {name} {what}");
        SetupError::Choice { what, hints: vec!["its layers have to stand in bb-layers".into()] }
    };
    if let Some(template) = &configuration.oe_template {
        return Err(refused(&format!(
            "takes its conf from the template {template} of a layer, which smidr does not read"
        )));
    }
    if configuration.bb_layers.is_none() && configuration.bb_layers_file_relative.is_none() {
        return Err(refused("names no layers"));
    }
    let fragments = fragments(configuration, &before.options);
    let lists = [&configuration.bb_layers, &configuration.bb_layers_file_relative];
    let layers = lists.into_iter().flatten().flatten();
    if let Some(bad) = layers.chain(&fragments).find(|name| name.contains(['"', '\'', '\n', '\r', '\\', '$', ' '])) {
        return Err(refused(&format!("names `{}`, which cannot stand in conf", bad.escape_debug())));
    }
    Ok(Chosen::Whole(Box::new(Setup {
        folder: folder(document, name, configuration, &chosen),
        fragments,
        layers: configuration.bb_layers.clone().unwrap_or_default(),
        beside: configuration.bb_layers_file_relative.clone().unwrap_or_default(),
        passed: configuration.bb_env_passthrough_additions.clone().unwrap_or_default(),
        summary: configuration.description.clone().unwrap_or_default(),
        notes: match &configuration.notes {
            Some(OneOrMore::One(text)) => text.clone(),
            Some(OneOrMore::More(lines)) => lines.join("\n"),
            None => String::new(),
        },
        choice: before,
    })))
}

fn unknown(document: &Document, name: &str) -> SetupError {
    let all: Vec<&str> = document.configurations.keys().map(String::as_str).collect();
    SetupError::Choice {
        what: format!("{} has no configuration {name}", document.name),
        hints: vec![format!("there are: {}", all.join(", "))],
    }
}

/// Those that are always on, then the chosen ones, sorted. Of machines and of distros only the last one counts.
fn fragments(configuration: &Configuration, chosen: &[String]) -> Vec<String> {
    let mut chosen: Vec<String> = chosen.to_vec();
    chosen.sort();
    let always = configuration.oe_fragments.iter().flatten().map(|one| one.name().to_owned());
    let all: Vec<String> = always.chain(chosen).collect();
    let kind = |name: &str| ["machine/", "distro/"].into_iter().find(|kind| name.starts_with(kind));
    let counts =
        |at: usize, name: &str| kind(name).is_none_or(|of| !all.iter().skip(at + 1).any(|later| later.starts_with(of)));
    all.iter().enumerate().filter(|(at, name)| counts(*at, name)).map(|(_, name)| name.clone()).collect()
}

/// The name of the set-up's folder.
fn folder(document: &Document, name: &str, configuration: &Configuration, chosen: &[(&str, &str)]) -> String {
    if let Some(pattern) = &configuration.setup_dir_name {
        // Longer keys first: `$machine_kind` is not `$machine`.
        let mut keys = chosen.to_vec();
        keys.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
        let folder = keys.iter().fold(pattern.clone(), |folder, (key, option)| {
            folder.replace(&format!("${key}"), option.split_once('/').map_or(*option, |(_, rest)| rest))
        });
        return plain(&folder);
    }
    let mut options: Vec<&str> = chosen.iter().map(|(_, option)| *option).collect();
    options.sort_unstable();
    let parts: Vec<&str> = [document.name.as_str(), name].into_iter().chain(options).collect();
    plain(&parts.join("-"))
}

/// One folder, whatever the names are.
fn plain(name: &str) -> String {
    let name = name.replace(' ', "-").replace('/', "_");
    let fits = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    let name: String = name.chars().map(|c| if fits(c) { c } else { '_' }).collect();
    if name.starts_with('.') { format!("_{name}") } else { name }
}
