//! The names that the operator writes into a pod and the sidecar reads back: environment variables, ports, user ids,
//! paths, labels and annotations. They stand here once, so that the two sides cannot drift apart.

/// Ports on which the sidecar listens, all below the ephemeral range (32768) and the NodePort range (30000).
pub mod port {
    /// Redirected inbound connections.
    pub const INBOUND: u16 = 24801;
    /// Redirected outbound connections.
    pub const OUTBOUND: u16 = 24802;
    /// `/live`, `/ready`, `/metrics`, `/config`, and the stand-in for `tcpSocket` probes.
    pub const ADMIN: u16 = 24803;
    /// The operator's webhook (container port; clouds open 10250 from the API server to the nodes).
    pub const WEBHOOK: u16 = 10250;
    /// The operator's policy server.
    pub const POLICY: u16 = 8443;
    /// The operator's health and metrics.
    pub const OPERATOR_ADMIN: u16 = 8080;
}

/// User and group ids. All are below 65536, so that pods with their own user namespace can map them.
pub mod id {
    /// User of `testimony-init`.
    pub const INIT_UID: u32 = 62817;
    /// Group of `testimony-init`.
    pub const INIT_GID: u32 = 62818;
    /// User of `testimony-sidecar`: with [`SIDECAR_GID`] the loop guard of the redirect rules.
    pub const SIDECAR_UID: u32 = 62819;
    /// Group of `testimony-sidecar`.
    pub const SIDECAR_GID: u32 = 62820;
}

/// Names of what injection adds to a pod.
pub mod pod {
    /// The init container that installs the redirect rules.
    pub const INIT_CONTAINER: &str = "testimony-init";
    /// The native sidecar.
    pub const SIDECAR_CONTAINER: &str = "testimony-sidecar";
    /// Volume with the projected ServiceAccount token for the operator.
    pub const TOKEN_VOLUME: &str = "testimony-token";
    /// emptyDir in which the last good policy document is kept for restarts.
    pub const STATE_VOLUME: &str = "testimony-state";
    /// Prefix of the optional Secret volumes with a sink's headers: `testimony-sink-<sink>`.
    pub const SINK_VOLUME_PREFIX: &str = "testimony-sink-";
    /// Prefix of the optional Secret volumes with a sink's client certificate: `testimony-cert-<sink>`.
    pub const SINK_CERTIFICATE_VOLUME_PREFIX: &str = "testimony-cert-";
    /// The emptyDir in memory with the key that the spool's keys are wrapped under (D5).
    pub const KEY_VOLUME: &str = "testimony-key";
    /// Prefix of the projected volumes with the ServiceAccount token for a sink: `testimony-auth-<sink>`.
    pub const SINK_TOKEN_VOLUME_PREFIX: &str = "testimony-auth-";
}

/// Paths inside the sidecar's container.
pub mod path {
    /// The binary in the image (one image, one binary, subcommands `init` and `run`).
    pub const BINARY: &str = "/testimony-sidecar";
    /// Projected token for the operator.
    pub const TOKEN: &str = "/var/run/testimony/token/token";
    /// Directory of [`super::pod::STATE_VOLUME`].
    pub const STATE_DIR: &str = "/var/lib/testimony";
    /// The spool: a folder of [`super::pod::STATE_VOLUME`].
    pub const SPOOL_DIR: &str = "/var/lib/testimony/spool";
    /// Directory of [`super::pod::KEY_VOLUME`].
    pub const SPOOL_KEY_DIR: &str = "/var/run/testimony/key";
    /// One folder for each sink with credentials, one file for each header.
    pub const SINKS_DIR: &str = "/var/run/testimony/sinks";
    /// One folder for each sink with a client certificate, with the files `tls.crt` and `tls.key`.
    pub const SINK_CERTIFICATES_DIR: &str = "/var/run/testimony/sink-certificates";
    /// One folder for each sink that gets a ServiceAccount token, with the file [`SINK_TOKEN_FILE`].
    pub const SINK_TOKENS_DIR: &str = "/var/run/testimony/sink-tokens";
    /// Name of a token's file.
    pub const SINK_TOKEN_FILE: &str = "token";
}

/// Audience of the token that a sidecar presents to the operator.
pub const TOKEN_AUDIENCE: &str = "testimony.dev/operator";

/// Labels.
pub mod label {
    /// `true` on every injected pod.
    pub const INJECTED: &str = "testimony.dev/injected";
    /// `disabled` on a pod: opted out of injection.
    pub const INJECT: &str = "testimony.dev/inject";
    /// `disabled` on a namespace: ClusterAuditPolicies with `enforcement: Default` leave its pods alone.
    pub const CLUSTER_DEFAULTS: &str = "testimony.dev/cluster-defaults";
    /// On a namespace: [`STRICT`] means that no pod starts there without a sidecar.
    pub const ENFORCEMENT: &str = "testimony.dev/enforcement";
    /// Value of [`ENFORCEMENT`].
    pub const STRICT: &str = "strict";
    /// `true` on the operator's leading replica: the policy server's Service selects it.
    pub const LEADER: &str = "testimony.dev/leader";
}

