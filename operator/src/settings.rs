//! Flags and environment variables, checked before any port is bound.

use crate::api::{Compression, Protocol};
use crate::certs::CertConfig;
use crate::inject::{ExcludedNamespaces, Resources, SidecarConfig};
use crate::witness::OutsideConfig;
use anyhow::bail;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;
use testimony_core::contract::port;
use testimony_core::evidence::note::Role;
use testimony_core::evidence::roots::NamedKey;
use testimony_core::quantity::Quantity;

/// Name of our entry in the MutatingWebhookConfiguration.
pub const WEBHOOK_ENTRY: &str = "inject.testimony.dev";

/// Name of our entry in the MutatingWebhookConfiguration of strict namespaces.
pub const STRICT_WEBHOOK_ENTRY: &str = "strict.inject.testimony.dev";

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object for each line.
    Json,
    /// For people.
    Text,
}

/// When the kubelet pulls the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum PullPolicy {
    /// At each start.
    Always,
    /// When the node lacks it.
    IfNotPresent,
    /// Never.
    Never,
}

/// How pods get their sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum InjectionMode {
    /// The operator's webhook adds it.
    Webhook,
    /// The API server adds it, by MutatingAdmissionPolicies that the controller keeps.
    AdmissionPolicy,
}

/// Settings of controller and webhook.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// The operator's own namespace: holds Secret and Lease, and is never audited.
    #[arg(long, env = "POD_NAMESPACE", value_parser = dns_label)]
    pub namespace: String,
    /// Name of this replica's pod; without it the leader is not labelled.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,
    /// Image of the sidecar; the webhook needs it.
    #[arg(long, env = "TESTIMONY_SIDECAR_IMAGE")]
    pub sidecar_image: Option<String>,
    /// Pull policy of that image; omitted: Kubernetes' default for its tag.
    #[arg(long, env = "TESTIMONY_SIDECAR_IMAGE_PULL_POLICY")]
    pub sidecar_image_pull_policy: Option<PullPolicy>,
    /// Run testimony-init as root, for images that lost the file capability on their way.
    #[arg(long, env = "TESTIMONY_INIT_RUN_AS_ROOT", num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    pub init_run_as_root: bool,
    /// Name of the MutatingWebhookConfiguration whose caBundle is kept.
    #[arg(long, env = "TESTIMONY_WEBHOOK_CONFIG_NAME", default_value = "testimony-default")]
    pub webhook_config_name: String,
    /// How pods get their sidecar.
    #[arg(long, env = "TESTIMONY_INJECTION_MODE", default_value = "Webhook")]
    pub injection_mode: InjectionMode,
    /// ClusterRole that owns the MutatingAdmissionPolicies, so that they go with it.
    #[arg(long, env = "TESTIMONY_INJECTION_OWNER")]
    pub injection_owner: Option<String>,
    /// Let the namespace label testimony.dev/enforcement: strict have its meaning.
    #[arg(long, env = "TESTIMONY_STRICT_NAMESPACES", num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    pub strict_namespaces: bool,
    /// Name of the MutatingWebhookConfiguration of strict namespaces, whose caBundle is kept.
    #[arg(long, env = "TESTIMONY_STRICT_WEBHOOK_CONFIG_NAME", default_value = "testimony-strict")]
    pub strict_webhook_config_name: String,
    /// A further namespace that is never touched; may be given more than once.
    #[arg(long = "exclude-namespace", env = "TESTIMONY_EXCLUDE_NAMESPACES", value_delimiter = ',', value_parser = dns_label)]
    pub exclude_namespaces: Vec<String>,
    /// Name of the webhook's Service.
    #[arg(long, env = "TESTIMONY_WEBHOOK_SERVICE", default_value = "testimony-webhook", value_parser = dns_label)]
    pub webhook_service: String,
    /// Name of the policy server's Service.
    #[arg(long, env = "TESTIMONY_POLICY_SERVICE", default_value = "testimony-policy", value_parser = dns_label)]
    pub policy_service: String,
    /// Name of the Secret that holds the certificate authority; made when absent.
    #[arg(long, env = "TESTIMONY_CA_SECRET", default_value = "testimony-ca")]
    pub ca_secret: String,
    /// Name of the Secret that holds the keys of ledger and witness; made when absent.
    #[arg(long, env = "TESTIMONY_WITNESS_SECRET", default_value = "testimony-witness")]
    pub witness_secret: String,
    /// Submission prefix of a C2SP witness outside of the cluster, which is shown the ledger's heads; omitted: none is.
    #[arg(long, env = "TESTIMONY_OUTSIDE_WITNESS_URL", value_parser = http_url, requires = "outside_witness_key")]
    pub outside_witness_url: Option<String>,
    /// That witness's verifier key, as C2SP writes it: NAME+ID+KEY.
    #[arg(long, env = "TESTIMONY_OUTSIDE_WITNESS_KEY", value_parser = witness_key, requires = "outside_witness_url")]
    pub outside_witness_key: Option<NamedKey>,
    /// PEM bundle that signs that witness's certificate.
    #[arg(long, env = "TESTIMONY_OUTSIDE_WITNESS_CA_BUNDLE", requires = "outside_witness_url")]
    pub outside_witness_ca_bundle: Option<String>,
    /// Time between two heads that it is shown, in seconds.
    #[arg(long, env = "TESTIMONY_OUTSIDE_WITNESS_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(5..=86_400))]
    pub outside_witness_seconds: u32,
    /// Copy the ledger's newest head into the ConfigMap testimony-ledger-head, at most so often, in seconds; 0: no copy.
    #[arg(long, env = "TESTIMONY_LEDGER_HEAD_COPY_SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub ledger_head_copy_seconds: u32,
    /// Folder in which that copy is kept as a file too, testimony-ledger-head.txt: of a volume from outside of the cluster.
    #[arg(long, env = "TESTIMONY_LEDGER_HEAD_COPY_FOLDER")]
    pub ledger_head_copy_folder: Option<PathBuf>,
    /// Name of the Lease of the leader election; made when absent.
    #[arg(long, env = "TESTIMONY_LEASE_NAME", default_value = "testimony-controller")]
    pub lease_name: String,
    /// Port of the webhook.
    #[arg(long, env = "TESTIMONY_WEBHOOK_PORT", default_value_t = port::WEBHOOK)]
    pub webhook_port: u16,
    /// Port of the policy server.
    #[arg(long, env = "TESTIMONY_POLICY_PORT", default_value_t = port::POLICY)]
    pub policy_port: u16,
    /// Port of /live, /ready and /metrics.
    #[arg(long, env = "TESTIMONY_ADMIN_PORT", default_value_t = port::OPERATOR_ADMIN)]
    pub admin_port: u16,
    /// CPU that each sidecar requests.
    #[arg(long, env = "TESTIMONY_SIDECAR_CPU_REQUEST", default_value = "20m", value_parser = quantity)]
    pub sidecar_cpu_request: String,
    /// CPU limit of each sidecar.
    #[arg(long, env = "TESTIMONY_SIDECAR_CPU_LIMIT", default_value = "1", value_parser = quantity)]
    pub sidecar_cpu_limit: String,
    /// Memory that each sidecar requests.
    #[arg(long, env = "TESTIMONY_SIDECAR_MEMORY_REQUEST", default_value = "32Mi", value_parser = quantity)]
    pub sidecar_memory_request: String,
    /// Memory limit of each sidecar.
    #[arg(long, env = "TESTIMONY_SIDECAR_MEMORY_LIMIT", default_value = "128Mi", value_parser = quantity)]
    pub sidecar_memory_limit: String,
    /// CPU that each testimony-init requests.
    #[arg(long, env = "TESTIMONY_INIT_CPU_REQUEST", default_value = "10m", value_parser = quantity)]
    pub init_cpu_request: String,
    /// CPU limit of each testimony-init.
    #[arg(long, env = "TESTIMONY_INIT_CPU_LIMIT", default_value = "200m", value_parser = quantity)]
    pub init_cpu_limit: String,
    /// Memory that each testimony-init requests.
    #[arg(long, env = "TESTIMONY_INIT_MEMORY_REQUEST", default_value = "16Mi", value_parser = quantity)]
    pub init_memory_request: String,
    /// Memory limit of each testimony-init.
    #[arg(long, env = "TESTIMONY_INIT_MEMORY_LIMIT", default_value = "32Mi", value_parser = quantity)]
    pub init_memory_limit: String,
    /// Log filter of the sidecars.
    #[arg(long, env = "TESTIMONY_SIDECAR_LOG", default_value = "info")]
    pub sidecar_log: String,
    /// Size of each sidecar's spool on disk in MiB, 32 or more; 0: records wait in memory.
    #[arg(long, env = "TESTIMONY_SIDECAR_SPOOL_MEBIBYTES", default_value_t = 256, value_parser = spool_mebibytes)]
    pub sidecar_spool_mebibytes: u32,
    /// Log filter of the operator.
    #[arg(long, env = "TESTIMONY_LOG", default_value = "info")]
    pub log: String,
    /// Form of the log.
    #[arg(long, env = "TESTIMONY_LOG_FORMAT", default_value = "json")]
    pub log_format: LogFormat,
    /// Domain of the cluster's services.
    #[arg(long, env = "TESTIMONY_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Life of a server's certificate, in hours.
    #[arg(long, env = "TESTIMONY_LEAF_VALIDITY_HOURS", default_value_t = 168, value_parser = clap::value_parser!(u32).range(1..=8760))]
    pub leaf_validity_hours: u32,
    /// Life of the certificate authority, in days.
    #[arg(long, env = "TESTIMONY_CA_VALIDITY_DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub ca_validity_days: u32,
    /// Restart workloads whose pods need it, where a policy says `rollout: Restart`.
    #[arg(long, env = "TESTIMONY_ROLLOUT_ENABLED", num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    pub rollout_enabled: bool,
    /// ClusterRole that owns the Secret and the Lease, so that they go with it; without it they stay.
    #[arg(long, env = "TESTIMONY_OWNER_CLUSTER_ROLE")]
    pub owner_cluster_role: Option<String>,
    /// Endpoint of the AuditSink `default`, which the leader makes and keeps; without it none is made.
    #[arg(long, env = "TESTIMONY_DEFAULT_SINK_ENDPOINT", value_parser = http_url)]
    pub default_sink_endpoint: Option<String>,
    /// How records travel to that endpoint.
    #[arg(long, env = "TESTIMONY_DEFAULT_SINK_PROTOCOL", requires = "default_sink_endpoint")]
    pub default_sink_protocol: Option<Protocol>,
    /// How that endpoint's requests are compressed.
    #[arg(long, env = "TESTIMONY_DEFAULT_SINK_COMPRESSION", requires = "default_sink_endpoint")]
    pub default_sink_compression: Option<Compression>,
    /// PEM bundle that signs that endpoint's certificate.
    #[arg(long, env = "TESTIMONY_DEFAULT_SINK_CA_BUNDLE", requires = "default_sink_endpoint")]
    pub default_sink_ca_bundle: Option<String>,
    /// Secret with that endpoint's headers, looked for in each pod's namespace.
    #[arg(long, env = "TESTIMONY_DEFAULT_SINK_CREDENTIALS_SECRET", requires = "default_sink_endpoint")]
    pub default_sink_credentials_secret: Option<String>,
    /// ClusterRole that owns that AuditSink, so that it goes with it.
    #[arg(long, env = "TESTIMONY_DEFAULT_SINK_OWNER", requires = "default_sink_endpoint")]
    pub default_sink_owner: Option<String>,
    /// OTLP endpoint (HTTP/protobuf) of the operator's own traces; omitted: none are made.
    #[arg(long, env = "TESTIMONY_OTLP_TRACES_ENDPOINT", value_parser = crate::traces::endpoint)]
    pub otlp_traces_endpoint: Option<String>,
}

