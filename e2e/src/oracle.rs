//! The second verifier: Python in a virtual environment of its own, and a Go program over the libraries of transparency-dev.

use crate::paths::{Paths, repo};
use crate::steps::Log;
use anyhow::{Context, Result};
use std::process::Command;

/// Makes both ready; a second run does only what changed.
pub fn prepare(paths: &Paths, log: &Log) -> Result<()> {
    python(paths, log)?;
    let folder = repo().join("e2e/verify-oracle/go");
    let out = paths.program("tlog-oracle");
    let mut go = Command::new("go");
    go.current_dir(folder).env("CGO_ENABLED", "0").args([
        "build",
        "-mod=readonly",
        "-trimpath",
        "-ldflags",
        "-s -w",
        "-o",
    ]);
    log.run(go.arg(&out).arg("."))
}

fn python(paths: &Paths, log: &Log) -> Result<()> {
    let folder = paths.cache().join("oracle-python");
    let requirements = repo().join("e2e/verify-oracle/requirements.txt");
    let wanted = std::fs::read_to_string(&requirements).context("requirements of the second verifier")?;
    let stamp = folder.join("requirements.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    log.run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    let mut pip = Command::new(folder.join("bin/python"));
    log.run(pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--requirement"]).arg(&requirements))?;
    // A run that was killed leaves no stamp.
    std::fs::write(&stamp, wanted).context("the stamp of the second verifier")
}
