//! `tail`: records as lines, from a file of the Collector or live from sidecars.

mod file;
mod filter;
mod live;
mod record;

pub use filter::{Filter, Since, StatusRange, since};
pub use record::{Entry, Source, from_otlp, from_stream};

use crate::args::{ClusterArgs, TailArgs, TailFormat};
use crate::output::{json_lines, print, print_data};
use anyhow::Result;
use k8s_openapi::jiff::Timestamp;

/// What is printed, and how far it has come.
pub struct Printer {
    filter: Filter,
    format: TailFormat,
    left: Option<u64>,
    /// The path of a file with records of sinks' gaps shows them too.
    head_shown: bool,
}

impl Printer {
    /// Prints what passes these arguments' filters.
    pub fn new(args: &TailArgs, namespace: Option<&str>, now: Timestamp) -> Self {
        let filter = Filter {
            namespace: namespace.filter(|_| !args.all_namespaces).map(str::to_owned),
            pod: args.pod.clone(),
            actor: args.actor.clone(),
            methods: args.method.clone(),
            path: args.path.clone(),
            statuses: args.status.clone(),
            since_ns: args.since.map(|since| since.nanos(now)),
            trace: args.trace.as_ref().map(|trace| trace.to_ascii_lowercase()),
            correlation: args.correlation.clone(),
        };
        Self { filter, format: args.output, left: args.limit, head_shown: false }
    }

    /// Prints an entry if it passes; `false`: enough was printed.
    ///
    /// # Errors
    /// Nobody reads.
    pub fn show(&mut self, entry: &Entry) -> Result<bool> {
        if self.left == Some(0) {
            return Ok(false);
        }
        if !self.filter.passes(entry) {
            return Ok(true);
        }
        if self.format == TailFormat::Wide && !self.head_shown {
            print(&format!("{}\n", record::WIDE_HEAD))?;
            self.head_shown = true;
        }
        let line = match self.format {
            TailFormat::Text => entry.line(),
            TailFormat::Wide => entry.wide(),
            TailFormat::Json => json_lines(&serde_json::to_string(entry)?),
        };
        print_data(&(line + "\n"))?;
        self.left = self.left.map(|left| left.saturating_sub(1));
        Ok(self.left != Some(0))
    }
}

/// Runs the command.
///
/// # Errors
/// The file cannot be read, or the cluster not be reached.
pub async fn run(args: &TailArgs, cluster: &ClusterArgs) -> Result<u8> {
    let now = Timestamp::now();
    match &args.file {
        // A file holds records of every namespace; a kubeconfig says nothing about them.
        Some(path) => {
            let mut printer = Printer::new(args, cluster.namespace.as_deref(), now);
            file::run(path, args.follow, &mut printer).await?;
        }
        None => live::run(args, cluster, now).await?,
    }
    Ok(0)
}