impl Settings {
    /// Checks what no single flag can say.
    ///
    /// # Errors
    /// Names the flags that do not fit together.
    pub fn check(&self) -> anyhow::Result<()> {
        let pairs = [
            ("--sidecar-cpu-request", &self.sidecar_cpu_request, "--sidecar-cpu-limit", &self.sidecar_cpu_limit),
            (
                "--sidecar-memory-request",
                &self.sidecar_memory_request,
                "--sidecar-memory-limit",
                &self.sidecar_memory_limit,
            ),
            ("--init-cpu-request", &self.init_cpu_request, "--init-cpu-limit", &self.init_cpu_limit),
            ("--init-memory-request", &self.init_memory_request, "--init-memory-limit", &self.init_memory_limit),
        ];
        for (request_flag, request, limit_flag, limit) in pairs {
            if Quantity::parse(request) > Quantity::parse(limit) {
                bail!(
                    "{request_flag} {request} is more than {limit_flag} {limit}: every injected pod would be refused"
                );
            }
        }
        if u64::from(self.leaf_validity_hours) * 2 > u64::from(self.ca_validity_days) * 24 {
            bail!("--leaf-validity-hours must be at most half of --ca-validity-days");
        }
        Ok(())
    }

    /// What every injected pod gets.
    ///
    /// # Errors
    /// The image is missing.
    pub fn sidecar(&self) -> anyhow::Result<SidecarConfig> {
        let Some(image) = self.sidecar_image.clone().filter(|i| !i.is_empty()) else {
            bail!("--sidecar-image (or TESTIMONY_SIDECAR_IMAGE) is needed: the image of the sidecar");
        };
        Ok(SidecarConfig {
            image,
            pull_policy: self.sidecar_image_pull_policy.map(|p| format!("{p:?}")),
            init_run_as_root: self.init_run_as_root,
            resources: Resources {
                cpu_request: self.sidecar_cpu_request.clone(),
                cpu_limit: self.sidecar_cpu_limit.clone(),
                memory_request: self.sidecar_memory_request.clone(),
                memory_limit: self.sidecar_memory_limit.clone(),
            },
            init_resources: Resources {
                cpu_request: self.init_cpu_request.clone(),
                cpu_limit: self.init_cpu_limit.clone(),
                memory_request: self.init_memory_request.clone(),
                memory_limit: self.init_memory_limit.clone(),
            },
            spool_mebibytes: self.sidecar_spool_mebibytes,
            log: self.sidecar_log.clone(),
            operator_url: format!("https://{}.{}.svc:{}", self.policy_service, self.namespace, self.policy_port),
        })
    }

