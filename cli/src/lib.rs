//! `testimony`: Testimony's command line for people.
//!
//! What it says of policies, injection and records comes from the code that does it: the operator's `compile`, `index` and
//! `inject`, and core's machines. Pure parts take objects and give results; [`cluster`] and `tail::live` talk to the API server.
#![forbid(unsafe_code)]

pub mod args;
pub mod check;
pub mod cluster;
pub mod explain;
pub mod inject;
pub mod ledger;
pub mod manifest;
pub mod output;
pub mod policy_test;
pub mod prune;
pub mod reference;
pub mod roots;
pub mod status;
pub mod tail;
#[cfg(test)]
mod testing;
pub mod verify;

use args::{Cli, Command, PolicyCommand};
use clap::CommandFactory;
use std::process::ExitCode;

/// Runs one command; the exit code is for the process.
pub fn run(cli: Cli) -> ExitCode {
    match execute(cli) {
        Ok(code) => ExitCode::from(code),
        // Whoever read the output, such as `head`, has seen enough.
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::tell(format_args!("{error:#}"));
            ExitCode::from(1)
        }
    }
}

fn execute(cli: Cli) -> anyhow::Result<u8> {
    let cluster = cli.cluster;
    match cli.command {
        Command::Policy(PolicyCommand::Test(args)) => policy_test::run(&args, cluster.namespace.as_deref()),
        Command::Completions { shell } => {
            let shell: clap_complete::Shell = shell.into();
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "testimony", &mut script);
            output::print_data(&String::from_utf8_lossy(&script))?;
            Ok(0)
        }
        Command::Verify(args) => verify::run(&args),
        Command::Prove(args) => verify::prove(&args),
        Command::Tail(args) => block_on(tail::run(&args, &cluster)),
        Command::Inject(args) => block_on(inject::run(&args, &cluster)),
        Command::Check(args) => block_on(check::run(&args, &cluster)),
        Command::Explain(args) => block_on(explain::run(&args, &cluster)),
        Command::Roots(args) => block_on(roots::run(&args, &cluster)),
        Command::Ledger(command) => block_on(ledger::run(&command, &cluster)),
        Command::Status(args) => block_on(status::run(&args, &cluster)),
    }
}

fn block_on<F: Future<Output = anyhow::Result<u8>>>(work: F) -> anyhow::Result<u8> {
    // A second call would only say that it is set.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
