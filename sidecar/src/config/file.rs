//! Configuration from a YAML file: on a laptop or a VM, `testimony-sidecar run --config FILE`.

use super::check::{document_problems, host_port, log_filter, socket_addr, spool_bytes};
use super::{
    Config, ConfigError, DATA_THREADS_MAX, DRAIN_DEFAULT, DRAIN_S_MAX, Listen, Listener, PolicySource, Problem,
    SinkHeader, SpoolConfig, Target, Vars, Workload,
};
use crate::client::{Secret, is_sink_header};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use testimony_core::contract::{path, port};
use testimony_core::policy::{
    ClientAddress, Compression, Correlation, DOCUMENT_VERSION, DeliveryMode, Direction, DocumentPolicy, DocumentRule,
    DocumentSink, ExcludePort, FailureMode, PolicyDocument, Redact, SinkProtocol, TraceContext, WhenAbsent,
};

/// Largest configuration file, in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Deadline of one export unless the file says otherwise, in milliseconds.
const TIMEOUT_MS_DEFAULT: u32 = 10_000;

/// Limit of a sink's queue unless the file says otherwise, in bytes.
const QUEUE_BYTES_DEFAULT: u32 = 16 * 1024 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    service: Service,
    listen: FileListen,
    /// Where connections to `listen.inbound` go: HOST:PORT.
    forward: Option<String>,
    #[serde(default)]
    policy: FilePolicy,
    sinks: Vec<FileSink>,
    sinks_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    spool: Option<FileSpool>,
    data_threads: Option<usize>,
    drain_seconds: Option<u64>,
    log: Option<String>,
}