    /// Where certificates come from.
    pub fn certificates(&self) -> CertConfig {
        let names = [&self.webhook_service, &self.policy_service].into_iter().flat_map(|service| {
            let short = format!("{service}.{}", self.namespace);
            [format!("{short}.svc"), format!("{short}.svc.{}", self.cluster_domain), short]
        });
        CertConfig {
            namespace: self.namespace.clone(),
            secret: self.ca_secret.clone(),
            names: names.collect(),
            leaf_validity: Duration::from_secs(u64::from(self.leaf_validity_hours) * 3600),
            authority_validity: Duration::from_secs(u64::from(self.ca_validity_days) * 86_400),
        }
    }

    /// The witness outside of the cluster, if there is one.
    pub fn outside_witness(&self) -> Option<OutsideConfig> {
        Some(OutsideConfig {
            url: self.outside_witness_url.clone()?,
            key: self.outside_witness_key.clone()?,
            ca_bundle: self.outside_witness_ca_bundle.clone(),
            interval: Duration::from_secs(u64::from(self.outside_witness_seconds)),
        })
    }

    /// Namespaces that are never touched.
    pub fn excluded(&self) -> ExcludedNamespaces {
        ExcludedNamespaces { own: self.namespace.clone(), further: self.exclude_namespaces.clone() }
    }

