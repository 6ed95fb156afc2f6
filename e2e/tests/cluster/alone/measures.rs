//! What the operator costs, read from this machine and from metrics.

use super::status_field;
use crate::harness::cluster;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use testimony_e2e::install::OPERATOR_NAMESPACE;

/// Ticks of the kernel's clock in a second, as `/proc` counts.
const TICKS_PER_SECOND: f64 = 100.0;

/// One process of the operator.
#[derive(Clone, Debug)]
pub struct Usage {
    /// Its pod.
    pub pod: String,
    /// CPU time so far, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory now, in MiB.
    pub memory_mib: u32,
}

/// The process of a pod of the operator, seen from this machine.
pub fn operator_process(pod: &str) -> Result<u32> {
    let wanted = format!("POD_NAME={pod}");
    let processes = std::fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_it = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    let found = processes.into_iter().find(is_it);
    found.with_context(|| format!("{pod} does not run on this machine: this test needs the local cluster"))
}

/// Names of the pods of a component of the operator.
pub fn operator_pods(component: &str) -> Result<Vec<String>> {
    let label = format!("app.kubernetes.io/component={component}");
    let names = ["get", "pods", "-n", OPERATOR_NAMESPACE, "-l", &label, "-o", "jsonpath={.items[*].metadata.name}"];
    Ok(cluster().kubectl.run(&names)?.split_whitespace().map(str::to_string).collect())
}

/// What each process of a component has used.
pub fn usage(component: &str) -> Result<Vec<Usage>> {
    let pods = operator_pods(component)?;
    pods.into_iter()
        .map(|pod| {
            let pid = operator_process(&pod)?;
            let memory = status_field(&format!("/proc/{pid}/status").into(), "VmRSS:").context("no VmRSS")?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            Ok(Usage { pod, cpu_seconds: cpu_seconds(&stat).context("no CPU time")?, memory_mib: memory / 1024 })
        })
        .collect()
}

/// User and system time of a line of `/proc/PID/stat`.
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The name, in parentheses, may hold anything; the times are fields 14 and 15, counted from 1.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11).map(str::parse::<f64>);
    Some((fields.next()?.ok()? + fields.next()?.ok()?) / TICKS_PER_SECOND)
}

/// A histogram: how many values are at most so many seconds.
#[derive(Clone, Debug, Default)]
pub struct Histogram(Vec<(f64, f64)>);

impl Histogram {
    /// From a page of metrics: the sum of all series of `name` whose labels hold `label`.
    pub fn parse(page: &str, name: &str, label: &str) -> Self {
        let mut buckets: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
        let prefix = format!("{name}_bucket{{");
        for line in page.lines().filter(|line| line.starts_with(&prefix) && line.contains(label)) {
            let le = line.split_once("le=\"").and_then(|(_, rest)| rest.split('"').next());
            let le = le.and_then(|le| if le == "+Inf" { Some(f64::INFINITY) } else { le.parse().ok() });
            let count = line.split_once("} ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<f64>().ok());
            if let (Some(le), Some(count)) = (le, count) {
                buckets.entry(le.to_bits()).or_insert((le, 0.0)).1 += count;
            }
        }
        // Positive numbers are ordered as their bits are.
        Self(buckets.into_values().collect())
    }

    /// What came since an earlier look.
    pub fn since(&self, before: &Self) -> Self {
        let earlier = |le: f64| before.0.iter().find(|(at, _)| *at == le).map_or(0.0, |(_, count)| *count);
        Self(self.0.iter().map(|(le, count)| (*le, count - earlier(*le))).collect())
    }

    /// The sum of two.
    pub fn and(&self, other: &Self) -> Self {
        if self.0.is_empty() {
            return other.clone();
        }
        let more = |le: f64| other.0.iter().find(|(at, _)| *at == le).map_or(0.0, |(_, count)| *count);
        Self(self.0.iter().map(|(le, count)| (*le, count + more(*le))).collect())
    }

    /// How many values there are.
    pub fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// Milliseconds below which this share of the values is, between the borders of a bucket by proportion.
    pub fn quantile_millis(&self, share: f64) -> f64 {
        let wanted = self.count() * share;
        let (mut lower, mut below) = (0.0, 0.0);
        for (le, count) in &self.0 {
            if *count >= wanted && *count > below {
                let upper = if le.is_finite() { *le } else { lower };
                return (lower + (upper - lower) * (wanted - below) / (count - below)) * 1000.0;
            }
            (lower, below) = (*le, *count);
        }
        f64::NAN
    }
}

/// A page of metrics of a pod of the operator.
fn metrics(pod: &str) -> Result<String> {
    let path = format!("/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{pod}:8080/proxy/metrics");
    cluster().kubectl.run(&["get", "--raw", &path])
}

/// The webhook's own histogram, over all its replicas: from a decoded review to an encoded answer.
pub fn of_the_webhook() -> Result<Histogram> {
    let mut sum = Histogram::default();
    for pod in operator_pods("webhook")? {
        sum = sum.and(&Histogram::parse(&metrics(&pod)?, "testimony_operator_admission_seconds", ""));
    }
    Ok(sum)
}

/// When the leaf of each pod of a component ends, in seconds since the epoch.
pub fn leaf_ends(component: &str) -> Result<BTreeMap<String, u64>> {
    let pods = operator_pods(component)?;
    pods.into_iter()
        .map(|pod| {
            let page = metrics(&pod)?;
            let name = "testimony_operator_certificate_not_after{certificate=\"leaf\"} ";
            let end = page.lines().find_map(|line| line.strip_prefix(name)?.parse().ok());
            Ok((pod.clone(), end.with_context(|| format!("{pod} has no leaf"))?))
        })
        .collect()
}

/// What the API server saw: from the review sent to its answer.
pub fn of_the_api_server(entry: &str) -> Result<Histogram> {
    let page = cluster().kubectl.run(&["get", "--raw", "/metrics"])?;
    let name = "apiserver_admission_webhook_admission_duration_seconds";
    Ok(Histogram::parse(&page, name, &format!("name=\"{entry}\"")))
}

/// The value below which this share of sorted values is.
pub fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len().saturating_sub(1) as f64 * share).round() as usize;
    values.get(at).copied().unwrap_or(f64::NAN)
}

#[test]
fn figures_are_read_as_they_are_written() {
    let page = "# TYPE a histogram\na_bucket{name=\"x\",le=\"0.1\"} 50\na_bucket{name=\"x\",le=\"0.2\"} 90 # {} 0.1\n\
                a_bucket{name=\"x\",le=\"+Inf\"} 100\na_bucket{name=\"y\",le=\"0.1\"} 7\na_count{name=\"x\"} 100\n";
    let histogram = Histogram::parse(page, "a", "name=\"x\"");
    assert_eq!(histogram.count(), 100.0);
    assert_eq!(histogram.quantile_millis(0.5).round(), 100.0);
    assert_eq!(histogram.quantile_millis(0.7).round(), 150.0);
    assert_eq!(histogram.quantile_millis(0.99).round(), 200.0, "what is beyond the last border is at least that");
    assert_eq!(histogram.since(&histogram).count(), 0.0);
    assert_eq!(histogram.and(&histogram).count(), 200.0);
    assert_eq!(cpu_seconds("12 (a) b) S 1 1 1 0 -1 0 0 0 0 0 150 50 0 0 20"), Some(2.0));
    assert_eq!(quantile(vec![3.0, 1.0, 2.0], 0.5), 2.0);
}
