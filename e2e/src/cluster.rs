//! The cluster that a command works on: the local node, one of kind, or one that exists; and how images get there.

use crate::image::Archive;
use crate::kube::{Helm, Kubectl};
use crate::node::Node;
use crate::paths::{Paths, repo};
use crate::steps::{Log, output};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Name of the cluster that `--kind` makes.
const KIND_NAME: &str = "testimony";

/// Which cluster.
#[derive(Clone, Debug)]
pub enum Kind {
    /// The one-node cluster of [`Node`].
    Local,
    /// A cluster made by the kind program, where a Docker engine answers.
    KindProgram,
    /// A cluster that exists. Its nodes pull the images from a registry.
    Existing {
        /// Names the cluster.
        kubeconfig: PathBuf,
        /// Registry and path before each image's name.
        registry: String,
    },
}

/// A cluster with its clients.
#[derive(Debug)]
pub struct Cluster {
    /// Where programs and images are.
    pub paths: Paths,
    /// kubectl as administrator.
    pub kubectl: Kubectl,
    /// helm as administrator.
    pub helm: Helm,
    kind: Kind,
    references: BTreeMap<String, String>,
}

impl Cluster {
    /// Whether it is the one-node cluster of this machine.
    pub fn is_local(&self) -> bool {
        matches!(self.kind, Kind::Local)
    }

    /// Describes the cluster; nothing is started.
    pub fn new(paths: &Paths, kind: Kind) -> Self {
        let kubeconfig = match &kind {
            Kind::Local => Node::new(paths).kubeconfig(),
            Kind::KindProgram => paths.cache().join("kind.kubeconfig"),
            Kind::Existing { kubeconfig, .. } => kubeconfig.clone(),
        };
        Self {
            paths: paths.clone(),
            kubectl: Kubectl::new(paths.program("kubectl"), kubeconfig.clone()),
            helm: Helm::new(paths.program("helm"), kubeconfig),
            kind,
            references: BTreeMap::new(),
        }
    }

    /// Writes down how to reach the cluster and its images, for [`Self::from_file`].
    pub fn save(&self, file: &Path) -> Result<()> {
        let kubeconfig = self.kubectl.kubeconfig();
        let text = serde_json::json!({"kubeconfig": kubeconfig, "references": self.references}).to_string();
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// A cluster that another process prepared and [saved](Self::save).
    pub fn from_file(paths: &Paths, file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let saved: serde_json::Value = serde_json::from_str(&text)?;
        let field = |name: &str| saved.get(name).cloned().with_context(|| format!("{} has no {name}", file.display()));
        let kubeconfig: PathBuf = serde_json::from_value(field("kubeconfig")?)?;
        let kind = if kubeconfig == Node::new(paths).kubeconfig() {
            Kind::Local
        } else {
            Kind::Existing { kubeconfig, registry: String::new() }
        };
        let mut cluster = Self::new(paths, kind);
        cluster.references = serde_json::from_value(field("references")?)?;
        Ok(cluster)
    }

    /// Which cluster it is.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Starts it where that is ours to do, and checks that it answers.
    pub fn up(&self, log: &Log) -> Result<()> {
        match &self.kind {
            Kind::Local => Node::new(&self.paths).up(log).map(|_| ()),
            Kind::KindProgram => self.kind_up(log),
            Kind::Existing { kubeconfig, .. } => {
                let version = self.kubectl.run(&["version", "--request-timeout=10s"]);
                let version = version.with_context(|| format!("no cluster answers for {}", kubeconfig.display()))?;
                log.line(&version);
                Ok(())
            }
        }
    }

    fn kind_up(&self, log: &Log) -> Result<()> {
        output(Command::new("docker").arg("version"))
            .context("--kind needs a Docker engine that answers; without one, leave the option out")?;
        let clusters =
            output(Command::new("kind").args(["get", "clusters"])).context("--kind needs the program kind")?;
        if !clusters.lines().any(|name| name == KIND_NAME) {
            let config = repo().join("kind-config.yaml");
            log.run(Command::new("kind").args(["create", "cluster", "--name", KIND_NAME, "--config"]).arg(config))?;
        }
        let mut export = Command::new("kind");
        export.args(["export", "kubeconfig", "--name", KIND_NAME, "--kubeconfig"]).arg(self.kubectl.kubeconfig());
        log.run(&mut export)
    }

    /// Removes what [`Self::up`] started.
    pub fn down(&self, log: &Log) -> Result<()> {
        match &self.kind {
            Kind::Local => Node::new(&self.paths).down(log),
            Kind::KindProgram => log.run(Command::new("kind").args(["delete", "cluster", "--name", KIND_NAME])),
            Kind::Existing { .. } => Ok(()),
        }
    }

    /// Makes an image known to the cluster's nodes.
    pub fn load(&mut self, image: &Archive, log: &Log) -> Result<()> {
        let reference = match &self.kind {
            Kind::Local => {
                Node::new(&self.paths).import(image, log)?;
                image.pinned.clone()
            }
            Kind::KindProgram => {
                let mut load = Command::new("kind");
                log.run(load.args(["load", "image-archive", "--name", KIND_NAME]).arg(&image.path))?;
                image.pinned.clone()
            }
            Kind::Existing { registry, .. } => {
                let tag = image.tag.rsplit_once(':').map_or("", |(_, tag)| tag);
                format!("{registry}/{}:{tag}", image.name)
            }
        };
        self.references.insert(image.name.clone(), reference);
        Ok(())
    }

    /// The reference under which the cluster knows an image that was loaded.
    pub fn reference(&self, name: &str) -> Result<&str> {
        self.references.get(name).map(String::as_str).with_context(|| format!("image {name} is not loaded"))
    }

    /// When nodes pull: not at all where images are loaded.
    pub fn pull_policy(&self) -> &'static str {
        if matches!(self.kind, Kind::Existing { .. }) { "IfNotPresent" } else { "Never" }
    }

    /// Replaces each `{{image:NAME}}` by the image's reference.
    pub fn fill(&self, yaml: &str) -> Result<String> {
        fill(yaml, &self.references)
    }
}

fn fill(yaml: &str, references: &BTreeMap<String, String>) -> Result<String> {
    let mut text = yaml.to_string();
    for (name, reference) in references {
        text = text.replace(&format!("{{{{image:{name}}}}}"), reference);
    }
    if let Some((_, rest)) = text.split_once("{{image:") {
        let name = rest.split("}}").next().unwrap_or_default();
        ensure!(false, "a manifest names the image {name:?}, which is not loaded");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_filled_in_and_an_unknown_one_is_named() -> Result<()> {
        let references = BTreeMap::from([("shop".to_string(), "localhost/shop:sha-1".to_string())]);
        assert_eq!(fill("image: \"{{image:shop}}\"", &references)?, "image: \"localhost/shop:sha-1\"");
        let error = fill("{{image:shop}} {{image:other}}", &references).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("\"other\"")));
        Ok(())
    }
}