    /// This replica's name in Lease and Events.
    pub fn replica(&self) -> String {
        self.pod_name.clone().unwrap_or_else(|| format!("process-{}", std::process::id()))
    }
}

/// Smallest spool, in MiB; the sidecar takes no smaller one.
const SPOOL_MEBIBYTES_MIN: u32 = 32;

fn spool_mebibytes(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| *number == 0 || *number >= SPOOL_MEBIBYTES_MIN);
    number.ok_or_else(|| format!("use a number of MiB, {SPOOL_MEBIBYTES_MIN} or more, or 0 for no spool"))
}

fn witness_key(text: &str) -> Result<NamedKey, String> {
    NamedKey::parse(text, Role::Witness).ok_or_else(|| {
        "use a witness's verifier key as C2SP writes it: NAME+ID+KEY, of type 0x04 (cosignature/v1)".to_owned()
    })
}

fn dns_label(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let inner = !text.starts_with('-') && !text.ends_with('-');
    if (1..=63).contains(&text.len()) && text.bytes().all(fits) && inner {
        return Ok(text.to_owned());
    }
    Err("use 1 to 63 lower-case letters, digits and dashes".to_owned())
}

fn http_url(text: &str) -> Result<String, String> {
    if text.starts_with("http://") || text.starts_with("https://") {
        return Ok(text.to_owned());
    }
    Err("use the base URL of an OTLP endpoint, such as http://collector.observability:4318".to_owned())
}

