//! A real one-node Kubernetes on this machine, without Docker: etcd, API server, controller manager, scheduler,
//! containerd, kubelet, kube-proxy and CoreDNS, all below one folder.
//!
//! Everything that belongs to a node can be told from the machine's own state, without a note of ours that a kill could
//! keep us from writing: see [`clean`].

pub mod clean;
mod config;
mod firewall;
mod pki;
mod process;

pub use firewall::Firewall;
pub use process::NODE_ENV;

use crate::image::{Archive, catalog};
use crate::kube::Kubectl;
use crate::paths::Paths;
use crate::steps::{Log, wait_until};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The node's name.
pub const NODE_NAME: &str = "node1";
/// The node's address, on a bridge of its own: the API server must advertise an address that is no loopback.
pub const NODE_IP: &str = "10.90.0.1";
/// The bridge that carries [`NODE_IP`].
pub const NODE_LINK: &str = "kn0";
/// The bridge of the pods, made by the CNI plugin.
pub const POD_LINK: &str = "cni0";
/// Name of the CNI network; it stands in the comments of the iptables rules that the plugins make.
pub const CNI_NETWORK: &str = "testimony";

const API_READY_SECONDS_MAX: u64 = 120;
const NODE_READY_SECONDS_MAX: u64 = 120;
const SOCKET_SECONDS_MAX: u64 = 30;
const POLL_MILLIS: u64 = 200;

/// The ports on which the node's programs listen.
const PORTS: &[u16] = &[2379, 2380, 6443, 10248, 10249, 10250, 10256, 10257, 10259];

/// The local node.
#[derive(Clone, Debug)]
pub struct Node {
    paths: Paths,
}

impl Node {
    /// The node whose state stands in the cache of `paths`.
    pub fn new(paths: &Paths) -> Self {
        Self { paths: paths.clone() }
    }

    fn dir(&self) -> PathBuf {
        self.paths.node()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir().join("admin.kubeconfig")
    }

