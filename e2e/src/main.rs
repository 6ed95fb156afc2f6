//! `cargo xtask`: the demo, the images, the tests, and a cluster to try things on.

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;
use testimony_e2e::lock::Lock;
use testimony_e2e::node::Node;
use testimony_e2e::paths::Paths;
use testimony_e2e::steps::Steps;
use testimony_e2e::{prereq, programs};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "A real cluster, images, the demo and the tests of Testimony.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A local one-node Kubernetes and nothing in it.
    Cluster {
        #[command(subcommand)]
        action: Cluster,
    },
    /// Stops the local cluster and removes all that it made, but for the build cache.
    Down,
}

#[derive(Subcommand, Clone, Copy)]
enum Cluster {
    /// Builds what lacks and starts the node; a healthy node is kept.
    Up,
    /// The same as `cargo xtask down`.
    Down,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let paths = Paths::from_env()?;
    match &arguments.command {
        Command::Cluster { action: Cluster::Up } => {
            let _lock = Lock::take(&paths.lock(), "cluster up")?;
            let missing: Vec<_> =
                programs::NODE.iter().chain(programs::CLIENTS).filter(|p| !p.is_built(&paths)).collect();
            let mut steps = Steps::new(missing.len() + 2, paths.logs())?;
            steps.run("checking what this machine has", "prerequisites", |log| {
                prereq::root()?;
                prereq::packages(log)?;
                prereq::go()
            })?;
            for program in missing {
                let (title, slug) = (format!("building {}", program.name), format!("build-{}", program.name));
                steps.run(&title, &slug, |log| program.build(&paths, log))?;
            }
            let node = Node::new(&paths);
            steps.run("starting the node", "node", |log| node.up(log))?;
            println!("export KUBECONFIG={}", node.kubeconfig().display());
        }
        Command::Cluster { action: Cluster::Down } | Command::Down => {
            let _lock = Lock::take(&paths.lock(), "down")?;
            let mut steps = Steps::new(1, paths.logs())?;
            steps.run("stopping the node and removing what it made", "down", |log| {
                prereq::root()?;
                Node::new(&paths).down(log)
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
