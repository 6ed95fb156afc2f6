//! Removes whatever a node left on this machine, in any state, and only that.
//!
//! What is ours is read from the machine: processes carry a mark or run on a root below the node's folder, mounts stand
//! below it, links have our names, iptables chains carry Kubernetes' prefix or our CNI network's name (a node is not
//! started while another Kubernetes holds the ports, so the prefix is ours).

use super::{CNI_NETWORK, NODE_IP, NODE_LINK, POD_LINK, firewall, process};
use crate::paths::Paths;
use crate::steps::{Log, output, output_with_input, wait_until};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PROCESSES_GONE_SECONDS_MAX: u64 = 60;
const FOLDER_GONE_SECONDS_MAX: u64 = 30;
const POLL_MILLIS: u64 = 100;

/// Settings of the machine that a node needs, with the value it needs.
const SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/bridge/bridge-nf-call-iptables", "1"),
    // Set by kube-proxy.
    ("net/ipv4/conf/all/route_localnet", ""),
];
const SYSCTLS_FILE: &str = "host-sysctls";

/// Makes the node's link and sets what the node needs; the values found are written down first.
pub fn prepare_host(dir: &Path, log: &Log) -> Result<()> {
    // The module is built in, or loaded already, or the bridge's own rules apply: all of them work.
    if let Err(error) = log.run(Command::new("modprobe").arg("br_netfilter")) {
        log.line(&format!("going on without: {error:#}"));
    }
    let found: String = SYSCTLS
        .iter()
        .filter_map(|(name, _)| Some(format!("{name}={}\n", std::fs::read_to_string(sysctl(name)).ok()?.trim())))
        .collect();
    std::fs::write(dir.join(SYSCTLS_FILE), found)?;
    for (name, value) in SYSCTLS.iter().filter(|(_, value)| !value.is_empty()) {
        if sysctl(name).exists() {
            std::fs::write(sysctl(name), value).with_context(|| format!("cannot set {name}"))?;
        }
    }
    log.run(Command::new("ip").args(["link", "add", NODE_LINK, "type", "bridge"]))?;
    log.run(Command::new("ip").args(["address", "replace", &format!("{NODE_IP}/32"), "dev", NODE_LINK]))?;
    log.run(Command::new("ip").args(["link", "set", NODE_LINK, "up"]))
}

fn sysctl(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

/// Removes everything of the node. Doing it twice is the same as doing it once.
pub fn clean(paths: &Paths, log: &Log) -> Result<()> {
    let dir = paths.node();
    log.set_note("stopping processes");
    kill(&dir, |_| true, log)?;
    log.set_note("removing mounts, links and rules");
    unmount(&dir, log)?;
    remove_links(log)?;
    for save in ["iptables-save", "ip6tables-save"] {
        remove_rules(save, is_ours, log)?;
    }
    firewall::remove_sets()?;
    restore_sysctls(&dir, log)?;
    remove_cgroups(log);
    remove_files(&dir)?;
    if dir.exists() {
        // A container's last process may hold a folder for a moment.
        let gone = Duration::from_secs(FOLDER_GONE_SECONDS_MAX);
        wait_until("removing the node's folder", gone, Duration::from_millis(POLL_MILLIS), || {
            unmount(&dir, log)?;
            std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
            Ok(true)
        })?;
    }
    log.set_note("");
    Ok(())
}

/// Ends the firewall, and removes its rules and sets alone.
pub fn remove_firewall(dir: &Path, log: &Log) -> Result<()> {
    let of_firewall = |process: &process::Owned| process.program == firewall::NAME;
    kill(dir, of_firewall, log)?;
    remove_rules("iptables-save", |chain, _| firewall::is_chain(chain), log)?;
    firewall::remove_sets()
}

/// Ends all that a power cut would end: processes, their mounts, the pods' cables. Files stay.
pub fn cut_power(paths: &Paths, log: &Log) -> Result<()> {
    let dir = paths.node();
    log.set_note("cutting the power");
    kill(&dir, |_| true, log)?;
    unmount(&dir, log)
}

/// Kills at once: what a program would tidy at its end is removed here in any case.
fn kill(dir: &Path, which: impl Fn(&process::Owned) -> bool, log: &Log) -> Result<()> {
    let gone = Duration::from_secs(PROCESSES_GONE_SECONDS_MAX);
    // A process that is ending has no mark any more while it may still hold its ports: it is known by its id.
    let mut ending = BTreeSet::new();
    wait_until("the end of the node's processes", gone, Duration::from_millis(POLL_MILLIS), || {
        let owned: Vec<_> = process::owned(dir).into_iter().filter(&which).collect();
        for process in &owned {
            log.line(&format!("kill {} {}", process.pid, process.program));
            // SAFETY: kill has no memory effects. The process may have ended meanwhile, which is what is wanted.
            unsafe { libc::kill(process.pid, libc::SIGKILL) };
            ending.insert(process.pid);
        }
        ending.retain(|pid| !process::has_ended(&Path::new("/proc").join(pid.to_string())));
        Ok(owned.is_empty() && ending.is_empty())
    })
}

/// Mount points below `dir`, the last mounted first.
fn mounts_below(mountinfo: &str, dir: &Path) -> Vec<String> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let mut points: Vec<String> = points.filter(|point| Path::new(point).starts_with(dir)).collect();
    points.reverse();
    points
}

