//! A witness outside of the cluster that others wrote: litewitness of filippo.io/torchwood, with its key in an ssh-agent.

use super::alone;
use super::strict::Restored;
use crate::cli::run;
use crate::evidence::{Evidence, Folder};
use crate::harness::{OPERATOR_SECONDS_MAX, cluster, eventually};
use crate::objects::{audited, text};
use crate::witness::{is_anchored, uid};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use testimony_e2e::install::{BACKEND_ENDPOINT, install_chart};
use testimony_e2e::node::NODE_IP;
use testimony_e2e::steps::output;

/// How long the witness may take to start, in seconds.
const START_SECONDS_MAX: u64 = 30;

/// What the witness is called.
const NAME: &str = "witness.invalid/lite";

/// A program that ends with the test.
struct Running(Child);

impl Running {
    /// Starts it; what it says goes into this file.
    fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let log = File::create(log)?;
        let started = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        started.map(Self).with_context(|| format!("{command:?}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A witness that knows one log.
struct Witness {
    url: String,
    /// Its verifier key, as it says itself.
    key: String,
    log: PathBuf,
    _agent: Running,
    _server: Running,
    _folder: Folder,
}

impl Witness {
    /// Starts one that knows the log with this verifier key; the cluster's pods reach it.
    fn start(ledger: &str) -> Result<Self> {
        let folder = Folder::new()?;
        let [private, socket, database, log] =
            ["key", "agent", "witness.db", "witness.log"].map(|name| folder.path(name));
        output(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&private))?;
        let agent =
            Running::start(Command::new("ssh-agent").args(["-D", "-a"]).arg(&socket), &folder.path("agent.log"))?;
        eventually("the agent to have the key", START_SECONDS_MAX, || {
            Ok(output(Command::new("ssh-add").arg(&private).env("SSH_AUTH_SOCK", &socket)).is_ok())
        })?;
        let line = output(Command::new("ssh-keygen").arg("-lf").arg(private.with_extension("pub")))?;
        let fingerprint = line.split_whitespace().nth(1).context("a fingerprint")?;

        let paths = &cluster().paths;
        let origin = ledger.split_once('+').context("a verifier key")?.0;
        let control = |subcommand: &str, key: &[&str]| {
            let mut command = Command::new(paths.program("witnessctl"));
            output(command.arg(subcommand).arg("-db").arg(&database).args(["-origin", origin]).args(key))
        };
        control("add-log", &[])?;
        control("add-key", &["-key", ledger])?;
        let port = TcpListener::bind((NODE_IP, 0))?.local_addr()?.port();
        let mut server = Command::new(paths.program("litewitness"));
        server.args(["-name", NAME, "-key", fingerprint, "-listen", &format!("{NODE_IP}:{port}")]);
        server.arg("-ssh-agent").arg(&socket).arg("-db").arg(&database);
        let server = Running::start(&mut server, &log)?;
        let url = format!("http://{NODE_IP}:{port}");
        let mut key = None;
        eventually("the witness to say its key", START_SECONDS_MAX, || {
            let said = std::fs::read_to_string(&log)?;
            key = said.split_whitespace().find_map(|word| word.strip_prefix("vkey=").map(str::to_owned));
            Ok(key.is_some() && said.contains("msg=listening"))
        })?;
        let key = key.context("a verifier key")?;
        Ok(Self { url, key, log, _agent: agent, _server: server, _folder: folder })
    }
}

/// The key of the roots' line of this kind.
fn key_of(roots: &str, kind: &str) -> Result<String> {
    let line = roots.lines().find_map(|line| line.strip_prefix(kind));
    line.map(|key| key.trim().to_owned()).with_context(|| format!("no line {kind:?} in {roots}"))
}

#[test]
fn w3_a_witness_that_others_wrote_cosigns_the_ledger_and_the_verifier_believes_it() -> Result<()> {
    let _alone = alone();
    let space = audited("outside", "rules: []")?;
    space.recorded_request()?;
    let server = uid(&space, "server")?;
    let (code, roots) = run(&["roots"])?;
    ensure!(code == 0, "testimony roots ends with {code}");
    let log = key_of(&roots, "ledger ")?;
    let witness = Witness::start(&log)?;

    let _restored = Restored;
    let (url, key) = (format!("witness.outside.url={}", witness.url), format!("witness.outside.key={}", witness.key));
    install_chart(cluster(), BACKEND_ENDPOINT, &[&url, &key, "witness.outside.intervalSeconds=5"])?;

    let mut said = Value::Null;
    let believed = eventually("the verifier to say that somebody outside vouches", 3 * OPERATOR_SECONDS_MAX, || {
        let mut evidence = Evidence::of(&space)?;
        evidence.roots.push_str(&format!("witness {}\n", witness.key));
        said = evidence.verified()?;
        Ok(text(&said, "/trust") == "external" && is_anchored(&said, &server))
    });
    let witness_said = || std::fs::read_to_string(&witness.log).unwrap_or_default();
    believed.with_context(|| format!("{said:#}\n{}", witness_said()))?;
    ensure!(text(&said, "/external/by").contains(NAME), "{said:#}");

    // Whoever does not know the witness's key believes the operator, and not more.
    let said = Evidence::of(&space)?.verified()?;
    ensure!(text(&said, "/trust") == "operator", "{said:#}");
    Ok(())
}
