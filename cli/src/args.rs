//! The command line.

mod verify;

pub use verify::{ProveArgs, VerifyArgs, usage_exit_code};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::path::{Path, PathBuf};
use testimony_core::policy;

/// See what Testimony records, and why.
///
/// Results go to standard output, everything else to standard error. Exit codes: 0 done; 1 it could not be done, or what was
/// expected did not hold (`check`: warnings); 2 the command line is wrong (`check`: errors). `verify` and `prove` have their own.
#[derive(Debug, Parser)]
#[command(name = "testimony", version, disable_help_subcommand = true, arg_required_else_help = true)]
pub struct Cli {
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Which cluster: as kubectl's flags.
#[derive(Args, Clone, Debug, Default)]
pub struct ClusterArgs {
    /// Kubeconfig file; omitted: KUBECONFIG, then ~/.kube/config, then the pod's own account
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; omitted: its current one
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Namespace; omitted: the context's
    #[arg(long, short, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look for what is in the way, before an installation and after it
    ///
    /// Each finding has an id, what was found and what to do. Exit code: 0 nothing found, 1 warnings, 2 errors.
    Check(CheckArgs),
    /// Why a pod is recorded as it is, or not at all
    Explain(ExplainArgs),
    /// Try policies without a cluster
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Add the sidecar to manifests, as the webhook would
    ///
    /// Manifests come in as YAML or JSON and go out as YAML, pods and pod templates with the sidecar, everything else as it was.
    /// Policies come from the given files; where they hold none, from the cluster. The sidecar's image and settings come from the
    /// installation in the cluster, or from --sidecar-image and --operator-ca.
    Inject(InjectArgs),
    /// Policies, sinks and the operator at a glance
    ///
    /// Shows the policies of all namespaces, or of the one that -n names.
    Status(StatusArgs),
    /// Show records: live from the sidecars, or from a file of the OpenTelemetry Collector
    ///
    /// Live records come from the sidecars' admin ports by port-forward: this needs the right to create pods/portforward. They show
    /// what is made while you look; what was recorded before is in the backend.
    Tail(TailArgs),
    /// Print what a verification must be given: the operator's authorities and the keys of ledger and witness
    ///
    /// Keep the output where the cluster's administrators cannot change it, and compare its fingerprints by another way. Needs the
    /// right to get ConfigMap `testimony-roots` in the operator's namespace.
    Roots(RootsArgs),
    /// The ledger of the operator: which streams must exist, and how far they were seen
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Whether an export is what was recorded, and all of it
    ///
    /// Reads what a backend gives back: JSON lines of the Collector's file exporter, or query output of VictoriaLogs, Loki,
    /// ClickHouse or Elasticsearch as JSON lines, in any order. The verdict stands in the last line. Exit code: 0 OK; 1 FORK,
    /// TAMPERED, FOREIGN, MISSING or PROJECTION; 2 UNCLOSED or GAP; 3 UNKNOWN, UNANCHORED, PARTIAL or PENDING; 64 the command line is
    /// wrong; 65 the input cannot be read, or holds nothing of Testimony. Long inputs use temporary files in TMPDIR.
    Verify(VerifyArgs),
    /// One record with its proof, to be checked without the rest
    ///
    /// Prints a proof in the format of C2SP tlog-proof; `testimony verify --proof` checks it. The export must hold the stream up to
    /// the first head that covers the record.
    Prove(ProveArgs),
    /// Print a completion script
    Completions {
        /// For which shell
        shell: CompletionShell,
    },
}

/// Form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// For which shell.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum CompletionShell {
    /// Bash
    Bash,
    /// Zsh
    Zsh,
    /// Fish
    Fish,
}

impl From<CompletionShell> for Shell {
    fn from(shell: CompletionShell) -> Self {
        match shell {
            CompletionShell::Bash => Self::Bash,
            CompletionShell::Zsh => Self::Zsh,
            CompletionShell::Fish => Self::Fish,
        }
    }
}

/// `check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Only what matters before an installation
    #[arg(long)]
    pub pre: bool,
    /// Namespace of the installation, to be or as it is
    #[arg(long, value_name = "NAME", default_value = "testimony-system")]
    pub operator_namespace: String,
    /// Show what is in order, too
    #[arg(long, short)]
    pub verbose: bool,
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// `explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// pod/NAME, deployment/NAME, statefulset/NAME or daemonset/NAME
    #[arg(value_name = "KIND/NAME")]
    pub object: String,
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// `policy ...`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// What policies make of a request, without a cluster
    ///
    /// Compiles the policies with the operator's code and runs the sidecar's code on the request: the output is the level, the
    /// rule that gave it, what would be added to the request, and the record, redacted. Times and random ids in it are placeholders.
    Test(PolicyTestArgs),
}

