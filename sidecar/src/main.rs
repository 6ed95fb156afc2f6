//! `testimony-sidecar`: `init` installs the redirect rules, `run` is the proxy.

use clap::{Parser, Subcommand};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use testimony_sidecar::config::{self, Config, ConfigError, ProcessVars};
use testimony_sidecar::defect;
use testimony_sidecar::descriptors;
use testimony_sidecar::init::{self, InitConfig};
use testimony_sidecar::memory;
use testimony_sidecar::supervisor::{self, ListenConfig, SupervisorConfig};
use testimony_sidecar::worker;
use tracing_subscriber::EnvFilter;

/// `EX_CONFIG` of sysexits.h: the supervisor does not start a worker again that ends so.
const EXIT_CONFIG: u8 = 78;

#[derive(Parser)]
#[command(version, about = "Testimony's sidecar: a witness for every request into and out of a pod")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs the rules that redirect the pod's TCP connections to the sidecar, and proves that they work.
    Init {
        /// Leaves outbound connections to this port alone; may be repeated.
        #[arg(long = "exclude-outbound-port", value_name = "PORT")]
        exclude_outbound_ports: Vec<u16>,
    },
    /// Removes the rules.
    Uninit,
    /// Runs the proxy: under a supervisor that keeps its sockets open.
    Run {
        /// Configuration file, for use outside Kubernetes; without it the environment of an injected pod counts.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// What the supervisor starts.
    #[command(hide = true)]
    Worker {
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Init { exclude_outbound_ports } => install(exclude_outbound_ports),
        Command::Uninit => {
            log("info");
            match init::uninstall() {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error, error.exit_code()),
            }
        }
        Command::Run { config } => supervise(config),
        Command::Worker { config } => work(config),
    }
}

fn install(exclude_outbound_ports: Vec<u16>) -> ExitCode {
    log("info");
    match init::run(&InitConfig { exclude_outbound_ports, ..InitConfig::default() }) {
        Ok(report) => {
            tracing::info!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn load(file: Option<&PathBuf>) -> Result<Config, ConfigError> {
    match file {
        Some(file) => config::from_file(file, &ProcessVars),
        None => config::from_env(&ProcessVars),
    }
}

/// Names what is wrong with the configuration before a port is bound, then hands over to the supervisor.
fn supervise(file: Option<PathBuf>) -> ExitCode {
    let config = match load(file.as_ref()) {
        Ok(config) => config,
        Err(error) => return fail(&error, EXIT_CONFIG),
    };
    log(&config.log);
    let mut args = vec!["worker".into()];
    if let Some(file) = file {
        args.extend(["--config".into(), file.into_os_string()]);
    }
    supervisor::run(&SupervisorConfig::new(listen_config(&config), args))
}

fn listen_config(config: &Config) -> ListenConfig {
    ListenConfig {
        inbound: config.listen.inbound.as_ref().map(|listener| listener.addr),
        outbound: config.listen.outbound.as_ref().map(|listener| listener.addr),
        admin: Some(config.listen.admin),
        data_threads: NonZeroUsize::new(config.data_threads).unwrap_or(NonZeroUsize::MIN),
    }
}

fn work(file: Option<PathBuf>) -> ExitCode {
    let config = match load(file.as_ref()) {
        Ok(config) => config,
        Err(error) => return fail(&error, EXIT_CONFIG),
    };
    log(&config.log);
    defect::count_panics();
    memory::leave_no_dump();
    memory::keep_freed();
    descriptors::take_all();
    let result = supervisor::inherited_listeners()
        .map_err(anyhow::Error::from)
        .and_then(|inherited| match inherited {
            Some(listeners) => Ok(listeners),
            None => Ok(listen_config(&config).bind()?),
        })
        .and_then(|listeners| worker::run(config, listeners, supervisor::previous_worker()?));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}"), 1),
    }
}

fn log(filter: &str) {
    // Validated by the configuration; what it calls wrong never comes here.
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}

/// To standard error, not to the log: it may not be set up yet, and a pod's termination message shows it.
fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("testimony-sidecar: {error}");
    ExitCode::from(code)
}