/// The kernel writes space, tab, newline and backslash in octal.
fn unescape(point: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(point.to_string(), |text, (escaped, plain)| text.replace(escaped, plain))
}

fn unmount(dir: &Path, log: &Log) -> Result<()> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo")?;
    for point in mounts_below(&mountinfo, dir) {
        if let Err(error) = log.run(Command::new("umount").args(["--lazy", "--no-canonicalize", "--"]).arg(&point)) {
            // A mount inside another that has just been detached is gone with it.
            log.line(&format!("{error:#}"));
        }
    }
    let left = mounts_below(&std::fs::read_to_string("/proc/self/mountinfo")?, dir);
    ensure!(left.is_empty(), "still mounted: {}", left.join(", "));
    Ok(())
}

fn remove_links(log: &Log) -> Result<()> {
    let net = Path::new("/sys/class/net");
    // The host's ends of the pods' cables hang on the pods' bridge; they go a moment after the pods' namespaces.
    let ports = std::fs::read_dir(net.join(POD_LINK).join("brif")).into_iter().flatten().flatten();
    let ports: Vec<String> = ports.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    for link in ports.iter().map(String::as_str).chain([POD_LINK, NODE_LINK]) {
        if net.join(link).exists()
            && let Err(error) = log.run(Command::new("ip").args(["link", "delete", link]))
        {
            ensure!(!net.join(link).exists(), error);
        }
    }
    Ok(())
}

fn remove_rules(save: &str, is_ours: impl Fn(&str, &[&str]) -> bool, log: &Log) -> Result<()> {
    // Without the program no node ever ran here.
    let Ok(rules) = output(&mut Command::new(save)) else { return Ok(()) };
    let Some(script) = removal_script(&rules, is_ours) else { return Ok(()) };
    log.line(&script);
    let restore = save.replace("-save", "-restore");
    output_with_input(Command::new(restore).args(["--noflush", "-w", "10"]), script.as_bytes())?;
    Ok(())
}

/// What to give to `iptables-restore --noflush` so that chains that are ours, and the rules that lead into them, go.
fn removal_script(save: &str, is_ours: impl Fn(&str, &[&str]) -> bool) -> Option<String> {
    let mut script = String::new();
    for table in save.split("\n*").map(|table| table.trim_start_matches('*')) {
        // The first piece may be a comment only.
        let Some(name) = table.lines().next().filter(|name| !name.starts_with('#') && !name.is_empty()) else {
            continue;
        };
        let rules: Vec<&str> = table.lines().filter(|line| line.starts_with("-A ")).collect();
        let chains: BTreeSet<&str> = table
            .lines()
            .filter_map(|line| line.strip_prefix(':')?.split(' ').next())
            .filter(|chain| is_ours(chain, &rules))
            .collect();
        if chains.is_empty() {
            continue;
        }
        script.push_str(&format!("*{name}\n"));
        for rule in &rules {
            let mut words = rule.split(' ');
            let from = words.nth(1).unwrap_or_default();
            if !chains.contains(from) && target(rule).is_some_and(|target| chains.contains(target)) {
                script.push_str(&format!("-D{}\n", rule.trim_start_matches("-A")));
            }
        }
        chains.iter().for_each(|chain| script.push_str(&format!("-F {chain}\n")));
        chains.iter().for_each(|chain| script.push_str(&format!("-X {chain}\n")));
        script.push_str("COMMIT\n");
    }
    (!script.is_empty()).then_some(script)
}

fn target(rule: &str) -> Option<&str> {
    let mut words = rule.split(' ');
    words.find(|word| matches!(*word, "-j" | "-g"))?;
    words.next()
}

fn is_ours(chain: &str, rules: &[&str]) -> bool {
    if chain.starts_with("KUBE-") {
        return true;
    }
    let named = format!("name: \\\"{CNI_NETWORK}\\\"");
    chain.starts_with("CNI-") && rules.iter().any(|rule| rule.contains(&named) && target(rule) == Some(chain))
}