fn quantity(text: &str) -> Result<String, String> {
    if Quantity::parse(text)? > Quantity::ZERO {
        return Ok(text.to_owned());
    }
    Err("use a Kubernetes quantity above zero, such as 100m or 64Mi".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        settings: Settings,
    }

    fn parse(flags: &[&str]) -> Result<Settings, String> {
        let all = ["operator", "--namespace", "testimony-system"].iter().chain(flags);
        let settings = Flags::try_parse_from(all).map_err(|e| e.to_string())?.settings;
        settings.check().map_err(|e| e.to_string())?;
        Ok(settings)
    }

    #[test]
    fn wrong_values_are_named() {
        let cases: [(&[&str], &str); 10] = [
            (&["--webhook-port", "99999"], "--webhook-port"),
            (&["--sidecar-cpu-request", "much"], "--sidecar-cpu-request"),
            (&["--sidecar-memory-limit", "0"], "--sidecar-memory-limit"),
            (
                &["--sidecar-memory-request", "1Gi"],
                "--sidecar-memory-request 1Gi is more than --sidecar-memory-limit 128Mi",
            ),
            (&["--init-cpu-request", "1"], "--init-cpu-request 1 is more than --init-cpu-limit 200m"),
            (&["--log-format", "xml"], "--log-format"),
            (&["--webhook-service", "Big"], "--webhook-service"),
            (&["--leaf-validity-hours", "13", "--ca-validity-days", "1"], "--leaf-validity-hours"),
            (&["--sidecar-image-pull-policy", "Often"], "--sidecar-image-pull-policy"),
            (&["--otlp-traces-endpoint", "collector:4318"], "--otlp-traces-endpoint"),
        ];
        for (flags, expected) in cases {
            let error = parse(flags).expect_err(expected);
            assert!(error.contains(expected), "{flags:?}: {error}");
        }
    }

    #[test]
    fn the_webhook_needs_an_image() {
        let error = parse(&[]).expect("valid").sidecar().expect_err("needed").to_string();
        assert!(error.starts_with("--sidecar-image"), "{error}");
        let image = parse(&["--sidecar-image", "testimony:1"]).expect("valid").sidecar().expect("complete");
        assert_eq!(image.operator_url, "https://testimony-policy.testimony-system.svc:8443");
    }

    #[test]
    fn leaves_carry_the_names_by_which_services_are_called() {
        let names = parse(&["--cluster-domain", "k8s.example"]).expect("valid").certificates().names;
        assert!(names.contains(&"testimony-webhook.testimony-system.svc".to_owned()));
        assert!(names.contains(&"testimony-policy.testimony-system.svc.k8s.example".to_owned()));
    }
}