/// Where records wait until they are delivered.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileSpool {
    dir: PathBuf,
    key_dir: PathBuf,
    bytes_max: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Service {
    name: String,
    namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileListen {
    inbound: Option<String>,
    outbound: Option<String>,
    admin: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct FilePolicy {
    directions: Option<Vec<Direction>>,
    exclude_ports: Vec<ExcludePort>,
    client_address: ClientAddress,
    rules: Vec<DocumentRule>,
    delivery: FileDelivery,
    failure_mode: FailureMode,
    correlation: FileCorrelation,
    redact: Redact,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct FileDelivery {
    mode: DeliveryMode,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct FileCorrelation {
    trace_context: Option<TraceContext>,
    when_absent: Option<WhenAbsent>,
    sampled_percent: Option<u8>,
    /// The empty string: no header is kept or made.
    header: Option<String>,
    infer_from_single_in_flight: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileSink {
    name: String,
    endpoint: String,
    #[serde(default)]
    protocol: SinkProtocol,
    #[serde(default)]
    compression: Compression,
    ca_bundle: Option<String>,
    server_name: Option<String>,
    /// Headers from the files of `sinksDir/<name>/`.
    #[serde(default)]
    credentials: bool,
    /// Header name -> name of the environment variable with its value.
    #[serde(default)]
    headers_from_env: BTreeMap<String, String>,
    timeout_ms: Option<u32>,
    queue_bytes_max: Option<u32>,
    required: Option<bool>,
}

/// Reads and parses a file.
///
/// # Errors
/// The file cannot be read or is too large; else as [`from_yaml`].
pub fn from_file(file: &Path, vars: &dyn Vars) -> Result<Config, ConfigError> {
    let shown = file.display().to_string();
    let fail = |reason: String| ConfigError {
        problems: vec![Problem::of("--config", &shown, reason, "name a readable YAML file")],
    };
    let length = std::fs::metadata(file).map_err(|error| fail(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(fail(format!("has {length} bytes, more than {FILE_BYTES_MAX}")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| fail(error.to_string()))?;
    from_yaml(&text, vars)
}

/// Parses the text of a file; `vars` holds the headers that it takes from the environment.
///
/// # Errors
/// A field that is unknown, missing or of the wrong type, with its line; else every problem at once.
pub fn from_yaml(text: &str, vars: &dyn Vars) -> Result<Config, ConfigError> {
    let file: File = serde_saphyr::from_str(text).map_err(|error| ConfigError {
        problems: vec![Problem::about("file", error.to_string(), "see docs/examples/laptop.yaml")],
    })?;
    let mut problems = Vec::new();
    let listen = listen(&file, &mut problems);
    let sink_headers = sink_headers(&file.sinks, vars, &mut problems);
    let data_threads = file.data_threads.unwrap_or(1);
    if data_threads == 0 || data_threads > DATA_THREADS_MAX {
        problems.push(Problem::of(
            "dataThreads",
            &data_threads.to_string(),
            "is out of range",
            format!("use 1 to {DATA_THREADS_MAX}"),
        ));
    }
    let drain_seconds = file.drain_seconds.unwrap_or(DRAIN_DEFAULT.as_secs());
    if drain_seconds > DRAIN_S_MAX {
        let fix = format!("use 0 to {DRAIN_S_MAX}");
        problems.push(Problem::of("drainSeconds", &drain_seconds.to_string(), "is out of range", fix));
    }
    let log = file.log.clone().unwrap_or_else(|| "info".to_owned());
    log_filter("log", &log, &mut problems);
    if file.service.name.trim().is_empty() {
        problems.push(Problem::of("service.name", &file.service.name, "is empty", "name the audited service"));
    }
    let directions = listen_directions(&file.listen);
    let workload = Workload {
        service_name: file.service.name.clone(),
        namespace: file.service.namespace.clone(),
        ..Workload::default()
    };
    let (sinks_dir, state_dir) = (file.sinks_dir.clone(), file.state_dir.clone());
    let spool = file.spool.and_then(|spool| {
        let bytes_max = spool_bytes("spool.bytesMax", &spool.bytes_max.to_string(), &mut problems)?;
        Some(SpoolConfig { folder: spool.dir, key_folder: spool.key_dir, bytes_max })
    });
    let policy = document(file.policy, file.sinks, directions, &mut problems);
    if spool.is_none() && policy.policies.iter().any(|policy| policy.delivery == DeliveryMode::Strict) {
        let fix = "name a spool, or use Async";
        problems.push(Problem::of(
            "policy.delivery.mode",
            "Strict",
            "waits for records on disk, and there is no spool",
            fix,
        ));
    }
    match listen {
        Some(listen) if problems.is_empty() => Ok(Config {
            workload,
            image: None,
            listen,
            pod_ips: Vec::new(),
            host_ips: Vec::new(),
            policy,
            policy_source: PolicySource::File,
            operator: None,
            state_dir,
            spool,
            sinks_dir: sinks_dir.unwrap_or_else(|| PathBuf::from(path::SINKS_DIR)),
            sink_headers,
            data_threads,
            drain: Duration::from_secs(drain_seconds),
            log,
        }),
        _ => Err(ConfigError { problems }),
    }
}

fn listen(file: &File, problems: &mut Vec<Problem>) -> Option<Listen> {
    let before = problems.len();
    let inbound = file.listen.inbound.as_deref().and_then(|value| socket_addr("listen.inbound", value, problems));
    let outbound = file.listen.outbound.as_deref().and_then(|value| socket_addr("listen.outbound", value, problems));
    let admin_default = format!("127.0.0.1:{}", port::ADMIN);
    let admin = socket_addr("listen.admin", file.listen.admin.as_deref().unwrap_or(&admin_default), problems);
    let forward = file.forward.as_deref().and_then(|value| host_port("forward", value, problems));
    if file.listen.inbound.is_none() && file.listen.outbound.is_none() {
        problems.push(Problem::about(
            "listen",
            "has neither inbound nor outbound",
            "give an address for at least one of them",
        ));
    }
    if file.forward.is_some() && file.listen.inbound.is_none() {
        problems.push(Problem::about(
            "listen.inbound",
            "is missing",
            "say where to listen for what `forward` receives",
        ));
    }
    if let (Some(inbound), Some(forward)) = (inbound, &forward)
        && forward.host.parse() == Ok(inbound.ip())
        && forward.port == inbound.port()
    {
        let fix = "forward to the application's own port";
        problems.push(Problem::of("forward", &forward.to_string(), "is the listener itself", fix));
    }
    if problems.len() != before {
        return None;
    }
    let target = forward.map_or(Target::OriginalDestination, Target::Fixed);
    Some(Listen {
        inbound: inbound.map(|addr| Listener { addr, target }),
        outbound: outbound.map(|addr| Listener { addr, target: Target::OriginalDestination }),
        admin: admin?,
    })
}

/// What a policy records that does not say it: everything that the sidecar sees.
fn listen_directions(listen: &FileListen) -> Vec<Direction> {
    match (&listen.inbound, &listen.outbound) {
        (Some(_), None) => vec![Direction::Inbound],
        (None, Some(_)) => vec![Direction::Outbound],
        _ => vec![Direction::Inbound, Direction::Outbound],
    }
}

fn sink_headers(sinks: &[FileSink], vars: &dyn Vars, problems: &mut Vec<Problem>) -> BTreeMap<String, Vec<SinkHeader>> {
    let mut all = BTreeMap::new();
    for (index, sink) in sinks.iter().enumerate() {
        let mut headers = Vec::new();
        for (name, variable) in &sink.headers_from_env {
            let field = format!("sinks[{index}].headersFromEnv.{name}");
            if !is_sink_header(name) {
                problems.push(Problem::about(
                    field,
                    "is not a header that can be set",
                    "use for example authorization",
                ));
                continue;
            }
            match vars.get(variable).as_deref().map(str::trim).map(Secret::header) {
                Some(Some(value)) => headers.push(SinkHeader { name: name.to_ascii_lowercase(), value }),
                Some(None) => {
                    let fix = "put one line of printable text into it";
                    problems.push(Problem::about(field, format!("variable {variable} is not a header value"), fix));
                }
                None => problems.push(Problem::of(
                    field,
                    variable,
                    "this variable is not set",
                    "export it before the start",
                )),
            }
        }
        if !headers.is_empty() {
            all.insert(sink.name.clone(), headers);
        }
    }
    all
}

fn document(
    policy: FilePolicy,
    sinks: Vec<FileSink>,
    listening: Vec<Direction>,
    problems: &mut Vec<Problem>,
) -> PolicyDocument {
    let defaults = Correlation::default();
    let correlation = Correlation {
        trace_context: policy.correlation.trace_context.unwrap_or(defaults.trace_context),
        when_absent: policy.correlation.when_absent.unwrap_or(defaults.when_absent),
        sampled_percent: policy.correlation.sampled_percent.unwrap_or(defaults.sampled_percent),
        header: policy
            .correlation
            .header
            .map(|header| header.to_ascii_lowercase())
            .or(defaults.header)
            .filter(|header| !header.is_empty()),
        infer_from_single_in_flight: policy
            .correlation
            .infer_from_single_in_flight
            .unwrap_or(defaults.infer_from_single_in_flight),
    };
    if sinks.is_empty() {
        problems.push(Problem::about("sinks", "is empty", "name at least one OTLP endpoint"));
    }
    let sinks = sinks.into_iter().map(|sink| DocumentSink {
        name: sink.name,
        endpoint: sink.endpoint,
        protocol: sink.protocol,
        compression: sink.compression,
        ca_bundle: sink.ca_bundle,
        server_name: sink.server_name,
        credentials: sink.credentials,
        credentials_secret: None,
        // There are no Secrets and no ServiceAccounts outside Kubernetes.
        client_certificate_secret: None,
        token_audience: None,
        timeout_ms: sink.timeout_ms.unwrap_or(TIMEOUT_MS_DEFAULT),
        queue_bytes_max: sink.queue_bytes_max.unwrap_or(QUEUE_BYTES_DEFAULT),
        required: sink.required.unwrap_or(true),
    });
    let mut document = PolicyDocument {
        version: DOCUMENT_VERSION,
        revision: String::new(),
        policies: vec![DocumentPolicy {
            name: "file/policy".to_owned(),
            directions: policy.directions.unwrap_or(listening),
            exclude_ports: policy.exclude_ports,
            rules: policy.rules,
            delivery: policy.delivery.mode,
            failure_mode: policy.failure_mode,
        }],
        client_address: policy.client_address,
        correlation,
        redact: Redact {
            headers: policy.redact.headers.iter().map(|header| header.to_ascii_lowercase()).collect(),
            query: policy.redact.query,
        },
        sinks: sinks.collect(),
    };
    document.revision = revision(&document);
    problems.extend(document_problems("", &document).into_iter().map(|mut problem| {
        problem.field = file_path(&problem.field);
        problem
    }));
    document
}

/// Where a field of the document stands in the file.
fn file_path(document_path: &str) -> String {
    let path = document_path.trim_start_matches('.');
    match path.strip_prefix("policies[0].") {
        Some(rest) => format!("policy.{rest}"),
        None if path.starts_with("correlation") || path.starts_with("redact") => format!("policy.{path}"),
        None => path.to_owned(),
    }
}

/// 16 hex digits of the SHA-256 of the document without its revision.
fn revision(document: &PolicyDocument) -> String {
    let mut value = serde_json::to_value(document).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.remove("revision");
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, value.to_string().as_bytes());
    digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