/// `policy test`.
#[derive(Args, Debug)]
pub struct PolicyTestArgs {
    /// File with policies, and with sinks and namespaces where they matter; - is standard input; may be repeated
    #[arg(long = "filename", short = 'f', value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// File with one HTTP/1 request as it is sent; lines may end in LF alone
    #[arg(long, value_name = "FILE")]
    pub request: PathBuf,
    /// File with the response; omitted: an empty one with --status
    #[arg(long, value_name = "FILE", conflicts_with = "status")]
    pub response: Option<PathBuf>,
    /// Status of the response
    #[arg(long, value_name = "CODE", default_value_t = 200, value_parser = clap::value_parser!(u16).range(200..=599))]
    pub status: u16,
    /// Seen from the pod
    #[arg(long, value_enum, default_value_t = Direction::Inbound, ignore_case = true)]
    pub direction: Direction,
    /// Port that the client connects to
    #[arg(long, default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// Labels of the pod, such as app=payments,tier=web; omitted: every policy of the files selects it
    #[arg(long, value_name = "LABELS", value_parser = labels)]
    pub pod_labels: Option<Labels>,
    /// Fail (exit code 1) unless the request gets this level
    #[arg(long, value_name = "LEVEL")]
    pub expect: Option<String>,
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// Labels of a pod.
pub type Labels = std::collections::BTreeMap<String, String>;

/// Seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum Direction {
    /// To the pod
    Inbound,
    /// From the pod
    Outbound,
}

impl From<Direction> for policy::Direction {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Inbound => Self::Inbound,
            Direction::Outbound => Self::Outbound,
        }
    }
}

/// `inject`.
#[derive(Args, Debug)]
pub struct InjectArgs {
    /// Manifests; - is standard input; may be repeated
    #[arg(long = "filename", short = 'f', value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// More policies and sinks, which are not printed; may be repeated
    #[arg(long, value_name = "FILE")]
    pub policies: Vec<PathBuf>,
    /// Image of the sidecar; with it, the cluster is not asked for the installation's settings
    #[arg(long, value_name = "IMAGE", requires = "operator_ca")]
    pub sidecar_image: Option<String>,
    /// PEM file of the authority that signs the operator's certificates: `caBundle` of the installed webhook, decoded
    #[arg(long, value_name = "FILE", requires = "sidecar_image")]
    pub operator_ca: Option<PathBuf>,
    /// Id of the cluster in records: uid of the namespace kube-system
    #[arg(long, value_name = "UID", requires = "sidecar_image", default_value = "")]
    pub cluster_uid: String,
    /// Namespace of the installation
    #[arg(long, value_name = "NAME", default_value = "testimony-system")]
    pub operator_namespace: String,
}

/// `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Namespace of the installation
    #[arg(long, value_name = "NAME", default_value = "testimony-system")]
    pub operator_namespace: String,
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// `roots`.
#[derive(Args, Debug)]
pub struct RootsArgs {
    /// Namespace of the installation
    #[arg(long, value_name = "NAME", default_value = "testimony-system")]
    pub operator_namespace: String,
}

/// `ledger ...`.
#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// Print the ledger as OTLP JSON lines
    ///
    /// The cluster holds the newest blocks and a restatement of all that is known. Needs the right to list ConfigMaps in the
    /// operator's namespace.
    Export(LedgerArgs),
    /// Check the ledger with its roots, and show what it says
    Show(LedgerShowArgs),
    /// Say that records are removed from the backends by order, before they are
    ///
    /// Reads an export that still holds the records, and writes their hashes into the ledger, with who ordered it and why. What is
    /// left can then still be proved: `testimony verify` tells what was removed as PRUNED. Records themselves go nowhere, and
    /// nothing is removed: that is the backend's business. Needs the ClusterRole testimony-ledger-prune, bound in the operator's
    /// namespace.
    Prune(LedgerPruneArgs),
}

/// `ledger export`.
#[derive(Args, Clone, Debug)]
pub struct LedgerArgs {
    /// Namespace of the installation
    #[arg(long, value_name = "NAME", default_value = "testimony-system")]
    pub operator_namespace: String,
}

