//! `testimony`, and `kubectl testimony` when the program is named `kubectl-testimony`.

use clap::{CommandFactory, FromArgMatches};
use std::process::ExitCode;
use testimony_cli::args::{Cli, plugin_name, usage_exit_code};

fn main() -> ExitCode {
    let program = std::env::args_os().next().unwrap_or_default();
    let mut command = Cli::command();
    if let Some(name) = plugin_name(std::path::Path::new(&program)) {
        command = command.bin_name(name);
    }
    let parsed = command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => testimony_cli::run(cli),
        Err(error) if error.use_stderr() => {
            // Nobody reads it: then nobody needs it.
            let _ = error.print();
            ExitCode::from(usage_exit_code(std::env::args_os()))
        }
        Err(error) => error.exit(),
    }
}
