//! Panics of the product on the cluster. Its containers start again, and whoever waits for them goes on: only their logs tell.

use crate::kube::Kubectl;
use anyhow::{Result, ensure};
use serde_json::Value;

/// What every panic says.
const PANIC: &str = "panicked at ";
/// Lines of one panic that are shown: where it was, and what it said.
const PANIC_LINES: usize = 2;

/// A part of the product.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Selects its pods.
    selector: &'static str,
    /// Its containers in them; empty: all.
    containers: &'static [&'static str],
}

/// The operator, in its namespace.
pub const OPERATOR: Part = Part { selector: "app.kubernetes.io/name=testimony", containers: &[] };
/// What was injected into the pods of a namespace.
pub const SIDECARS: Part =
    Part { selector: "testimony.dev/injected", containers: &["testimony-init", "testimony-sidecar"] };

/// Fails if something of `part` panicked in a pod that is there, in the container that runs or in the one before it.
pub fn expect_none(kubectl: &Kubectl, namespace: &str, part: Part) -> Result<()> {
    let pods = kubectl.get(namespace, &["pods", "-l", part.selector])?;
    let (begun, again) = part.begun(&pods);
    let mut found = Vec::new();
    for (is_there, previous) in [(begun, "--previous=false"), (again, "--previous=true")] {
        if is_there {
            // A container that has not begun, has no predecessor or is gone meanwhile is an error; the others are read.
            let how = ["--all-containers", "--prefix", "--ignore-errors", "--tail=-1", previous];
            found.extend(
                part.panics(&kubectl.run(&[&["logs", "-n", namespace, "-l", part.selector], &how[..]].concat())?),
            );
        }
    }
    ensure!(found.is_empty(), "the product panicked in {namespace}:\n{}", found.join("\n"));
    Ok(())
}

impl Part {
    fn has(&self, container: &str) -> bool {
        self.containers.is_empty() || self.containers.contains(&container)
    }

    /// Whether one of its containers has begun, and whether one has begun again.
    fn begun(&self, pods: &Value) -> (bool, bool) {
        let pods = pods.get("items").and_then(Value::as_array);
        let lists = pods.into_iter().flatten().flat_map(|pod| {
            ["/status/initContainerStatuses", "/status/containerStatuses"].map(|list| pod.pointer(list))
        });
        let own = lists
            .flatten()
            .filter_map(Value::as_array)
            .flatten()
            .filter(|status| status.get("name").and_then(Value::as_str).is_some_and(|name| self.has(name)));
        own.fold((false, false), |(begun, again), status| {
            let is_there = |path| status.pointer(path).is_some_and(|state| !state.is_null());
            let is_again = is_there("/lastState/terminated")
                || status.get("restartCount").and_then(Value::as_u64).is_some_and(|count| count > 0);
            let has_begun = is_again || is_there("/state/running") || is_there("/state/terminated");
            (begun || has_begun, again || is_again)
        })
    }

    /// The panics among lines of `kubectl logs --prefix`, `[pod/NAME/CONTAINER] LINE`.
    fn panics(&self, logs: &str) -> Vec<String> {
        let lines: Vec<&str> = logs.lines().collect();
        let is_own = |line: &str| {
            let said = line.find(PANIC)?;
            // The last one before it: a container whose log ends within a line has the next one's prefix behind it.
            let (_, prefix) = line.get(..said)?.rsplit_once("[pod/")?;
            let (container, _) = prefix.split_once('/')?.1.split_once("] ")?;
            Some(self.has(container))
        };
        let at = (0..lines.len()).filter(|at| is_own(lines[*at]) == Some(true));
        at.map(|at| lines.iter().skip(at).take(PANIC_LINES).copied().collect::<Vec<_>>().join("\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use testimony_core::contract::{label, pod};

    #[test]
    fn sidecars_are_found_by_what_injection_adds() {
        assert_eq!(SIDECARS.selector, label::INJECTED);
        assert_eq!(SIDECARS.containers, [pod::INIT_CONTAINER, pod::SIDECAR_CONTAINER]);
    }

    #[test]
    fn logs_are_read_of_what_has_begun_and_of_what_began_again() {
        let running = json!({"running": {"startedAt": "2030-01-01T00:00:00Z"}});
        let waiting = json!({"waiting": {"reason": "PodInitializing"}});
        let ended = json!({"terminated": {"exitCode": 0}});
        let status =
            |name: &str, state: &Value, restarts: u32| json!({"name": name, "state": state, "restartCount": restarts});
        let pods = |init: Value, others: Value| json!({"items": [{"status": {}}, {"status": {"initContainerStatuses": init, "containerStatuses": others}}]});
        for (pods, of_sidecars, of_operator) in [
            (json!({"items": []}), (false, false), (false, false)),
            (json!({"items": [{"status": {"phase": "Running"}}]}), (false, false), (false, false)),
            (pods(json!([status("testimony-init", &waiting, 0)]), json!([])), (false, false), (false, false)),
            (pods(json!([status("testimony-init", &ended, 0)]), json!([])), (true, false), (true, false)),
            (pods(json!([status("testimony-sidecar", &running, 0)]), json!([])), (true, false), (true, false)),
            (pods(json!([status("testimony-sidecar", &waiting, 3)]), json!([])), (true, true), (true, true)),
            (pods(json!([]), json!([status("server", &running, 2)])), (false, false), (true, true)),
        ] {
            assert_eq!(SIDECARS.begun(&pods), of_sidecars, "{pods}");
            assert_eq!(OPERATOR.begun(&pods), of_operator, "{pods}");
        }
        let last = json!({"items": [{"status": {"containerStatuses": [
            {"name": "testimony-sidecar", "state": waiting, "lastState": ended}]}}]});
        assert_eq!(SIDECARS.begun(&last), (true, true));
    }

    #[test]
    fn a_panic_of_the_product_is_found_in_the_logs_and_one_of_an_application_is_not() {
        let panic = "thread 'data-0' (7) panicked at sidecar/src/a.rs:1:2:";
        let own =
            format!("[pod/server-1/testimony-sidecar] {panic}\n[pod/server-1/testimony-sidecar] index out of bounds");
        let cut = format!("[pod/server-1/server] ends within a line[pod/server-1/testimony-init] {panic}");
        let others = format!(
            "[pod/server-1/server] {panic}\nerror: container \"x\" is waiting to start: PodInitializing\n{panic}"
        );
        for (logs, of_sidecars, of_operator) in [
            ("", 0, 0),
            ("[pod/server-1/testimony-sidecar] ready", 0, 0),
            (&own, 1, 1),
            (&cut, 1, 1),
            (&others, 0, 1),
            (&[others.as_str(), &own, "[pod/a/testimony-sidecar] ready", &cut].join("\n"), 2, 3),
        ] {
            assert_eq!(SIDECARS.panics(logs).len(), of_sidecars, "{logs}");
            assert_eq!(OPERATOR.panics(logs).len(), of_operator, "{logs}");
        }
        assert_eq!(SIDECARS.panics(&format!("x\n{own}\ny")), [own]);
    }
}
