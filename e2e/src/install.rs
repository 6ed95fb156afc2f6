//! From an empty cluster to Testimony with its backend: the way that the demo and the cluster tests share.

use crate::cluster::{Cluster, Kind};
use crate::image::{Archive, catalog};
use crate::paths::{Paths, repo};
use crate::prereq;
use crate::programs::{self, Program};
use crate::records::{AuditRecord, parse};
use crate::steps::{Log, Steps};
use anyhow::{Context, Result};

/// The namespace of the backend.
pub const BACKEND_NAMESPACE: &str = "observability";
/// Where sidecars reach it.
pub const BACKEND_ENDPOINT: &str = "http://collector.observability.svc:4318";
/// The namespace of the operator.
pub const OPERATOR_NAMESPACE: &str = "testimony-system";
const RELEASE: &str = "testimony";
const HELM_TIMEOUT: &str = "180s";
const BACKEND_FILE: &str = "/data/logs.jsonl";

/// Programs that lack for this kind of cluster; `fixtures` adds what the tests talk to.
pub fn missing_programs(cluster: &Cluster, fixtures: bool) -> Vec<Program> {
    let node: &[Program] = if matches!(cluster.kind(), Kind::Local) { programs::NODE } else { &[] };
    let fixtures: &[Program] = if fixtures { programs::FIXTURES } else { &[] };
    let wanted = node.iter().chain(programs::CLIENTS).chain(fixtures).copied();
    wanted.filter(|program| !program.is_built(&cluster.paths)).collect()
}

/// Checks what the machine has and builds `missing`: one step, and one for each of them.
pub fn prepare(steps: &mut Steps, cluster: &Cluster, missing: &[Program]) -> Result<()> {
    steps.run("checking what this machine has", "prerequisites", |log| {
        if matches!(cluster.kind(), Kind::Local) {
            prereq::root()?;
        }
        prereq::packages(log)?;
        prereq::go()
    })?;
    for program in missing {
        let (title, slug) = (format!("building {}", program.name), format!("build-{}", program.name));
        steps.run(&title, &slug, |log| program.build(&cluster.paths, log))?;
    }
    Ok(())
}

/// How many steps [`platform`] takes.
pub const PLATFORM_STEPS: usize = 5;

/// Images, the cluster, the backend, the chart. `sink` is the default sink's endpoint.
pub fn platform(steps: &mut Steps, cluster: &mut Cluster, fixtures: bool, sink: &str) -> Result<()> {
    let paths = cluster.paths.clone();
    let images = steps.run("building images", "images", |log| {
        let mut images = catalog::products(&paths.images(), log)?;
        images.extend(supporting_images(&paths, fixtures, log)?);
        log.set_note(format!("{} images in {}", images.len(), paths.images().display()));
        Ok(images)
    })?;
    steps.run("starting the cluster", "cluster", |log| cluster.up(log))?;
    steps
        .run("loading the images", "load-images", |log| images.iter().try_for_each(|image| cluster.load(image, log)))?;
    steps.run("starting the OpenTelemetry Collector", "collector", |log| {
        log.line(&cluster.kubectl.apply(&cluster.fill(include_str!("../assets/collector.yaml"))?)?);
        cluster.kubectl.rollout(BACKEND_NAMESPACE, "deployment/collector")
    })?;
    steps.run("installing Testimony by Helm", "helm", |log| {
        log.line(&install_chart(cluster, sink, &[])?);
        Ok(())
    })
}

/// The backend, the shop and its database, a client; `fixtures` adds what the tests talk to.
pub fn supporting_images(paths: &Paths, fixtures: bool, log: &Log) -> Result<Vec<Archive>> {
    log.set_note("the backend and the shop");
    let mut images = vec![
        catalog::collector(paths)?,
        catalog::shop(paths, log)?,
        catalog::postgres(paths)?,
        catalog::toolbox(paths)?,
    ];
    if fixtures {
        images.extend(catalog::fixtures(paths)?);
    }
    Ok(images)
}

/// Installs or upgrades the chart, with `more` `--set` values.
pub fn install_chart(cluster: &Cluster, sink: &str, more: &[&str]) -> Result<String> {
    install_chart_with(cluster, sink, more, &[])
}

/// As [`install_chart`], with values files, relative to the chart.
pub fn install_chart_with(cluster: &Cluster, sink: &str, more: &[&str], files: &[&str]) -> Result<String> {
    let mut values = vec![format!("sink.endpoint={sink}"), format!("image.pullPolicy={}", cluster.pull_policy())];
    for component in ["operator", "sidecar", "cli"] {
        let name = format!("testimony-{component}");
        let reference = cluster.reference(&name)?;
        let (repository, tag) = reference.rsplit_once(':').context("an image reference without a tag")?;
        let (registry, repository) = repository.rsplit_once('/').context("an image reference without a registry")?;
        values.push(format!("image.registry={registry}"));
        values.push(format!("image.{component}.repository={repository}"));
        values.push(format!("image.{component}.tag={tag}"));
    }
    // The tests of `rollout: Restart` need it, and nothing else uses it.
    values.push("rollout.enabled=true".to_owned());
    values.extend(more.iter().map(|value| (*value).to_string()));
    let folder = repo().join("charts/testimony");
    let files: Vec<String> = files.iter().map(|file| folder.join(file).display().to_string()).collect();
    let chart = folder.to_string_lossy();
    let mut arguments = vec!["upgrade", "--install", RELEASE, &chart, "--namespace", OPERATOR_NAMESPACE];
    arguments.extend(["--create-namespace", "--wait", "--timeout", HELM_TIMEOUT]);
    for file in &files {
        arguments.extend(["--values", file]);
    }
    for value in &values {
        arguments.extend(["--set", value]);
    }
    cluster.helm.run(&arguments).map_err(|error| {
        let pods = cluster.kubectl.run(&["get", "pods", "-n", OPERATOR_NAMESPACE, "-o", "wide"]).unwrap_or_default();
        let logs = cluster.kubectl.run(&[
            "logs",
            "-n",
            OPERATOR_NAMESPACE,
            "--all-containers",
            "--prefix",
            "--tail=10",
            "-l",
            "app.kubernetes.io/name=testimony",
        ]);
        error.context(format!("the chart did not become ready\n{pods}\n{}", logs.unwrap_or_default()))
    })
}

/// Reads the backend's records of one namespace.
pub fn records_of(cluster: &Cluster, namespace: &str) -> Result<Vec<AuditRecord>> {
    let mut records = parse(&export_of(cluster, namespace)?)?;
    records.retain(|record| record.namespace() == namespace);
    Ok(records)
}

/// Lines of the backend's file that hold records of a namespace.
pub fn export_of(cluster: &Cluster, namespace: &str) -> Result<String> {
    // Each line holds the records of one pod, so the filter may look at lines. No line is no error. A last line that is still
    // being written is left out here: grep would end it.
    let whole = format!("head -n \"$(wc -l < {BACKEND_FILE})\" {BACKEND_FILE}");
    let script = format!("{whole} | grep -F '\"stringValue\":\"{namespace}\"' || true");
    cluster.kubectl.exec(BACKEND_NAMESPACE, "deploy/collector", "collector", &["sh", "-c", &script])
}
