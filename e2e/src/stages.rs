//! `cargo xtask test`: every check, each with its time, and one line at the end.

use crate::cluster::{Cluster, Kind};
use crate::install::{BACKEND_ENDPOINT, OPERATOR_NAMESPACE, PLATFORM_STEPS, missing_programs, platform, prepare};
use crate::oracle;
use crate::panics;
use crate::paths::{Paths, repo};
use crate::programs::Program;
use crate::steps::{Log, Steps, output, tail};
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use std::path::Path;
use std::process::Command;

const DENY_VERSION: &str = "0.20.2";
/// Lines of a failed stage that are shown: compiler errors and failed assertions are long.
const FAILED_TAIL_LINES: usize = 150;
/// Failed tests that are shown again at the end.
const FAILURES_SHOWN_MAX: usize = 10;
/// Lines of each: its first ones, and its last ones.
const FAILURE_LINES: (usize, usize) = (20, 10);
/// Cluster tests that run at the same time; each waits for pods most of the time.
const CLUSTER_TEST_THREADS: &str = "4";
/// Module of the cluster tests that run one at a time.
const ALONE: &str = "alone::";
/// Names the file by which the cluster tests find the cluster.
pub const CLUSTER_FILE_ENV: &str = "TESTIMONY_E2E_CLUSTER";
/// Names the command line that the cluster tests run; without it they look where cargo puts it.
pub const CLI_ENV: &str = "TESTIMONY_E2E_CLI";

/// A stage of the test run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// Formatting of Rust and Go.
    Fmt,
    /// Lints; a warning is an error.
    Clippy,
    /// Licences, banned crates and sources of the dependencies.
    Deny,
    /// Unit, golden, property and network-namespace tests.
    Unit,
    /// Tests against a real cluster.
    Cluster,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Fmt, Self::Clippy, Self::Deny, Self::Unit, Self::Cluster];

    fn title(self) -> &'static str {
        match self {
            Self::Fmt => "formatting",
            Self::Clippy => "clippy",
            Self::Deny => "cargo deny",
            Self::Unit => "unit, golden, property and network-namespace tests",
            Self::Cluster => "cluster tests",
        }
    }

    fn slug(self) -> String {
        format!("test-{self:?}").to_lowercase()
    }
}

/// Tests that passed and failed; a stage without tests of its own counts as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Passed.
    pub passed: u64,
    /// Failed.
    pub failed: u64,
}

/// Runs the stages, all or one, and goes on after a failed one. `keep` leaves the local cluster running.
pub fn run(paths: &Paths, kind: Kind, only: Option<Stage>, keep: bool) -> Result<Tally> {
    let stages: Vec<Stage> = only.map_or_else(|| Stage::ALL.to_vec(), |stage| vec![stage]);
    let mut cluster = Cluster::new(paths, kind);
    let with_cluster = stages.contains(&Stage::Cluster);
    let missing = programs_for(&stages, &cluster);
    let with_programs = with_cluster || stages.contains(&Stage::Unit);
    let preparation = if with_programs { 1 + missing.len() } else { 0 };
    let platform_steps = if with_cluster { PLATFORM_STEPS + usize::from(!keep) } else { 0 };
    let mut steps = Steps::new(preparation + stages.len() + platform_steps, paths.logs())?;
    if with_programs {
        prepare(&mut steps, &cluster, &missing)?;
    }
    let mut tally = Tally::default();
    let mut failed = Vec::new();
    for stage in stages {
        if stage == Stage::Cluster
            && let Err(error) = platform(&mut steps, &mut cluster, true, BACKEND_ENDPOINT)
        {
            println!("error: {error:#}");
            tally.failed += 1;
            continue;
        }
        let result = steps.run(stage.title(), &stage.slug(), |log| run_stage(stage, &cluster, log));
        let log = paths.logs().join(format!("{}.log", stage.slug()));
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let counted = count(&text);
        if let Err(error) = &result {
            println!("{}", tail(&log, FAILED_TAIL_LINES));
            println!("error: {error:#}");
            failed.extend(failures(&text));
        }
        tally.passed += counted.passed.max(u64::from(counted == Tally::default() && result.is_ok()));
        tally.failed += counted.failed.max(u64::from(result.is_err()));
    }
    if with_cluster && !keep {
        steps.run("stopping the cluster", "down", |log| cluster.down(log))?;
    }
    // Once more at the end, where somebody looks: the tests after a failed one may have said much.
    failed.iter().take(FAILURES_SHOWN_MAX).for_each(|failure| println!("{failure}"));
    println!("{:.0} s in all", steps.elapsed().as_secs_f64());
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(tally)
}

