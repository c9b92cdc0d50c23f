//! The words of `smidr image`. What is said here is what `--help` shows.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::candidates;

/// `smidr image`
#[derive(Subcommand)]
pub(super) enum Image {
    /// List images
    #[command(visible_alias = "list")]
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make an image from a rootfs recipe
    Build {
        /// Name or path of the rootfs recipe
        #[arg(add = candidates::rootfs_recipes())]
        recipe: String,
    },
    /// Bring an image from a registry
    Pull {
        /// docker://HOST/NAME:TAG; also oci:PATH[:NAME], oci-archive:PATH and docker-archive:PATH
        reference: String,
        /// What to call it here; without this, its whole reference
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        reach: Reach,
        /// Allow more than usual, such as ratio=2000; may be repeated
        #[arg(long = "limit", value_name = "NAME=NUMBER")]
        limits: Vec<String>,
    },
    /// Send an image to a registry
    Push {
        /// The image's name or digest
        #[arg(add = candidates::images())]
        name: String,
        /// Where to: docker://HOST/NAME:TAG
        reference: String,
        #[command(flatten)]
        reach: Reach,
        /// Compress the layers anew, for tools that do not read zstd; manifest and layers get other digests
        #[arg(long)]
        compression: Option<Compression>,
    },
    /// Take an OCI layout or archive, a docker archive, or an archive of a root filesystem
    Import {
        /// The file or folder
        source: PathBuf,
        /// What to call it
        #[arg(long)]
        name: String,
        /// Allow more than usual, such as ratio=2000; may be repeated
        #[arg(long = "limit", value_name = "NAME=NUMBER")]
        limits: Vec<String>,
    },
    /// Write an image as an OCI layout, or as an archive if the name ends in .tar
    Export {
        /// The image's name or digest
        #[arg(add = candidates::images())]
        name: String,
        /// The new folder or file
        dest: PathBuf,
        /// Compress the layers anew, for tools that do not read zstd; manifest and layers get other digests
        #[arg(long)]
        compression: Option<Compression>,
    },
    /// Remove an image's name, and what no other image needs
    Rm {
        /// The image's name
        #[arg(add = candidates::images())]
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Read every byte of images again, and say what is damaged
    Verify {
        /// The image's name or digest; without it, all images
        #[arg(add = candidates::images())]
        name: Option<String>,
        /// Make or pull anew what is damaged
        #[arg(long)]
        repair: bool,
        /// With --repair: the registry may be reached over plain http, without credentials
        #[arg(long, requires = "repair")]
        insecure: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove what no image refers to, and images unused for long; never those of a running build
    Prune(Prune),
}

/// `smidr image prune`
#[derive(Args)]
pub(super) struct Prune {
    /// Remove images that no build has used for so many days
    #[arg(long, value_name = "DAYS")]
    pub days: Option<u32>,
    /// Remove the images that were not used for longest until the rest is no larger, such as 20g
    #[arg(long, value_name = "SIZE")]
    pub keep: Option<String>,
    /// Say what would go, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How a registry is reached.
#[derive(Args)]
pub(super) struct Reach {
    /// The registry may be reached over plain http, without credentials
    #[arg(long)]
    pub insecure: bool,
}

/// How layers can be compressed anew.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Compression {
    /// What every tool reads
    Gzip,
}
