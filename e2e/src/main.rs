//! `cargo xtask`: the demo, the images, the tests, and a cluster to try things on.

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use testimony_e2e::cluster::{Cluster, Kind};
use testimony_e2e::demo;
use testimony_e2e::image::catalog;
use testimony_e2e::install::{missing_programs, prepare, supporting_images};
use testimony_e2e::lock::Lock;
use testimony_e2e::paths::{Paths, repo};
use testimony_e2e::prereq;
use testimony_e2e::stages::{self, Stage};
use testimony_e2e::steps::Steps;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "A real cluster, images, the demo and the tests of Testimony.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A cluster with Testimony, a backend and a small shop; prints one user's purchase as the backend has it.
    Demo {
        #[command(flatten)]
        target: Target,
        /// Send the records to this OTLP/HTTP endpoint too, for example http://collector.example:4318.
        #[arg(long, value_name = "URL")]
        otlp_endpoint: Option<String>,
    },
    /// Every check: formatting, clippy, dependencies, unit tests, cluster tests.
    Test {
        /// Run one stage only.
        #[arg(long, value_enum, value_name = "STAGE")]
        only: Option<Stage>,
        /// Leave the cluster running at the end.
        #[arg(long)]
        keep: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Writes the images of the sidecar, the operator and the command line as archives for ctr, docker load and kind load.
    Image {
        /// Folder for the archives; target/images if it is not given.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Write the images of the demo and the tests too.
        #[arg(long)]
        all: bool,
    },
    /// A local one-node Kubernetes and nothing in it.
    Cluster {
        #[command(subcommand)]
        action: ClusterAction,
    },
    /// Stops the local cluster and removes all that it made, but for the build cache.
    Down {
        /// Delete the cluster that --kind made.
        #[arg(long)]
        kind: bool,
    },
}

#[derive(Subcommand, Clone, Copy)]
enum ClusterAction {
    /// Builds what lacks and starts the node; a healthy node is kept.
    Up,
    /// Builds the backend, the shop and what the tests talk to, loads them, and prints how manifests name them.
    Load,
    /// The same as `cargo xtask down`.
    Down,
}

/// Which cluster; without an option the local one, built from Go modules.
#[derive(Args, Clone)]
struct Target {
    /// Use the cluster of this kubeconfig. Its nodes pull the images: see --image-registry.
    #[arg(long, value_name = "FILE", conflicts_with = "kind")]
    kubeconfig: Option<PathBuf>,
    /// Registry and path from which the nodes of --kubeconfig pull the images.
    #[arg(long, value_name = "REGISTRY", requires = "kubeconfig")]
    image_registry: Option<String>,
    /// Make a cluster with the kind program; needs a Docker engine.
    #[arg(long)]
    kind: bool,
}

impl Target {
    fn kind(&self) -> Result<Kind> {
        if self.kind {
            return Ok(Kind::KindProgram);
        }
        let Some(kubeconfig) = self.kubeconfig.clone() else { return Ok(Kind::Local) };
        let registry = self.image_registry.clone().context(
            "--kubeconfig needs --image-registry REGISTRY: write the images by `cargo xtask image --all`, load each with \
             `docker load -i FILE`, tag and push it as REGISTRY/NAME:VERSION, and name that REGISTRY",
        )?;
        Ok(Kind::Existing { kubeconfig, registry: registry.trim_end_matches('/').to_string() })
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let paths = Paths::from_env()?;
    match command {
        Command::Demo { target, otlp_endpoint } => {
            let kind = target.kind()?;
            let _lock = Lock::take(&paths.lock(), "demo")?;
            demo::run(&paths, demo::Options { kind, otlp_endpoint })?;
        }
        Command::Test { only, keep, target } => {
            let kind = target.kind()?;
            let _lock = Lock::take(&paths.lock(), "test")?;
            if stages::run(&paths, kind, only, keep)?.failed > 0 {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Image { out, all } => images(&paths, out, all)?,
        Command::Cluster { action: ClusterAction::Up } => {
            let _lock = Lock::take(&paths.lock(), "cluster up")?;
            cluster_up(&paths)?;
        }
        Command::Cluster { action: ClusterAction::Load } => {
            let _lock = Lock::take(&paths.lock(), "cluster load")?;
            cluster_load(&paths)?;
        }
        Command::Cluster { action: ClusterAction::Down } => down(&paths, Kind::Local)?,
        Command::Down { kind } => down(&paths, if kind { Kind::KindProgram } else { Kind::Local })?,
    }
    Ok(ExitCode::SUCCESS)
}

fn cluster_up(paths: &Paths) -> Result<()> {
    let cluster = Cluster::new(paths, Kind::Local);
    let missing = missing_programs(&cluster, false);
    let mut steps = Steps::new(missing.len() + 2, paths.logs())?;
    prepare(&mut steps, &cluster, &missing)?;
    steps.run("starting the node", "cluster", |log| cluster.up(log))?;
    println!("export KUBECONFIG={}", cluster.kubectl.kubeconfig().display());
    Ok(())
}

fn cluster_load(paths: &Paths) -> Result<()> {
    let mut cluster = Cluster::new(paths, Kind::Local);
    let missing = missing_programs(&cluster, true);
    let mut steps = Steps::new(missing.len() + 3, paths.logs())?;
    prepare(&mut steps, &cluster, &missing)?;
    let images = steps.run("building images", "images", |log| supporting_images(paths, true, log))?;
    steps.run("loading images", "load-images", |log| images.iter().try_for_each(|image| cluster.load(image, log)))?;
    for image in &images {
        println!("{}", cluster.reference(&image.name)?);
    }
    Ok(())
}

fn images(paths: &Paths, out: Option<PathBuf>, all: bool) -> Result<()> {
    let out = out.unwrap_or_else(|| repo().join("target/images"));
    let cluster = Cluster::new(paths, Kind::KindProgram);
    let missing = missing_programs(&cluster, false);
    let mut steps = Steps::new(1 + if all { missing.len() + 2 } else { 0 }, paths.logs())?;
    let mut archives = steps.run("building the products' images", "images", |log| catalog::products(&out, log))?;
    if all {
        prepare(&mut steps, &cluster, &missing)?;
        let more =
            steps.run("building the demo's images", "demo-images", |log| supporting_images(paths, false, log))?;
        for mut archive in more {
            let path = out.join(archive.path.file_name().context("an archive has a name")?);
            std::fs::copy(&archive.path, &path)?;
            archive.path = path;
            archives.push(archive);
        }
    }
    for archive in &archives {
        println!("{}  {:.1} MB  {}", archive.path.display(), archive.bytes as f64 / 1e6, archive.tag);
    }
    println!(
        "Load one by `ctr -n k8s.io images import FILE`, `docker load -i FILE` or `kind load image-archive FILE`."
    );
    Ok(())
}

fn down(paths: &Paths, kind: Kind) -> Result<()> {
    let _lock = Lock::take(&paths.lock(), "down")?;
    if matches!(kind, Kind::Local) {
        prereq::root()?;
    }
    let mut steps = Steps::new(1, paths.logs())?;
    steps.run("stopping the cluster and removing what it made", "down", |log| Cluster::new(paths, kind).down(log))
}
