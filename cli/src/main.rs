//! `testimony`, and `kubectl testimony` when the program is named `kubectl-testimony`.

use clap::{CommandFactory, FromArgMatches};
use std::process::ExitCode;
use testimony_cli::args::{Cli, plugin_name};

fn main() -> ExitCode {
    let program = std::env::args_os().next().unwrap_or_default();
    let mut command = Cli::command();
    if let Some(name) = plugin_name(std::path::Path::new(&program)) {
        command = command.bin_name(name);
    }
    let cli = Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    testimony_cli::run(cli)
}
