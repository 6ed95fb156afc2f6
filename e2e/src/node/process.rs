//! The node's processes: started with a mark in their environment, found again by it.

use super::config;
use crate::paths::Paths;
use crate::steps::{Log, tail};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The mark: environment variable with the node's folder, inherited by whatever a program of the node starts.
pub const NODE_ENV: &str = "TESTIMONY_NODE_DIR";
const PROGRAM_ENV: &str = "TESTIMONY_NODE_PROGRAM";
const LOG_TAIL_LINES: usize = 15;

/// Starts one of the node's programs in the background.
pub fn start(paths: &Paths, name: &str, log: &Log) -> Result<()> {
    let dir = paths.node();
    let file = File::create(dir.join("log").join(format!("{name}.log")))?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(paths.program(name));
    command
        .args(config::arguments(name, &dir))
        .current_dir(&dir)
        .env("PATH", format!("{}:{path}", paths.bin().display()))
        .env(NODE_ENV, &dir)
        .env(PROGRAM_ENV, name)
        // What the caller's shell holds is no business of a cluster.
        .env_remove("KUBECONFIG")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        // A group of its own: Ctrl-C in the terminal ends xtask, not the node.
        .process_group(0);
    let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    log.line(&format!("{name} started as process {}", child.id()));
    Ok(())
}

/// A process that belongs to a node.
#[derive(Debug)]
pub struct Owned {
    /// Process id.
    pub pid: i32,
    /// The program that it was started as, or inherits from; empty for a container's process.
    pub program: String,
    /// A direct child of xtask, not of one of the node's programs.
    leader: bool,
}

/// All processes of the node in `dir`: those that carry the mark, and those whose root is a container's file system
/// below `dir`.
pub fn owned(dir: &Path) -> Vec<Owned> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()));
    pids.filter_map(|pid| classify(dir, pid)).collect()
}

fn classify(dir: &Path, pid: i32) -> Option<Owned> {
    let process = Path::new("/proc").join(pid.to_string());
    if pid == i32::try_from(std::process::id()).ok()? || has_ended(&process) {
        return None;
    }
    // An unreadable file belongs to a process that has just ended.
    let environ = std::fs::read(process.join("environ")).unwrap_or_default();
    if variable(&environ, NODE_ENV).is_some_and(|value| Path::new(&value) == dir) {
        let program = variable(&environ, PROGRAM_ENV).unwrap_or_default();
        let command = std::fs::read_link(process.join("exe")).unwrap_or_default();
        let leader = command.file_name().is_some_and(|name| name.to_string_lossy() == program);
        return Some(Owned { pid, program, leader });
    }
    let mounts = std::fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
    root_is_below(&mounts, dir).then(|| Owned { pid, program: String::new(), leader: false })
}

/// Whether a process (its folder in /proc) has ended, with all its threads, and at most waits to be collected.
pub fn has_ended(process: &Path) -> bool {
    let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
    // The state stands behind the command name, which is in brackets and may itself hold brackets.
    let first_has_ended = stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'));
    // The first thread may have ended before the others: as long as one is left, ports and files are still held.
    first_has_ended && std::fs::read_dir(process.join("task")).map_or(0, Iterator::count) <= 1
}

fn variable(environ: &[u8], name: &str) -> Option<String> {
    let prefix = format!("{name}=");
    let mut entries = environ.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    entries.find_map(|entry| entry.strip_prefix(&prefix).map(str::to_string))
}

/// Whether the root mount is an overlay whose upper folder stands below `dir`. The host's own list names the containers'
/// mounts too, so only the root's line counts.
fn root_is_below(mountinfo: &str, dir: &Path) -> bool {
    let upper = format!("upperdir={}/", dir.display());
    mountinfo.lines().any(|line| line.split(' ').nth(4) == Some("/") && line.contains(&upper))
}

/// Names of the node's programs that run.
pub fn running_programs(dir: &Path) -> Vec<String> {
    owned(dir).into_iter().filter(|process| process.leader).map(|process| process.program).collect()
}

/// Fails with the log of one of these programs that has ended.
pub fn all_alive(dir: &Path, programs: &[&str]) -> Result<()> {
    let running = running_programs(dir);
    for name in programs {
        if !running.contains(&(*name).to_string()) {
            let log = dir.join("log").join(format!("{name}.log"));
            bail!("{name} has ended; the last lines of {}:\n{}", log.display(), tail(&log, LOG_TAIL_LINES));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_told_by_its_root_alone() {
        let dir = Path::new("/c/cluster");
        let overlay = "overlay rw,lowerdir=/c/cluster/x/1/fs,upperdir=/c/cluster/x/2/fs,workdir=/c/cluster/x/2/work";
        let container = format!("9 8 0:1 / / rw,relatime - overlay {overlay}\n");
        let host =
            format!("1 0 8:1 / / rw - ext4 /dev/vda rw\n9 1 0:1 / /c/cluster/run/rootfs rw - overlay {overlay}\n");
        assert!(root_is_below(&container, dir));
        assert!(!root_is_below(&host, dir));
        assert!(!root_is_below(&container, Path::new("/c/clu")));
    }

    #[test]
    fn a_process_has_ended_when_all_its_threads_have() {
        let process = std::env::temp_dir().join(format!("testimony-process-{}", std::process::id()));
        let shown = |state: &str, threads: usize| {
            for thread in 0..threads {
                std::fs::create_dir_all(process.join(format!("task/{thread}"))).expect("a folder");
            }
            std::fs::write(process.join("stat"), format!("7 (a) Z) {state} 1 7 7")).expect("a file");
            let ended = has_ended(&process);
            std::fs::remove_dir_all(&process).expect("it goes");
            ended
        };
        assert!(!shown("S", 1), "its name says nothing");
        assert!(!shown("Z", 2), "one goes on, and may hold a port");
        assert!(shown("Z", 1));
        assert!(has_ended(&process), "nobody waits for it any more");
    }

    #[test]
    fn the_mark_is_read_whole() {
        let environ = b"A=1\0TESTIMONY_NODE_DIR=/c/cluster\0B=2\0";
        assert_eq!(variable(environ, NODE_ENV).as_deref(), Some("/c/cluster"));
        assert_eq!(variable(b"XTESTIMONY_NODE_DIR=/c\0", NODE_ENV), None);
    }
}
