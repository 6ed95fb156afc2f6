//! A node that restarted, as a pod sees it: what its sidecar held in memory is gone, the spool's key with it, and what is on the
//! disk is there.

use super::{alone, sidecar_processes, supervisor};
use crate::harness::{OPERATOR_SECONDS_MAX, RECORD_SECONDS_MAX, Space, cluster, eventually, marker, single};
use crate::objects::{Sink, text};
use crate::sinks::{collector, get, paths, sending_to};
use crate::witness::{entries, uid};
use anyhow::Result;
use serde_json::json;
use std::process::Command;
use testimony_core::contract::path::SPOOL_KEY_DIR;
use testimony_e2e::steps::output;

/// Requests that wait in the spool when the node goes.
const REQUESTS: usize = 20;

#[test]
fn d5_after_a_node_s_restart_the_operator_opens_the_spool_and_everything_is_delivered() -> Result<()> {
    let _alone = alone();
    let space = Space::new("noderestart")?;
    collector(&space)?;
    let endpoint = format!("http://collector.{}.svc:4318", space.name);
    let sink = Sink::new(&space.name, &json!({"endpoint": endpoint}))?;
    sending_to(&space, &sink)?;
    get(&space, "/anything/first")?;
    sink.delivering("True", "1 of 1")?;
    let server = uid(&space, "server")?;

    cluster().kubectl.run(&["scale", "deployment/collector", "--replicas=0", "-n", &space.name])?;
    eventually("the collector to be gone", OPERATOR_SECONDS_MAX, || Ok(space.pods("collector")?.is_empty()))?;
    let wanted = marker();
    for i in 0..REQUESTS {
        get(&space, &format!("/anything/{wanted}/{i}"))?;
    }
    // Nothing is tried before it is durable.
    sink.delivering("False Failing", "1 of 1")?;
    let sidecar = supervisor(&sidecar_processes(&server)?)?;
    std::fs::remove_file(format!("/proc/{sidecar}/root{SPOOL_KEY_DIR}/spool.key"))?;
    output(Command::new("kill").args(["-KILL", &sidecar.to_string()]))?;
    eventually("the sidecar's container to start again", OPERATOR_SECONDS_MAX, || {
        let pod = single(space.pods("server")?)?;
        let sidecar = pod.pointer("/status/initContainerStatuses/1");
        let is = |field: &str, value| sidecar.and_then(|sidecar| sidecar.get(field)) == Some(&value);
        Ok(is("started", json!(true)) && is("restartCount", json!(1)))
    })?;

    eventually("the ledger to say to whom the spool was opened", OPERATOR_SECONDS_MAX, || {
        let told = entries("ledger-unwrap", &server)?;
        Ok(!told.is_empty() && told.iter().all(|entry| text(entry, "/pod") == server))
    })?;
    cluster().kubectl.run(&["scale", "deployment/collector", "--replicas=1", "-n", &space.name])?;
    cluster().kubectl.rollout(&space.name, "deployment/collector")?;
    eventually("what waited to be delivered", 2 * RECORD_SECONDS_MAX, || Ok(paths(&space, &wanted)?.len() == REQUESTS))
}