/// The cluster tests need every program, the chart's tests Helm and promtool, the export's tests the Collector.
fn programs_for(stages: &[Stage], cluster: &Cluster) -> Vec<Program> {
    let mut missing = missing_programs(cluster, true);
    if !stages.contains(&Stage::Cluster) {
        let judges = ["helm", "promtool", "otelcol", "grpc-interop-server", "grpc-interop-client", "h2spec", "fortio"];
        missing.retain(|program| judges.contains(&program.name) && stages.contains(&Stage::Unit));
    }
    missing
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(repo()).args(arguments);
    cargo
}

fn run_stage(stage: Stage, cluster: &Cluster, log: &Log) -> Result<()> {
    match stage {
        Stage::Fmt => {
            log.run(&mut cargo(&["fmt", "--all", "--check"]))?;
            let unformatted =
                output(Command::new("gofmt").current_dir(repo().join("e2e")).args(["-l", "shop", "verify-oracle"]))?;
            ensure!(unformatted.is_empty(), "gofmt would change {unformatted}");
            Ok(())
        }
        Stage::Clippy => {
            log.run(&mut cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
            // No part of --all-targets, because a plain `cargo test` must not need a cluster.
            let cluster_tests =
                ["clippy", "--locked", "-p", "testimony-e2e", "--test", "cluster", "--", "-D", "warnings"];
            log.run(&mut cargo(&cluster_tests))
        }
        Stage::Deny => deny(&cluster.paths, log),
        Stage::Unit => {
            oracle::prepare(&cluster.paths, log)?;
            log.run(&mut cargo(&["test", "--locked", "--workspace", "--no-fail-fast"]))
        }
        Stage::Cluster => {
            let file = cluster.paths.cache().join("cluster-under-test.json");
            cluster.save(&file)?;
            let cli = command_line(log)?;
            // Tests that would disturb others come after them, one at a time.
            let together =
                cluster_tests(cluster, &file, &cli, log, &["--skip", ALONE, "--test-threads", CLUSTER_TEST_THREADS]);
            // Before those that follow make new pods of it, and at the end.
            let operator = || panics::expect_none(&cluster.kubectl, OPERATOR_NAMESPACE, panics::OPERATOR);
            let before = operator();
            let alone = cluster_tests(cluster, &file, &cli, log, &[ALONE, "--test-threads", "1", "--show-output"]);
            figures(&cluster.paths.logs().join(format!("{}.log", stage.slug())));
            all([together, before, alone, operator()])
        }
    }
}

/// Whatever went wrong, not the first alone.
fn all(results: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let errors: Vec<String> = results.into_iter().filter_map(|result| Some(format!("{:#}", result.err()?))).collect();
    ensure!(errors.is_empty(), "{}", errors.join("\n"));
    Ok(())
}

/// Builds `testimony` once, so that nobody waits for a compiler later; where it is.
pub fn command_line(log: &Log) -> Result<String> {
    let build = ["build", "--locked", "-p", "testimony-cli"];
    log.run(&mut cargo(&build))?;
    // Built: this only names it.
    let messages = output(cargo(&build).args(["--quiet", "--message-format", "json"]))?;
    executable(&messages).context("cargo did not say where it put the command line")
}

/// The program that cargo's messages name.
fn executable(messages: &str) -> Option<String> {
    let mut programs = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(message.get("executable")?.as_str()?.to_owned())
    });
    programs.next_back()
}

fn cluster_tests(cluster: &Cluster, file: &Path, cli: &str, log: &Log, options: &[&str]) -> Result<()> {
    let mut test = cargo(&["test", "--locked", "-p", "testimony-e2e", "--test", "cluster", "--no-fail-fast", "--"]);
    test.args(options).env(CLUSTER_FILE_ENV, file).env(CLI_ENV, cli).env("KUBECONFIG", cluster.kubectl.kubeconfig());
    log.run(&mut test)
}

/// Shows what the tests measured.
fn figures(log: &Path) {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().filter(|line| line.starts_with("figure: ")).for_each(|line| println!("{line}"));
}

