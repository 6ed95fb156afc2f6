//! What `testimony verify` is given, and what it says of it.

use crate::cli::{run, run_json};
use crate::harness::{Space, cluster};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use testimony_e2e::install::export_of;

/// Roots, ledger and export of one namespace. Roots or a ledger that are empty are not given.
#[derive(Clone)]
pub struct Evidence {
    pub roots: String,
    pub ledger: String,
    pub export: String,
    pub scope: String,
    /// What the ledger had only so long before its end may be on its way to the backend.
    pub max_lag: &'static str,
}

/// A folder that goes with its files.
pub struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("testimony-verify-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = Self(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&folder.0)?;
        Ok(folder)
    }

    /// Where a file of this name stands.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file in it; its path.
    pub fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.path(name);
        std::fs::write(&path, text)?;
        Ok(path.to_str().context("a path in UTF-8")?.to_owned())
    }
}

impl Evidence {
    /// Of what the backend has of a namespace, as it is now.
    pub fn of(space: &Space) -> Result<Self> {
        Self::with(space, || export_of(cluster(), &space.name))
    }

    /// Of what another backend has of it.
    pub fn with(space: &Space, export: impl FnOnce() -> Result<String>) -> Result<Self> {
        let said = |what: &[&str]| -> Result<String> {
            let (code, text) = run(what)?;
            ensure!(code == 0, "testimony {what:?} ends with {code}");
            Ok(text)
        };
        // First the ledger: what it knows must be among the records.
        let (roots, ledger) = (said(&["roots"])?, said(&["ledger", "export"])?);
        let mut export = export()?;
        // The last line may still be being written.
        let last = export.trim_end().rfind('\n').map_or(0, |at| at + 1);
        if export.get(last..).is_some_and(|line| serde_json::from_str::<Value>(line).is_err()) {
            export.truncate(last);
        }
        Ok(Self { roots, ledger, export, scope: format!("ns={}", space.name), max_lag: "10s" })
    }

    /// What `testimony verify` says; its exit code is that of the report.
    pub fn verified(&self) -> Result<Value> {
        let folder = Folder::new()?;
        let export = folder.file("export.jsonl", &self.export)?;
        let (roots, ledger) = (folder.file("roots.txt", &self.roots)?, folder.file("ledger.jsonl", &self.ledger)?);
        let mut arguments = vec!["verify", "--scope", &self.scope, "--max-lag", self.max_lag, &export];
        for (option, text, file) in [("--roots", &self.roots, &roots), ("--ledger", &self.ledger, &ledger)] {
            if !text.is_empty() {
                arguments.extend([option, file]);
            }
        }
        let (code, said) = run_json(&arguments)?;
        ensure!(said.get("exit_code").and_then(Value::as_i64) == Some(code.into()), "{code}: {said:#}");
        Ok(said)
    }
}

/// What was found, as lists of the JSON report give it.
pub fn findings(said: &Value) -> &[Value] {
    said.get("findings").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
