//! `smidr man`: manual pages, made of what `--help` shows.

use std::{fs, process::ExitCode};

use clap::CommandFactory as _;

use super::{
    args::{Cli, Man},
    output::{say, say_block},
    report::Done,
};
use crate::system::files::FileError;

/// Runs the command.
pub(super) fn man(args: &Man) -> Done {
    // A page of `help` for each command would say the same once more.
    let command = Cli::command().disable_help_subcommand(true);
    match &args.dir {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page).map_err(FileError::new("make", "smidr.1".as_ref()))?;
            say_block(String::from_utf8_lossy(&page).trim_end());
        }
        Some(folder) => {
            let failed = || FileError::new("write the manual pages to", folder);
            fs::create_dir_all(folder).map_err(failed())?;
            clap_mangen::generate_to(command, folder).map_err(failed())?;
            say(format!("man -l {}", folder.join("smidr.1").display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}