fn deny(paths: &Paths, log: &Log) -> Result<()> {
    let root = paths.cache().join("tools");
    let program = root.join("bin/cargo-deny");
    let version = output(Command::new(&program).arg("--version")).unwrap_or_default();
    if version.trim() != format!("cargo-deny {DENY_VERSION}") {
        log.set_note(format!("installing cargo-deny {DENY_VERSION}"));
        let mut install = cargo(&["install", "--locked", "cargo-deny", "--version", DENY_VERSION, "--root"]);
        log.run(install.arg(&root)).context("cargo-deny is needed")?;
        log.set_note("");
    }
    log.run(Command::new(Path::new(&program)).current_dir(repo()).args(["check", "licenses", "bans", "sources"]))
}

/// Adds up the lines `test result: ok. 13 passed; 0 failed; ...` of cargo's test runner.
fn count(log: &str) -> Tally {
    let number = |line: &str, word: &str| -> u64 {
        let before = line.split(word).next().unwrap_or_default();
        before.trim_end().rsplit(' ').next().and_then(|digits| digits.parse().ok()).unwrap_or_default()
    };
    let results = log.lines().filter(|line| line.starts_with("test result: "));
    results.fold(Tally::default(), |tally, line| Tally {
        passed: tally.passed + number(line, " passed"),
        failed: tally.failed + number(line, " failed"),
    })
}

/// What cargo's test runner prints of each failed test, `---- name stdout ----` and what it said, without the middle of what is
/// long.
fn failures(log: &str) -> Vec<String> {
    let mut all: Vec<Vec<&str>> = Vec::new();
    let mut inside = false;
    for line in log.lines() {
        // What passed is shown too, by --show-output, before.
        let ends = ["failures:", "successes:"].contains(&line) || line.starts_with("test result: ");
        if line.starts_with("---- ") && line.ends_with(" stdout ----") {
            all.push(vec![line]);
            inside = true;
        } else if ends {
            inside = false;
        } else if inside && !line.is_empty() {
            all.last_mut().into_iter().for_each(|lines| lines.push(line));
        }
    }
    let panics =
        |lines: &Vec<&str>| lines.iter().any(|line| line.contains("panicked at") || line.starts_with("Error: "));
    let (first, last) = FAILURE_LINES;
    let short = |lines: &Vec<&str>| match lines.len() {
        few if few <= first + last => lines.join("\n"),
        many => [lines[..first].join("\n"), "...".to_owned(), lines[many - last..].join("\n")].join("\n"),
    };
    all.iter().filter(|lines| panics(lines)).map(short).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_names_the_program() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\n\
                        {\"reason\":\"compiler-artifact\",\"executable\":\"/t/debug/testimony\"}\n\
                        {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executable(messages).as_deref(), Some("/t/debug/testimony"));
        assert_eq!(executable("error: no"), None);
    }

    #[test]
    fn no_error_hides_another() {
        let failed = |text: &str| Err(anyhow::anyhow!("{text}"));
        assert!(all([Ok(()), Ok(())]).is_ok());
        let error = all([Ok(()), failed("tests"), Ok(()), failed("a panic")]).expect_err("two errors");
        assert_eq!(error.to_string(), "tests\na panic");
    }

    #[test]
    fn results_of_all_test_binaries_add_up() {
        let log = "running 2 tests\ntest result: ok. 13 passed; 0 failed; 0 ignored; 0 measured; finished in 0.86s\n\
                   test a ... FAILED\ntest result: FAILED. 4 passed; 2 failed; 0 ignored\n";
        assert_eq!(count(log), Tally { passed: 17, failed: 2 });
        assert_eq!(count("error: could not compile"), Tally::default());
    }

    #[test]
    fn failed_tests_are_shown_again_and_what_is_long_is_cut() {
        let log = "test a ... FAILED\n\nsuccesses:\n\n---- c stdout ----\nfigure: 1\n\nsuccesses:\n    c\n\nfailures:\n\n\
                   ---- a stdout ----\n\nthread 'a' panicked at a.rs:1:2:\nno\n\n---- b stdout ----\nError: b\n\nfailures:\n    \
                   a\n    b\n\ntest result: FAILED. 4 passed; 2 failed\n";
        let expected = ["---- a stdout ----\nthread 'a' panicked at a.rs:1:2:\nno", "---- b stdout ----\nError: b"];
        assert_eq!(failures(log), expected);
        let long = format!("---- a stdout ----\nthread 'a' panicked at a.rs:1:2:\n{}", "x\n".repeat(100));
        let lines = FAILURE_LINES.0 + 1 + FAILURE_LINES.1;
        assert_eq!(failures(&long).iter().map(|one| one.lines().count()).collect::<Vec<_>>(), [lines]);
        assert_eq!(failures("test result: ok. 13 passed"), [""; 0]);
    }
}
