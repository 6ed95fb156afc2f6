//! The reference page of the command line.

use crate::args::Cli;
use clap::CommandFactory;
use std::fmt::Write;

/// `docs/reference/cli.md`.
pub fn markdown() -> String {
    let mut page = String::from("# testimony\n\nGenerated from `--help`; do not edit.\n");
    section(&mut page, Cli::command().bin_name("testimony"), "testimony");
    page
}

fn section(page: &mut String, command: clap::Command, name: &str) {
    let mut command = command.bin_name(name);
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    let _ = write!(page, "\n## {name}\n\n```text\n{}\n```\n", help.join("\n"));
    command.build();
    for below in command.get_subcommands() {
        section(page, below.clone(), &format!("{name} {}", below.get_name()));
    }
}
