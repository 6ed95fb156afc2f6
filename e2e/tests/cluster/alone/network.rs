//! The chart's NetworkPolicies where something enforces them.

use super::alone;
use super::chart::{new_pods_are_audited, roll_back};
use crate::harness::{Space, cluster, eventually, single};
use crate::objects::{audited, edited, in_force, text};
use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use testimony_core::contract::label::INJECTED;
use testimony_e2e::install::{BACKEND_ENDPOINT, OPERATOR_NAMESPACE, install_chart};
use testimony_e2e::node::{Firewall, Node};
use testimony_e2e::steps::Log;

/// How long rules may take from a pod's start to the firewall, in seconds.
const RULES_SECONDS_MAX: u64 = 60;

/// The operator's ports, by the component that has them.
const PORTS: [(&str, u16); 4] = [("controller", 8443), ("controller", 8080), ("webhook", 10250), ("webhook", 8080)];

/// Which of the operator's ports a pod can open a connection to.
fn reached(space: &Space, pod: &str) -> Result<BTreeMap<(&'static str, u16), bool>> {
    let mut reached = BTreeMap::new();
    for (component, port) in PORTS {
        let label = format!("app.kubernetes.io/component={component}");
        let list = cluster().kubectl.get(OPERATOR_NAMESPACE, &["pods", "-l", &label])?;
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        let running = pods.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect();
        let ip = text(&single(running)?, "/status/podIP");
        // How long it took to connect; zero where there was no connection. What is said over it is no matter here.
        let curl = "curl -s -o /dev/null --connect-timeout 2 --max-time 3 -w '%{time_connect}'";
        let seconds: f64 = space.sh(pod, &format!("{curl} http://{ip}:{port}/ || true"))?.trim().parse()?;
        reached.insert((component, port), seconds > 0.0);
    }
    Ok(reached)
}

fn only(open: &[(&'static str, u16)]) -> BTreeMap<(&'static str, u16), bool> {
    PORTS.iter().map(|port| (*port, open.contains(port))).collect()
}

#[test]
fn a_pod_outside_reaches_the_webhook_alone_and_everything_works() -> Result<()> {
    let _alone = alone();
    ensure!(cluster().is_local(), "this test needs the local cluster");
    let space = audited("network", "rules: []")?;
    space.policy("extra", "{podSelector: {matchLabels: {app: extra}}}")?;
    space.toolbox("outside", "{app: outside}")?;
    // As every pod with a sidecar: the label is what the policy names.
    space.toolbox("inside", &format!("{{app: inside, {INJECTED}: \"true\"}}"))?;
    ensure!(reached(&space, "outside")? == only(&PORTS), "without policies every port is open");

    install_chart(cluster(), BACKEND_ENDPOINT, &["networkPolicy.enabled=true"])?;
    let restored = super::strict::Restored;
    let log = Log::create(&cluster().paths.logs().join("firewall.log"))?;
    let node = Node::new(&cluster().paths);
    let firewall = Firewall::start(&node, &log)?;
    for (pod, open) in
        [("outside", &[("webhook", 10250)][..]), ("inside", &[("webhook", 10250), ("controller", 8443)][..])]
    {
        let mut last = BTreeMap::new();
        let waited = eventually("the policies to be enforced", RULES_SECONDS_MAX, || {
            firewall.check()?;
            last = reached(&space, pod)?;
            Ok(last == only(open))
        });
        ensure!(waited.is_ok(), "{pod} reaches {last:?}: {waited:?}");
    }

    // Admission, a sidecar's way to its policy, and the records' way: all through the firewall.
    new_pods_are_audited(&space)?;
    space.policy("audit", "{podSelector: {matchLabels: {app: server}}, rules: [{name: all, level: Metadata}]}")?;
    edited(&space, "audit", 1)?;

    drop(firewall);
    eventually("every port to be open again", RULES_SECONDS_MAX, || Ok(reached(&space, "outside")? == only(&PORTS)))?;
    roll_back()?;
    restored.by_the_test();
    in_force(&space, "audit", 1).map(drop)
}