fn restore_sysctls(dir: &Path, log: &Log) -> Result<()> {
    let found = std::fs::read_to_string(dir.join(SYSCTLS_FILE)).unwrap_or_default();
    for (name, value) in found.lines().filter_map(|line| line.split_once('=')) {
        log.line(&format!("{name} = {value}"));
        std::fs::write(sysctl(name), value).with_context(|| format!("cannot set {name} back to {value}"))?;
    }
    Ok(())
}

/// Removes the pods' cgroups, in either version; only empty ones can be removed.
fn remove_cgroups(log: &Log) {
    let root = Path::new("/sys/fs/cgroup");
    let controllers = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    for top in controllers.chain([root.to_path_buf()]) {
        remove_cgroup(&top.join("kubepods"), log);
    }
}

fn remove_cgroup(cgroup: &Path, log: &Log) {
    for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path(), log);
        }
    }
    if cgroup.is_dir()
        && let Err(error) = std::fs::remove_dir(cgroup)
    {
        log.line(&format!("{}: {error}", cgroup.display()));
    }
}

/// Files that the programs write to fixed places.
fn remove_files(dir: &Path) -> Result<()> {
    let results = Path::new("/var/lib/cni/results");
    for entry in std::fs::read_dir(results).into_iter().flatten().flatten() {
        // A cached result names the network namespace, and ours stand below the node's folder.
        let namespace = format!("\"netns\":\"{}/", dir.display());
        if std::fs::read_to_string(entry.path()).is_ok_and(|result| result.contains(&namespace)) {
            std::fs::remove_file(entry.path())?;
        }
    }
    let links = Path::new("/var/log/containers");
    for entry in std::fs::read_dir(links).into_iter().flatten().flatten() {
        if std::fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(dir)) {
            std::fs::remove_file(entry.path())?;
        }
    }
    if !runs("kubelet") {
        // The kubelet puts this socket here whatever its own folder is.
        remove_if_there(Path::new("/var/lib/kubelet/device-plugins/kubelet.sock"))?;
    }
    if !runs("containerd") {
        for entry in std::fs::read_dir("/run/containerd/s").into_iter().flatten().flatten() {
            std::fs::remove_file(entry.path())?;
        }
    }
    // Only empty folders are removed.
    for folder in [
        "/var/lib/cni/results",
        "/var/lib/cni",
        "/var/lib/kubelet/device-plugins",
        "/var/lib/kubelet",
        "/var/log/containers",
        "/run/containerd/s",
        "/run/containerd",
    ] {
        let _ = std::fs::remove_dir(folder);
    }
    Ok(())
}

fn remove_if_there(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// Whether a program whose name begins so runs; the node's own have ended by then.
fn runs(name: &str) -> bool {
    std::fs::read_dir("/proc").into_iter().flatten().flatten().any(|entry| {
        std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.starts_with(name))
            && !process::has_ended(&entry.path())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_the_node_go_and_others_stay() {
        let save = r#"# Generated by iptables-save
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-aaa - [0:0]
:CNI-other - [0:0]
:DOCKER - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SEP-X - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -j DOCKER
-A POSTROUTING -s 10.244.0.2/32 -m comment --comment "name: \"testimony\" id: \"1\"" -j CNI-aaa
-A POSTROUTING -s 10.88.0.2/32 -m comment --comment "name: \"podman\" id: \"2\"" -j CNI-other
-A CNI-aaa ! -d 224.0.0.0/4 -m comment --comment "name: \"testimony\" id: \"1\"" -j MASQUERADE
-A KUBE-SERVICES -j KUBE-SEP-X
COMMIT
*filter
:INPUT ACCEPT [0:0]
-A INPUT -j ACCEPT
COMMIT
"#;
        let script = removal_script(save, is_ours).unwrap_or_default();
        let expected = "*nat\n\
            -D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
            -D POSTROUTING -s 10.244.0.2/32 -m comment --comment \"name: \\\"testimony\\\" id: \\\"1\\\"\" -j CNI-aaa\n\
            -F CNI-aaa\n-F KUBE-SEP-X\n-F KUBE-SERVICES\n-X CNI-aaa\n-X KUBE-SEP-X\n-X KUBE-SERVICES\nCOMMIT\n";
        assert_eq!(script, expected);
        assert_eq!(removal_script("# nothing\n*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n", is_ours), None);
    }

    #[test]
    fn mounts_are_undone_from_the_innermost_outwards() {
        let info = "1 0 8:1 / / rw - ext4 d rw\n2 1 0:1 / /c/cluster/a rw - tmpfs t rw\n\
                    3 2 0:1 / /c/cluster/a/b\\040c rw - tmpfs t rw\n4 1 0:1 / /c/cluster2 rw - tmpfs t rw\n";
        assert_eq!(mounts_below(info, Path::new("/c/cluster")), ["/c/cluster/a/b c", "/c/cluster/a"]);
    }
}
