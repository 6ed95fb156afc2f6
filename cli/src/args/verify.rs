//! `verify` and `prove`.

use super::{Cli, Format};
use clap::{Args, CommandFactory};
use std::ffi::OsString;
use std::path::PathBuf;
use testimony_core::evidence::note::PublicKey;
use testimony_core::evidence::verify::Verdict;

/// What says how an export is judged, and nothing to a proof of one record.
const OF_AN_EXPORT: [&str; 11] = [
    "files",
    "roots",
    "ledger",
    "ledger_head",
    "scope",
    "sink",
    "partial",
    "max_lag",
    "accept",
    "format",
    "temporary_size",
];

/// `verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// Files of the export; - is standard input; a URL is asked, such as http://victorialogs:9428/select/logsql/query?query=*
    #[arg(value_name = "FILE", required_unless_present = "proof")]
    pub files: Vec<PathBuf>,
    /// Check one record's proof instead, as `testimony prove` prints it; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = OF_AN_EXPORT)]
    pub proof: Option<PathBuf>,
    /// With --proof: the key that must have signed, 64 hex digits; `testimony prove` tells it
    #[arg(long, value_name = "HEX", requires = "proof", conflicts_with = "files", value_parser = public_key)]
    pub key: Option<PublicKey>,
    /// Trust roots: certificates (PEM), keys of witnesses and ledgers (name+id+key), as `testimony roots` prints them
    #[arg(long, value_name = "FILE")]
    pub roots: Option<PathBuf>,
    /// The operator's ledger, as `testimony ledger export` prints it; omitted: what of it is in the export
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// A head of the ledger that you kept, as the ConfigMap testimony-ledger-head holds it: a ledger that is smaller, or another
    /// one, is TAMPERED; may be repeated
    #[arg(long, value_name = "FILE", requires = "roots")]
    pub ledger_head: Vec<PathBuf>,
    /// Look at a part: ns=NAME, stream=PREFIX, from=TIME, to=TIME, separated by commas, each once; of an export by time, too
    #[arg(long, value_name = "SCOPE", value_parser = crate::verify::scope)]
    pub scope: Option<crate::verify::ScopeArg>,
    /// The sink whose export this is, by the name of its AuditSink: holes that are declared for other sinks excuse nothing
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub sink: Option<String>,
    /// The export is filtered: what is absent from it proves nothing
    #[arg(long)]
    pub partial: bool,
    /// How long a record may be without a signed head, such as 10s or 5m
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = crate::verify::lag)]
    pub max_lag: u64,
    /// Verdicts that are no failure, separated by commas: PENDING, PARTIAL, GAP, UNCLOSED, UNANCHORED; the exit code is that
    /// of what else was found
    #[arg(long, value_name = "VERDICT", value_delimiter = ',', value_parser = crate::verify::acceptable)]
    pub accept: Vec<Verdict>,
    /// Format of the files; omitted: recognised by the first line of each
    #[arg(long, value_enum)]
    pub format: Option<crate::verify::Format>,
    /// Most bytes of temporary files in TMPDIR, such as 10Gi; omitted: as many as the disk takes
    #[arg(long, value_name = "SIZE", value_parser = crate::verify::size)]
    pub temporary_size: Option<u64>,
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// `prove`.
#[derive(Args, Debug)]
pub struct ProveArgs {
    /// Files of the export, or URLs; - is standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The record: its stream, a colon and its seq, which is one less than `audit.sequence.number`
    #[arg(long, value_name = "SID:SEQ", value_parser = crate::verify::record_name)]
    pub record: crate::verify::RecordName,
    /// The key that must have signed the head, in hex; needed where somebody else put records of their own under this name
    #[arg(long, value_name = "KEY", value_parser = public_key)]
    pub key: Option<PublicKey>,
    /// Format of the files; omitted: recognised by the first line of each
    #[arg(long, value_enum)]
    pub format: Option<crate::verify::Format>,
}

fn public_key(text: &str) -> Result<PublicKey, String> {
    text.parse().map_err(|_| format!("{text:?} is no key: write 64 lower-case hex digits"))
}

/// Exit code of a wrong command line: `verify` and `prove` keep the small ones for verdicts. The first argument is the program.
pub fn usage_exit_code(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let judges = |name: &str| name == "verify" || name == "prove";
    let matches = Cli::command().ignore_errors(true).try_get_matches_from(&arguments);
    // What stands before the command may be so wrong that it is not found.
    let judged = match matches.as_ref().ok().and_then(clap::ArgMatches::subcommand_name) {
        Some(name) => judges(name),
        None => arguments.iter().skip(1).any(|argument| argument.to_str().is_some_and(judges)),
    };
    if judged { crate::verify::EXIT_USAGE } else { 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_what_would_be_ignored_is_refused() {
        let key = "0".repeat(64);
        for (line, good) in [
            ("--proof p".to_owned(), true),
            (format!("--proof p --key {key} -o json"), true),
            (format!("--key {key} x"), false),
            ("--proof p x".to_owned(), false),
            ("--proof p --roots r".to_owned(), false),
            ("--proof p --ledger l".to_owned(), false),
            ("--proof p --roots r --ledger-head h".to_owned(), false),
            ("--proof p --scope ns=shop".to_owned(), false),
            ("--proof p --sink main".to_owned(), false),
            ("--proof p --partial".to_owned(), false),
            ("--proof p --max-lag 1m".to_owned(), false),
            ("--proof p --accept GAP".to_owned(), false),
            ("--proof p --format otlp".to_owned(), false),
            ("--proof p --temporary-size 1Gi".to_owned(), false),
            ("--temporary-size 10Gi x".to_owned(), true),
            ("--temporary-size much x".to_owned(), false),
            ("--ledger-head h x".to_owned(), false),
        ] {
            let arguments = format!("testimony verify {line}");
            assert_eq!(Cli::command().try_get_matches_from(arguments.split(' ')).is_ok(), good, "{line}");
        }
    }

    #[test]
    fn v1_a_wrong_command_line_is_no_verdict() {
        for (line, code) in [
            ("testimony verify --bogus x", 64),
            ("testimony prove x", 64),
            ("testimony -n shop verify --bogus x", 64),
            ("testimony --namespace=shop --context c verify", 64),
            ("kubectl-testimony -n shop prove --record x", 64),
            ("testimony --bogus verify x", 64),
            ("testimony verify --scope x y", 64),
            ("testimony verify --scope ns=shop,ns=bank y", 64),
            ("testimony verify --scope from=1h,to=2h y", 64),
            ("testimony tail --bogus", 2),
            ("testimony -n verify tail --bogus", 2),
            ("testimony tail --pod verify --bogus", 2),
            ("testimony bogus", 2),
            ("testimony", 2),
        ] {
            let arguments = || line.split(' ').map(OsString::from);
            assert!(Cli::command().try_get_matches_from(arguments()).is_err(), "{line} is right");
            assert_eq!(usage_exit_code(arguments()), code, "{line}");
        }
    }
}