    /// kubectl as administrator of this node.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(self.paths.program("kubectl"), self.kubeconfig())
    }

    /// Brings the node up, or keeps it where it is up and healthy. Returns whether it was kept.
    pub fn up(&self, log: &Log) -> Result<bool> {
        if self.is_healthy(log) {
            log.set_note("kept: it is up and healthy");
            return Ok(true);
        }
        clean::clean(&self.paths, log)?;
        self.start(log)?;
        Ok(false)
    }

    /// Stops the node and removes what it made; the build cache stays.
    pub fn down(&self, log: &Log) -> Result<()> {
        clean::clean(&self.paths, log)
    }

    /// A node is kept when it was started from the same recipe, all its programs run and the API server says that the
    /// node is ready.
    fn is_healthy(&self, log: &Log) -> bool {
        let stamp = std::fs::read_to_string(self.dir().join("stamp"));
        if !stamp.is_ok_and(|stamp| stamp == self.stamp()) {
            log.line("no node of this recipe stands here");
            return false;
        }
        let running = process::running_programs(&self.dir());
        if let Some(missing) = config::PROGRAMS.iter().find(|name| !running.contains(&(**name).to_string())) {
            log.line(&format!("{missing} does not run"));
            return false;
        }
        let ready = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        match self.kubectl().run(&["get", "node", NODE_NAME, "-o", ready, "--request-timeout=10s"]) {
            Ok(status) => status.trim() == "True",
            Err(error) => {
                log.line(&format!("{error:#}"));
                false
            }
        }
    }

    /// Changes whenever a program's version or a configuration file changes.
    fn stamp(&self) -> String {
        let mut hash = Sha256::new();
        for program in crate::programs::NODE {
            hash.update(format!("{program:?}\n"));
        }
        hash.update(config::all(&self.dir()));
        crate::image::hex(&hash.finalize())
    }

    fn start(&self, log: &Log) -> Result<()> {
        refuse_taken_ports()?;
        let dir = self.dir();
        for folder in ["pki", "log", "etcd", "manifests", "cni", "run", "kubelet", "plugins", "pod-logs", "imported"] {
            std::fs::create_dir_all(dir.join(folder))?;
        }
        clean::prepare_host(&dir, log)?;
        log.set_note("certificates");
        pki::write(&dir, log)?;
        config::write(&dir)?;
        self.start_programs(log, || {
            log.set_note("pause image");
            for image in [catalog::pause(&self.paths, log)?, catalog::coredns(&self.paths, log)?] {
                self.import(&image, log)?;
            }
            Ok(())
        })?;
        let kubectl = self.kubectl();
        log.set_note("waiting for CoreDNS");
        kubectl.apply(include_str!("../../assets/coredns.yaml"))?;
        kubectl.rollout("kube-system", "deployment/coredns")?;
        std::fs::write(dir.join("stamp"), self.stamp())?;
        log.set_note(format!("Kubernetes {}", crate::programs::KUBERNETES_VERSION));
        Ok(())
    }

    /// Cuts the node's power and gives it back: every process is killed at once, what they wrote stays, and the programs
    /// start again.
    pub fn power_cycle(&self, log: &Log) -> Result<()> {
        clean::cut_power(&self.paths, log)?;
        self.start_programs(log, || Ok(()))
    }

    /// Starts the node's programs in their order; `images` runs before the first that needs one.
    fn start_programs(&self, log: &Log, images: impl FnOnce() -> Result<()>) -> Result<()> {
        let start = |name: &str| process::start(&self.paths, name, log);
        start("etcd")?;
        start("kube-apiserver")?;
        log.set_note("waiting for the API server");
        let kubectl = self.kubectl();
        // The controller manager and the scheduler exit when their RBAC roles are missing: they start after `/readyz`.
        self.wait("the API server's /readyz", API_READY_SECONDS_MAX, || {
            process::all_alive(&self.dir(), &["etcd", "kube-apiserver"])?;
            kubectl.run(&["get", "--raw", "/readyz"]).map(|answer| answer == "ok")
        })?;
        start("kube-controller-manager")?;
        start("kube-scheduler")?;
        start("containerd")?;
        let socket = self.socket();
        self.wait("containerd's socket", SOCKET_SECONDS_MAX, || {
            Ok(self.ctr().arg("version").output()?.status.success())
        })
        .with_context(|| format!("no answer on {}", socket.display()))?;
        images()?;
        start("kubelet")?;
        start("kube-proxy")?;
        log.set_note("waiting for the node");
        let ready = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        self.wait("the node's condition Ready", NODE_READY_SECONDS_MAX, || {
            process::all_alive(&self.dir(), config::PROGRAMS)?;
            kubectl.run(&["get", "node", NODE_NAME, "-o", ready]).map(|status| status == "True")
        })?;
        self.wait("the ServiceAccount default", NODE_READY_SECONDS_MAX, || {
            kubectl.run(&["get", "serviceaccount", "default"]).map(|_| true)
        })
    }

    fn wait(&self, what: &str, seconds: u64, ready: impl FnMut() -> Result<bool>) -> Result<()> {
        wait_until(what, Duration::from_secs(seconds), Duration::from_millis(POLL_MILLIS), ready)
            .with_context(|| format!("the node's own logs are in {}", self.dir().join("log").display()))
    }

    fn socket(&self) -> PathBuf {
        self.dir().join("run/containerd.sock")
    }

    /// containerd's client in the kubelet's namespace.
    pub fn ctr(&self) -> Command {
        let mut ctr = Command::new(self.paths.program("ctr"));
        ctr.arg("-a").arg(self.socket()).args(["-n", "k8s.io"]);
        ctr
    }

    /// Loads an image unless this very image is loaded.
    pub fn import(&self, image: &Archive, log: &Log) -> Result<()> {
        let marker = self.dir().join("imported").join(&image.name);
        if std::fs::read_to_string(&marker).is_ok_and(|digest| digest == image.digest) {
            return Ok(());
        }
        log.run(self.ctr().args(["images", "import"]).arg(&image.path))?;
        std::fs::write(&marker, &image.digest)?;
        Ok(())
    }
}

/// After the clean-up nobody of ours listens: a taken port belongs to somebody else.
fn refuse_taken_ports() -> Result<()> {
    for port in PORTS {
        std::net::TcpListener::bind(("127.0.0.1", *port)).with_context(|| {
            format!(
                "port {port} is taken by a program that is not ours (`ss -ltnp sport = :{port}` names it); stop it, \
                 or use --kubeconfig with the cluster that runs here already"
            )
        })?;
    }
    Ok(())
}
