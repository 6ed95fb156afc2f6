//! Helm, as the tests of the chart use it. Not every test file uses all of it.
#![allow(dead_code)]

use std::path::PathBuf;
use std::process::{Command, Output};

/// A program that `cargo xtask test` builds: `$VARIABLE`, else below `$TESTIMONY_CACHE_DIR` or `~/.cache/testimony`.
pub fn program(name: &str, variable: &str) -> PathBuf {
    cached(&format!("bin/{name}"), variable)
}

/// A file that `cargo xtask test` makes: `$VARIABLE`, else below `$TESTIMONY_CACHE_DIR` or `~/.cache/testimony`.
pub fn cached(name: &str, variable: &str) -> PathBuf {
    let path = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let program = path(variable).unwrap_or_else(|| {
        let cache =
            path("TESTIMONY_CACHE_DIR").unwrap_or_else(|| path("HOME").expect("HOME is set").join(".cache/testimony"));
        cache.join(name)
    });
    assert!(
        program.is_file(),
        "{name} is missing at {}: `cargo xtask test` builds it, or set {variable} to its path",
        program.display()
    );
    program
}

/// The chart's folder.
pub fn chart() -> PathBuf {
    super::golden::repository().join("charts/testimony")
}

/// Runs Helm without a cluster.
pub fn helm(arguments: &[&str]) -> Output {
    let program = program("helm", "HELM");
    // An own, absent kubeconfig: these tests must never speak to a cluster.
    Command::new(&program)
        .args(arguments)
        .env("KUBECONFIG", "/nonexistent")
        .output()
        .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()))
}

/// Renders the chart with values files, relative to the chart, and `--set` values.
pub fn template(values: &[&str], settings: &[&str]) -> Output {
    let chart = chart();
    let files: Vec<String> = values.iter().map(|file| chart.join(file).display().to_string()).collect();
    let chart = chart.display().to_string();
    let mut arguments = vec!["template", "testimony", &chart, "--namespace", "testimony-system"];
    for file in &files {
        arguments.extend(["--values", file]);
    }
    for setting in settings {
        arguments.extend(["--set", setting]);
    }
    helm(&arguments)
}

/// As [`template`]; it must succeed.
pub fn rendered(values: &[&str], settings: &[&str]) -> String {
    let output = template(values, settings);
    assert!(output.status.success(), "{values:?} {settings:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("Helm prints UTF-8")
}

/// The documents of a manifest, each ending in one line feed.
pub fn documents(manifest: &str) -> Vec<String> {
    manifest
        .split("---\n")
        .filter(|document| !document.trim().is_empty())
        .map(|document| format!("{}\n", document.trim_end()))
        .collect()
}

/// The objects of a manifest.
pub fn objects(manifest: &str) -> Vec<serde_json::Value> {
    let parse =
        |document: &String| serde_saphyr::from_str(document).unwrap_or_else(|error| panic!("{error}\n{document}"));
    documents(manifest).iter().map(parse).filter(|object: &serde_json::Value| !object.is_null()).collect()
}

/// The objects of a kind.
pub fn of_kind(manifest: &str, kind: &str) -> Vec<serde_json::Value> {
    objects(manifest).into_iter().filter(|object| object["kind"] == kind).collect()
}