/// Annotations.
pub mod annotation {
    /// Random id that admission writes; the controller learns pods by (uid, injection id).
    pub const INJECTION_ID: &str = "testimony.dev/injection-id";
    /// Revision of the policy document at admission.
    pub const REVISION: &str = "testimony.dev/revision";
    /// JSON of what the injection changed (the original `tcpSocket` probes), so that it can be undone.
    pub const STATUS: &str = "testimony.dev/status";
    /// Not ours: the volumes that do not keep the cluster autoscaler from removing a node, separated by commas (D5).
    pub const EVICTABLE_VOLUMES: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
}

/// Environment variables of the sidecar.
pub mod env {
    /// The policy document at admission: JSON, see [`crate::policy::PolicyDocument`].
    pub const POLICY: &str = "TESTIMONY_POLICY";
    /// Uid of the namespace `kube-system`, by convention the cluster's id.
    pub const CLUSTER_UID: &str = "TESTIMONY_CLUSTER_UID";
    /// Image of the sidecar.
    pub const IMAGE: &str = "TESTIMONY_IMAGE";
    /// `metadata.namespace`.
    pub const POD_NAMESPACE: &str = "TESTIMONY_POD_NAMESPACE";
    /// `metadata.name`.
    pub const POD_NAME: &str = "TESTIMONY_POD_NAME";
    /// `metadata.uid`.
    pub const POD_UID: &str = "TESTIMONY_POD_UID";
    /// `spec.nodeName`.
    pub const NODE_NAME: &str = "TESTIMONY_NODE_NAME";
    /// `spec.serviceAccountName`.
    pub const SERVICE_ACCOUNT: &str = "TESTIMONY_SERVICE_ACCOUNT";
    /// `status.podIPs`, comma-separated.
    pub const POD_IPS: &str = "TESTIMONY_POD_IPS";
    /// `status.hostIPs`, comma-separated: from where the kubelet probes.
    pub const HOST_IPS: &str = "TESTIMONY_HOST_IPS";
    /// Kind of the workload that owns the pod: `Deployment`, `StatefulSet`, `DaemonSet`, `Job`, `CronJob`, `ReplicaSet`, `Pod`.
    pub const WORKLOAD_KIND: &str = "TESTIMONY_WORKLOAD_KIND";
    /// Name of that workload.
    pub const WORKLOAD_NAME: &str = "TESTIMONY_WORKLOAD_NAME";
    /// `service.name` of the records: label `app.kubernetes.io/name`, else the workload's name.
    pub const SERVICE_NAME: &str = "TESTIMONY_SERVICE_NAME";
    /// Name of the pod's first application container.
    pub const CONTAINER_NAME: &str = "TESTIMONY_CONTAINER_NAME";
    /// The injection id, as in [`super::annotation::INJECTION_ID`].
    pub const INJECTION_ID: &str = "TESTIMONY_INJECTION_ID";
    /// Base URL of the operator's policy server: `https://NAME.NAMESPACE.svc:8443`.
    pub const OPERATOR_URL: &str = "TESTIMONY_OPERATOR_URL";
    /// PEM bundle that signs the policy server's certificate.
    pub const OPERATOR_CA: &str = "TESTIMONY_OPERATOR_CA";
    /// `true`: the document at admission is a stand-in, and the start waits for the operator's first answer, for a while.
    pub const POLICY_WAIT: &str = "TESTIMONY_POLICY_WAIT";
    /// Most bytes of the spool; absent: records wait in memory.
    pub const SPOOL_BYTES_MAX: &str = "TESTIMONY_SPOOL_BYTES_MAX";
    /// Log filter, as of `tracing_subscriber::EnvFilter`.
    pub const LOG: &str = "TESTIMONY_LOG";
}

/// Path of the stand-in for `tcpSocket` probes on the admin port: `/probe/tcp/<port>` answers 200 when a connection to
/// podIP:port succeeds, else 503.
pub const TCP_PROBE_PATH: &str = "/probe/tcp/";

/// Path of the policy server's long poll.
pub const POLL_PATH: &str = "/v1/poll";

/// Path on which the policy server names addresses.
pub const NAMES_PATH: &str = "/v1/names";

/// Path on which the operator certifies a stream's first key (K1).
pub const CERTIFICATE_PATH: &str = "/v1/certificate";

/// Path of the witness (C2SP tlog-witness).
pub const ADD_CHECKPOINT_PATH: &str = "/v1/witness/add-checkpoint";

/// Longest name of a sink, in bytes: that of a Kubernetes object.
pub const SINK_NAME_BYTES_MAX: usize = 253;

/// Path on which a sidecar tells what its pod takes along undelivered.
pub const ABANDONED_PATH: &str = "/v1/witness/abandoned";

/// Path on which the ledger is told what is removed from the backends by order (G2): for people with that right.
pub const PRUNE_PATH: &str = "/v1/ledger/prune";

/// Path on which the operator opens keys of a spool whose node restarted (D5).
pub const UNWRAP_PATH: &str = "/v1/witness/unwrap";
