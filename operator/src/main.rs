//! `testimony-operator`: `controller`, `webhook`, `crds`, `version`.

use anyhow::Context;
use clap::{Parser, Subcommand};
use kube::{Client, Config};
use std::path::PathBuf;
use std::process::ExitCode;
use testimony_operator::settings::{LogFormat, Settings};
use testimony_operator::{api, controller, webhook};
use tracing_subscriber::EnvFilter;

/// Testimony's operator.
#[derive(Parser)]
#[command(name = "testimony-operator", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve policy documents and write statuses.
    Controller(Box<Settings>),
    /// Add sidecars to pods at admission.
    Webhook(Box<Settings>),
    /// Print the custom resource definitions.
    Crds {
        /// Print the reference page instead.
        #[arg(long, conflicts_with = "directory")]
        markdown: bool,
        /// Write one file for each into this folder.
        #[arg(long)]
        directory: Option<PathBuf>,
    },
    /// Print the version.
    Version,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Controller(settings) => start(*settings, true),
        Command::Webhook(settings) => start(*settings, false),
        Command::Crds { markdown: true, .. } => {
            print!("{}", api::markdown());
            Ok(())
        }
        Command::Crds { directory, .. } => crds(directory),
        Command::Version => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("testimony-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(settings: Settings, controller: bool) -> anyhow::Result<()> {
    settings.check()?;
    log(&settings)?;
    // kube and our own servers use the same provider; a second call would only say that it is set.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let config = Config::infer().await.context("no cluster: neither in-cluster settings nor a kubeconfig")?;
        let client = Client::try_from(config).context("API server client")?;
        match controller {
            true => controller::run(settings, client).await,
            false => webhook::run(settings, client).await,
        }
    })
}

fn log(settings: &Settings) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&settings.log).with_context(|| format!("--log {:?}", settings.log))?;
    EnvFilter::try_new(&settings.sidecar_log).with_context(|| format!("--sidecar-log {:?}", settings.sidecar_log))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.init(),
    }
    Ok(())
}

fn crds(directory: Option<PathBuf>) -> anyhow::Result<()> {
    for (name, crd) in api::crds() {
        let yaml = api::yaml(&crd)?;
        match &directory {
            Some(directory) => {
                let file = directory.join(name);
                std::fs::write(&file, yaml).with_context(|| format!("--directory: {}", file.display()))?;
            }
            None => print!("---\n{yaml}"),
        }
    }
    Ok(())
}
