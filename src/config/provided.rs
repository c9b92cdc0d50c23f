//! What a provider's data file says, as values, and which version of it a config takes.

use jiff::civil::Date;

use super::{
    node::Text,
    schema::{Layer, Source},
};

/// One data file.
#[derive(Clone, Debug)]
pub struct Provider {
    /// As `base.provider` has it.
    pub name: String,
    /// The boards, for display.
    pub about: Text,
    /// Other names that users may try.
    pub also: Vec<Text>,
    /// Well-known boards of the default version; `init` writes the first.
    pub machines: Vec<Text>,
    /// The default of `build.image`.
    pub image: Text,
    /// A licence that only the user can accept.
    pub eula: Option<Eula>,
    /// Notes for a new project, as lines of comment.
    pub notes: Option<Text>,
    /// The version that is taken where the config names none.
    pub default: Text,
    /// Oldest first.
    pub versions: Vec<ProviderVersion>,
}

/// A licence behind `advanced.accept_fsl_eula`.
#[derive(Clone, Debug)]
pub struct Eula {
    /// Its subject, as a sentence.
    pub about: Text,
    /// Where it can be read.
    pub source: Text,
}

/// A line of releases of a provider.
#[derive(Clone, Debug)]
pub struct ProviderVersion {
    /// As `base.version` has it, or begins.
    pub name: Text,
    /// For people.
    pub about: Text,
    /// The pages with its facts.
    pub sources: Vec<Text>,
    /// The day of a successful build with smidr; none: not tested by smidr's authors.
    pub verified: Option<Date>,
    /// The Yocto series.
    pub series: Option<Text>,
    /// DISTRO.
    pub distro: Option<Text>,
    /// Where BitBake comes from, unless a layer's repository carries it.
    pub bitbake: Option<Source>,
    /// In the order of BBLAYERS.
    pub layers: Vec<Layer>,
}

/// The defaults that a provider gives a config.
#[derive(Clone, Debug)]
pub struct Provided {
    /// The provider.
    pub provider: Provider,
    /// Its version.
    pub version: ProviderVersion,
    /// Why this version.
    pub choice: Choice,
}

/// Why a version of a provider was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// `base.version`, with this text.
    Version(String),
    /// The version of `yocto_series`.
    Series,
    /// The provider's default.
    Default,
}
