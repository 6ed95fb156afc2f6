//! `testimony-operator`: `controller`, `webhook`, `crds`, `selftest`, `version`.

use anyhow::Context;
use clap::{Parser, Subcommand};
use kube::{Client, Config};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use testimony_operator::settings::{LogFormat, Settings};
use testimony_operator::{api, apiserver, controller, selftest, traces, webhook};
use tokio::runtime::Handle;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Time for the last spans at the end, in seconds.
const TRACES_SECONDS_MAX: u64 = 3;

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
    /// What `helm test` runs: an audited pod, a request, and its record.
    #[command(disable_help_subcommand = true)]
    Selftest {
        /// What to do.
        #[command(subcommand)]
        command: selftest::Command,
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
        Command::Selftest { command } => test(command),
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
    // kube and our own servers use the same provider; a second call would only say that it is set.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let traces = telemetry(&settings, runtime.handle().clone())?;
    let result = runtime.block_on(async {
        let client = client().await?;
        match controller {
            true => controller::run(settings, client).await,
            false => webhook::run(settings, client).await,
        }
    });
    if let Some(traces) = traces {
        // The last spans; an endpoint that is down must not hold up the end.
        let _ = traces.shutdown_with_timeout(Duration::from_secs(TRACES_SECONDS_MAX));
    }
    result
}

fn test(command: selftest::Command) -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            selftest::Command::Run(args) => selftest::run::run(*args, client().await?).await,
            selftest::Command::Server(args) => selftest::server::run(args).await,
        }
    })
}

/// The API server's client.
async fn client() -> anyhow::Result<Client> {
    let config = Config::infer().await.context("no cluster: neither in-cluster settings nor a kubeconfig")?;
    apiserver::client(config, Duration::from_secs(apiserver::CALL_SECONDS_MAX)).context("API server client")
}

/// Starts the log, and the traces where a flag asks for them.
fn telemetry(settings: &Settings, runtime: Handle) -> anyhow::Result<Option<SdkTracerProvider>> {
    let filter = EnvFilter::try_new(&settings.log).with_context(|| format!("--log {:?}", settings.log))?;
    EnvFilter::try_new(&settings.sidecar_log).with_context(|| format!("--sidecar-log {:?}", settings.sidecar_log))?;
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = match settings.log_format {
        LogFormat::Json => log.json().flatten_event(true).with_span_list(false).boxed(),
        LogFormat::Text => log.boxed(),
    };
    let provider = match &settings.otlp_traces_endpoint {
        Some(endpoint) => Some(traces::provider(endpoint, &settings.replica(), runtime)?),
        None => None,
    };
    let spans = provider.as_ref().map(|p| tracing_opentelemetry::layer().with_tracer(p.tracer("testimony-operator")));
    tracing_subscriber::registry().with(filter).with(log).with(spans).init();
    Ok(provider)
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