/// `ledger show`.
#[derive(Args, Clone, Debug)]
pub struct LedgerShowArgs {
    /// Namespace of the installation
    #[arg(long, value_name = "NAME", default_value = "testimony-system")]
    pub operator_namespace: String,
    /// File with the roots, as `testimony roots` prints them; omitted: those of the cluster, which proves less
    #[arg(long, value_name = "FILE")]
    pub roots: Option<PathBuf>,
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// `ledger prune`.
#[derive(Args, Clone, Debug)]
#[command(group = clap::ArgGroup::new("choice").args(["stream", "records_of"]).required(true).multiple(true))]
pub struct LedgerPruneArgs {
    /// Files of the export that holds the records, or URLs; - is standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Records of streams whose name begins so
    #[arg(long, value_name = "PREFIX", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub stream: Option<String>,
    /// Records of this namespace's pods
    #[arg(long, value_name = "NAMESPACE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub records_of: Option<String>,
    /// With a time, as backends have it, before: 30d, 12h ago, or such as 2026-01-31T12:00:00Z; omitted: all of them
    #[arg(long, value_name = "TIME", value_parser = crate::tail::since)]
    pub before: Option<crate::tail::Since>,
    /// Why, for whoever verifies later: it stands in the ledger
    #[arg(long, value_name = "TEXT", required = true, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub reason: String,
    /// They are erased because somebody asked for it who may, not because they are no longer needed
    #[arg(long)]
    pub erase: bool,
    /// Also records that no signed head of the export vouches for, such as the last ones of a process that was killed: a changed one
    /// leaves the genuine one MISSING
    #[arg(long)]
    pub unproved: bool,
    /// Show what would be told, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// File with a token of the cluster, which says who orders this; - is standard input; omitted: the kubeconfig's
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Namespace of the installation
    #[arg(long, value_name = "NAME", default_value = "testimony-system")]
    pub operator_namespace: String,
    /// Format of the files; omitted: recognised by the first line of each
    #[arg(long, value_enum)]
    pub format: Option<crate::verify::Format>,
}

/// Form of `tail`'s output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TailFormat {
    /// One line for each record
    #[default]
    Text,
    /// One line with more columns
    Wide,
    /// One JSON object for each record
    Json,
}

/// `tail`.
#[derive(Args, Clone, Debug)]
pub struct TailArgs {
    /// JSON lines as the Collector's file exporter writes them; omitted: live from the sidecars
    #[arg(long = "filename", short = 'f', value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Go on with what is appended to the file
    #[arg(long, requires = "file")]
    pub follow: bool,
    /// Records of all namespaces
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Records of this pod; a trailing * stands for any rest
    #[arg(long, value_name = "NAME")]
    pub pod: Option<String>,
    /// By this actor; a trailing * stands for any rest
    #[arg(long, value_name = "ID")]
    pub actor: Option<String>,
    /// With one of these methods, such as POST,PUT
    #[arg(long, value_name = "METHODS", value_delimiter = ',')]
    pub method: Vec<String>,
    /// With a path that begins so
    #[arg(long, value_name = "PREFIX")]
    pub path: Option<String>,
    /// With a status of one of these: 404, 4xx, 500-599
    #[arg(long, value_name = "STATUSES", value_delimiter = ',', value_parser = crate::tail::StatusRange::parse)]
    pub status: Vec<crate::tail::StatusRange>,
    /// Begun since: 30s, 10m, 2h, 1d ago, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = crate::tail::since)]
    pub since: Option<crate::tail::Since>,
    /// Of this trace
    #[arg(long, value_name = "TRACE_ID")]
    pub trace: Option<String>,
    /// With this correlation id
    #[arg(long, value_name = "ID")]
    pub correlation: Option<String>,
    /// End after so many records
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t)]
    pub output: TailFormat,
}

fn labels(text: &str) -> Result<Labels, String> {
    let mut labels = Labels::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(format!("{pair:?} is no label: write name=value,name=value"));
        };
        labels.insert(name.trim().to_owned(), value.trim().to_owned());
    }
    Ok(labels)
}

/// The name by which kubectl's users call this program, if it runs as a plugin.
pub fn plugin_name(program: &Path) -> Option<&'static str> {
    let name = program.file_name()?.to_str()?;
    name.starts_with("kubectl-testimony").then_some("kubectl testimony")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_plugin_goes_by_kubectls_name() {
        assert_eq!(plugin_name(Path::new("/usr/bin/kubectl-testimony")), Some("kubectl testimony"));
        assert_eq!(plugin_name(Path::new("testimony")), None);
    }

    #[test]
    fn labels_are_read() {
        assert_eq!(labels("a=1,b=2").map(|l| l.len()), Ok(2));
        assert_eq!(labels("").map(|l| l.len()), Ok(0));
        assert!(labels("a").expect_err("no value").contains("name=value"));
    }
}
