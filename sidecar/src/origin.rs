//! Whose streams this process makes (S1, S2).

use crate::config::Config;
use crate::data::Random;
use testimony_core::evidence::seal::Origin;

/// Longest part of a stream's name: that of a namespace.
const NAME_PART_MAX: usize = 63;

/// As the configuration says it; each data thread adds its number, and the spool what it found.
pub fn of(config: &Config) -> Origin {
    let workload = &config.workload;
    if workload.cluster_uid.is_none() {
        tracing::warn!("the cluster's uid is not known; streams are named `unknown/...`");
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Origin {
        cluster_uid: name_part(workload.cluster_uid.as_deref()),
        namespace: name_part(workload.namespace.as_deref()),
        pod_uid: name_part(workload.pod_uid.as_deref()),
        boot: Random::default().next_u128(),
        thread: 0,
        pod: text(&workload.pod_name),
        node: text(&workload.node),
        image: text(&config.image),
        service_account: text(&workload.service_account),
        found: Vec::new(),
        witness: false,
    }
}

/// A part of a stream's name: what cannot stand there becomes a hyphen, what is not known `unknown`.
fn name_part(value: Option<&str>) -> String {
    let kept = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-') { c } else { '-' };
    let part: String = value.unwrap_or("unknown").to_ascii_lowercase().chars().map(kept).take(NAME_PART_MAX).collect();
    if part.is_empty() { "unknown".to_owned() } else { part }
}
