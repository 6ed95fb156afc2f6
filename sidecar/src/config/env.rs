//! Configuration from the environment of an injected pod.

use super::check::{document_problems, log_filter, spool_bytes};
use super::{
    Config, ConfigError, DRAIN_DEFAULT, Listen, Listener, Operator, PolicySource, Problem, SpoolConfig, Target,
    Workload,
};
use crate::client::{Endpoint, tls_config};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use testimony_core::contract::{env, path, port};
use testimony_core::policy::{DOCUMENT_BYTES_MAX, PolicyDocument};

const INJECTED: &str = "the operator's webhook sets it: let the pod be made anew";

/// Environment variables; a parameter, so that a test passes a map.
pub trait Vars {
    /// The value of one variable.
    fn get(&self, name: &str) -> Option<String>;
}

/// The variables of this process. A value that is not UTF-8 counts as absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessVars;

/// Collects values and problems.
struct Reader<'a> {
    vars: &'a dyn Vars,
    problems: Vec<Problem>,
}

/// Reads the environment that the operator's webhook writes ([`testimony_core::contract::env`]).
///
/// # Errors
/// Every variable that is missing or wrong, at once.
pub fn from_env(vars: &dyn Vars) -> Result<Config, ConfigError> {
    let mut reader = Reader { vars, problems: Vec::new() };
    let workload = reader.workload();
    let pod_ips = reader.addresses(env::POD_IPS);
    if pod_ips.is_empty() && !reader.names(env::POD_IPS) {
        reader.problems.push(Problem::about(env::POD_IPS, "is missing", INJECTED));
    }
    let host_ips = reader.addresses(env::HOST_IPS);
    let policy = reader.policy();
    let operator = reader.operator();
    let image = reader.optional(env::IMAGE);
    let log = reader.optional(env::LOG).unwrap_or_else(|| "info".to_owned());
    log_filter(env::LOG, &log, &mut reader.problems);
    let spool = reader.spool();
    match policy {
        Some(policy) if reader.problems.is_empty() => Ok(Config {
            workload,
            image,
            listen: pod_listen(),
            pod_ips,
            host_ips,
            policy,
            policy_source: PolicySource::Environment,
            operator,
            state_dir: Some(PathBuf::from(path::STATE_DIR)),
            spool,
            sinks_dir: PathBuf::from(path::SINKS_DIR),
            sink_headers: BTreeMap::new(),
            data_threads: 1,
            drain: DRAIN_DEFAULT,
            log,
        }),
        _ => Err(ConfigError { problems: reader.problems }),
    }
}

/// The listeners of an injected pod: all on `[::]`, which takes IPv4 too.
fn pod_listen() -> Listen {
    let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let redirected = |port| Some(Listener { addr: any(port), target: Target::OriginalDestination });
    Listen { inbound: redirected(port::INBOUND), outbound: redirected(port::OUTBOUND), admin: any(port::ADMIN) }
}

// === impl Reader ===

impl Reader<'_> {
    fn optional(&self, name: &str) -> Option<String> {
        self.vars.get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn required(&mut self, name: &str) -> Option<String> {
        let value = self.optional(name);
        if value.is_none() {
            self.problems.push(Problem::about(name, "is missing", INJECTED));
        }
        value
    }

    fn flag(&mut self, name: &str) -> bool {
        match self.optional(name).as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                self.problems.push(Problem::of(name, other, "is neither true nor false", INJECTED));
                false
            }
        }
    }

    fn spool(&mut self) -> Option<SpoolConfig> {
        let text = self.optional(env::SPOOL_BYTES_MAX)?;
        let bytes_max = spool_bytes(env::SPOOL_BYTES_MAX, &text, &mut self.problems)?;
        Some(SpoolConfig { folder: path::SPOOL_DIR.into(), key_folder: path::SPOOL_KEY_DIR.into(), bytes_max })
    }

    fn names(&self, field: &str) -> bool {
        self.problems.iter().any(|problem| problem.field == field)
    }

    fn workload(&mut self) -> Workload {
        let namespace = self.required(env::POD_NAMESPACE);
        let pod_name = self.required(env::POD_NAME);
        let pod_uid = self.required(env::POD_UID);
        let name = self.optional(env::WORKLOAD_NAME);
        let service_name =
            self.optional(env::SERVICE_NAME).or_else(|| name.clone()).or_else(|| pod_name.clone()).unwrap_or_default();
        Workload {
            service_name,
            namespace,
            cluster_uid: self.optional(env::CLUSTER_UID),
            pod_name,
            pod_uid,
            node: self.optional(env::NODE_NAME),
            service_account: self.optional(env::SERVICE_ACCOUNT),
            kind: self.optional(env::WORKLOAD_KIND),
            name,
            container: self.optional(env::CONTAINER_NAME),
        }
    }

    fn addresses(&mut self, name: &str) -> Vec<IpAddr> {
        let Some(value) = self.optional(name) else { return Vec::new() };
        let mut addresses = Vec::new();
        for part in value.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => self.problems.push(Problem::of(
                    name,
                    part,
                    "is not an IP address",
                    "use addresses with commas between: 10.0.0.1,fd00::1",
                )),
            }
        }
        addresses
    }

    fn policy(&mut self) -> Option<PolicyDocument> {
        let text = self.required(env::POLICY)?;
        if text.len() > DOCUMENT_BYTES_MAX {
            self.problems.push(Problem::about(
                env::POLICY,
                format!("has {} bytes, more than {DOCUMENT_BYTES_MAX}", text.len()),
                "use fewer rules or smaller CA bundles",
            ));
            return None;
        }
        match serde_json::from_str::<PolicyDocument>(&text) {
            Ok(document) => {
                let problems = document_problems(env::POLICY, &document);
                let usable = problems.is_empty();
                self.problems.extend(problems);
                usable.then_some(document)
            }
            Err(error) => {
                self.problems.push(Problem::of(env::POLICY, &text, error.to_string(), INJECTED));
                None
            }
        }
    }

    /// The operator's variables come together or not at all.
    fn operator(&mut self) -> Option<Operator> {
        let url = self.optional(env::OPERATOR_URL)?;
        let ca_pem = self.required(env::OPERATOR_CA);
        let injection_id = self.required(env::INJECTION_ID);
        match Endpoint::parse(&url) {
            Ok(endpoint) if endpoint.is_https() => {}
            Ok(_) => self.problems.push(Problem::of(
                env::OPERATOR_URL,
                &url,
                "is not https: the token would be readable",
                "use https://NAME.NAMESPACE.svc:8443",
            )),
            Err(error) => self.problems.push(Problem::of(
                env::OPERATOR_URL,
                &url,
                error.to_string(),
                "use https://NAME.NAMESPACE.svc:8443",
            )),
        }
        let ca_pem = ca_pem?;
        if let Err(error) = tls_config(Some(&ca_pem)) {
            self.problems.push(Problem::about(
                env::OPERATOR_CA,
                error.to_string(),
                "give the PEM certificates of the operator's authority",
            ));
        }
        let awaited = self.flag(env::POLICY_WAIT);
        Some(Operator { url, ca_pem, token_file: PathBuf::from(path::TOKEN), injection_id: injection_id?, awaited })
    }
}

// === impl Vars ===

impl Vars for ProcessVars {
    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

impl Vars for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        BTreeMap::get(self, name).cloned()
    }
}
