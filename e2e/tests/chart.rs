//! The Helm chart: lint, goldens byte for byte, refusals that name the value, and that no value does nothing.
//!
//! Needs Helm 4: `$HELM`, else `bin/helm` in `$TESTIMONY_CACHE_DIR` or `~/.cache/testimony`. `UPDATE_GOLDEN=1` rewrites
//! the goldens and the chart's copies of the custom resource definitions; read the difference before you commit it.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/helm.rs"]
mod support;

use golden::{assert_golden, repository, updating};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use support::{chart, documents, helm, rendered, template};
use testimony_core::contract::pod;

/// Values files of each golden, relative to the chart.
const CASES: [(&str, &[&str]); 5] = [
    ("admission-policy", &["ci/admission-policy-values.yaml"]),
    ("minimal", &["ci/minimal-values.yaml"]),
    ("ha", &["values-ha.yaml", "ci/minimal-values.yaml"]),
    ("everything", &["ci/everything-values.yaml"]),
    ("no-sink", &["ci/no-sink-values.yaml"]),
];

fn case(name: &str) -> String {
    let (_, values) = CASES.iter().find(|(case, _)| *case == name).expect("a case of CASES");
    rendered(values, &[])
}

fn yaml_files(folder: &Path) -> BTreeMap<String, String> {
    fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| {
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        })
        .collect()
}

#[test]
fn the_chart_holds_the_printed_definitions() {
    let (printed, copies) = (repository().join("crds"), chart().join("crd-files"));
    let want = yaml_files(&printed);
    assert!(!want.is_empty(), "{} holds no definition: print them from the operator's types", printed.display());
    if updating() {
        fs::create_dir_all(&copies).expect("the folder is made");
        for (name, text) in &want {
            fs::write(copies.join(name), text).expect("the copy is written");
        }
    }
    let got = yaml_files(&copies);
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>(), "UPDATE_GOLDEN=1 copies crds/");
    for (name, text) in &want {
        assert!(got.get(name) == Some(text), "crd-files/{name} differs from crds/{name}: UPDATE_GOLDEN=1 copies it");
    }
    // They survive an uninstall, and with them the policies.
    let manifest = case("minimal");
    let kept = manifest.matches("helm.sh/resource-policy: keep").count();
    assert_eq!(kept, want.len());
    assert_eq!(manifest.matches("kind: CustomResourceDefinition").count(), want.len());
    assert!(!case("no-sink").contains("kind: CustomResourceDefinition"));
}

#[test]
fn lint_is_strict_and_silent() {
    for (name, values) in CASES {
        let chart = chart();
        let files: Vec<String> = values.iter().map(|file| chart.join(file).display().to_string()).collect();
        let chart = chart.display().to_string();
        let mut arguments = vec!["lint", "--strict", "--quiet", &chart];
        for file in &files {
            arguments.extend(["--values", file]);
        }
        let output = helm(&arguments);
        assert!(
            output.status.success(),
            "{name}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn goldens() {
    for (name, _) in CASES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/chart-{name}.yaml"));
        // The definitions are compared with their source, in a test of their own.
        let manifest: Vec<String> = documents(&case(name))
            .into_iter()
            .filter(|document| !document.contains("# Source: testimony/templates/crds.yaml"))
            .collect();
        assert_golden(&path, &manifest.join("---\n"));
    }
}

#[test]
fn rendering_twice_gives_the_same_bytes() {
    // A random or time-dependent function would make every GitOps tool restart the operator for ever.
    assert_eq!(case("everything"), case("everything"));
}

/// The documents of one kind.
fn of_kind(manifest: &str, kind: &str) -> Vec<String> {
    let mut found = documents(manifest);
    found.retain(|document| document.lines().any(|line| line == format!("kind: {kind}")));
    found
}

#[test]
fn the_webhooks_can_never_block_the_cluster() {
    for (name, _) in CASES {
        let webhooks = of_kind(&case(name), "MutatingWebhookConfiguration");
        let strict = ["testimony-strict", "strict.inject.testimony.dev", "/mutate-strict", "Fail", "10", "In"];
        let default = ["testimony-default", "inject.testimony.dev", "/mutate", "Ignore", "3", "NotIn"];
        let wanted = match name {
            "admission-policy" => vec![],
            // It switches strict namespaces off: then the label means nothing to the webhook either.
            "everything" => vec![default],
            _ => vec![default, strict],
        };
        assert_eq!(webhooks.len(), wanted.len(), "{name}");
        for (webhook, [object, entry, path, failure, timeout, operator]) in webhooks.iter().zip(wanted) {
            assert_eq!(webhook.matches("admissionReviewVersions:").count(), 1, "{name}: exactly one entry");
            let mut lines = vec![
                format!("  name: {object}"),
                format!("  - name: {entry}"),
                format!("        path: {path}"),
                format!("    failurePolicy: {failure}"),
                format!("    timeoutSeconds: {timeout}"),
                "          - kube-system".to_owned(),
                "          - kube-node-lease".to_owned(),
                "          - testimony-system".to_owned(),
            ];
            if name == "everything" {
                lines.push("          - calico-system".to_owned());
                assert!(!webhook.contains("testimony.dev/enforcement"), "{name}");
            } else {
                lines.push("        - key: testimony.dev/enforcement".to_owned());
                lines.push(format!("          operator: {operator}"));
            }
            for line in lines {
                assert!(
                    webhook.lines().any(|found| found.trim_end() == line || found.trim() == line.trim()),
                    "{name}: no line {line:?}"
                );
            }
            // The operator owns this field: rendering it would undo the operator's work at each upgrade.
            assert!(!webhook.lines().any(|line| line.trim_start().starts_with("caBundle:")), "{name}");
        }
    }
}

#[test]
fn the_strict_policy_never_looks_at_the_namespaces_that_start_the_cluster() {
    for (name, _) in CASES {
        let manifest = case(name);
        let wanted = usize::from(name != "everything");
        assert_eq!(of_kind(&manifest, "ValidatingAdmissionPolicy").len(), wanted, "{name}");
        let bindings = of_kind(&manifest, "ValidatingAdmissionPolicyBinding");
        assert_eq!(bindings.len(), wanted, "{name}");
        for binding in bindings {
            for line in ["- kube-system", "- kube-node-lease", "- testimony-system", "- key: testimony.dev/enforcement"]
            {
                assert!(binding.lines().any(|found| found.trim() == line), "{name}: no line {line:?}");
            }
        }
    }
}

/// What the webhook knows of itself, the strict policy has to be told.
#[test]
fn the_strict_policy_keeps_all_volumes_of_the_sidecar_from_others() {
    let manifest = case("minimal");
    let patterns: Vec<&str> = manifest.lines().filter(|line| line.contains("matches('^testimony-(")).collect();
    assert_eq!(patterns.len(), 2, "mounts of a container, volumes of a pod");
    for volume in [pod::TOKEN_VOLUME, pod::STATE_VOLUME, pod::KEY_VOLUME] {
        let name = volume.strip_prefix("testimony-").expect("the prefix of all");
        assert!(patterns.iter().all(|line| line.contains(&format!("{name}$|"))), "{volume}: {patterns:#?}");
    }
}

#[test]
fn without_a_webhook_nothing_of_it_is_left() {
    let manifest = case("admission-policy");
    for (kind, wanted) in [("Deployment", 1), ("Service", 1), ("MutatingWebhookConfiguration", 0)] {
        assert_eq!(of_kind(&manifest, kind).len(), wanted, "{kind}");
    }
    assert!(!manifest.contains("name: testimony-webhook"), "a right, a Service or a Deployment is left");
    assert!(!manifest.contains("mutatingwebhookconfigurations"), "a right is left");
    // The policies' owner: when it goes, they go.
    assert!(manifest.contains("name: testimony-injection") && !case("minimal").contains("name: testimony-injection"));
}

fn notes_with(settings: &str) -> String {
    let chart = chart().display().to_string();
    let output = helm(&["install", "testimony", &chart, "--dry-run=client", "--set", settings]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let (_, notes) = text.split_once("NOTES:").expect("notes");
    notes.to_owned()
}

#[test]
fn the_notes_warn_of_a_daily_check_that_gets_no_ledger() {
    let minimal = "sink.endpoint=http://c:4318";
    let (verify, secret) = ("verify.enabled=true,verify.source=http://v:1/x", "sink.credentialsSecretName=s");
    for (settings, warned) in [
        (format!("{minimal},{verify},{secret}"), true),
        (format!("{minimal},{verify},{secret},verify.sink=default"), true),
        (format!("{minimal},{verify},{secret},verify.sink=plain"), false),
        (format!("{minimal},{verify}"), false),
        (format!("{minimal},{secret}"), false),
        (format!("sink.enabled=false,{verify},{secret}"), false),
    ] {
        assert_eq!(notes_with(&settings).contains("each check would end UNANCHORED"), warned, "{settings}");
    }
}

#[test]
fn the_notes_warn_of_a_port_only_where_the_protocol_does_not_fit_it() {
    let notes =
        |endpoint: &str, protocol: &str| notes_with(&format!("sink.endpoint={endpoint},sink.protocol={protocol}"));
    assert!(notes("http://c:4317", "HttpProtobuf").contains("--set sink.protocol=Grpc"));
    assert!(notes("http://c:4318", "Grpc").contains("looks like OTLP over HTTP"));
    for (endpoint, protocol) in [("http://c:4317", "Grpc"), ("http://c:4318", "HttpProtobuf"), ("https://c", "Grpc")] {
        assert!(!notes(endpoint, protocol).contains("looks like"), "{endpoint} {protocol}");
    }
}

#[test]
fn a_wrong_value_is_named() {
    let minimal = "sink.endpoint=http://collector:4318";
    for (settings, wanted) in [
        (&["sink.enabled=true"][..], &["sink.endpoint is missing", "--set sink.endpoint="][..]),
        (&["sink.endpoint=collector:4318"], &["/sink/endpoint", "https?://"]),
        (&["sink.endpoint=grpc://collector:4317"], &["/sink/endpoint", "https?://"]),
        (&["sink.endpoint=http://"], &["/sink/endpoint"]),
        (&["sink.endpoint=http://user@collector:4318"], &["/sink/endpoint"]),
        (&["sink.endpoint=http://collector:4318/v1/logs?key=x"], &["/sink/endpoint"]),
        (&[minimal, "sink.protocol=grpc"], &["/sink/protocol", "'Grpc'"]),
        (&[minimal, "sink.compression=Brotli"], &["/sink/compression", "'Zstd'"]),
        (&["sink.endpoint=http://collector:4317/v1/logs", "sink.protocol=Grpc"], &["sink.protocol", "remove the path"]),
        (&[minimal, "sink.caBundle=-----BEGIN CERTIFICATE-----x"], &["sink.caBundle", "scheme to https"]),
        (&[minimal, "sink.caBundle=c2VjcmV0"], &["/sink/caBundle", "BEGIN CERTIFICATE"]),
        (&[minimal, "sink.credentialsSecretName=Not_A_Name"], &["/sink/credentialsSecretName"]),
        (&[minimal, "sink.endpont=http://x"], &["/sink", "'endpont'"]),
        (&[minimal, "sinks.endpoint=http://x"], &["'sinks'"]),
        (&[minimal, "image.pullPolicy=Sometimes"], &["/image/pullPolicy", "'IfNotPresent'"]),
        (&[minimal, "image.operator.digest=sha256:12"], &["/image/operator/digest"]),
        (&[minimal, "webhook.replicas=0"], &["/webhook/replicas", "minimum"]),
        (&[minimal, "controller.replicas=two"], &["/controller/replicas", "integer"]),
        (&[minimal, "sidecar.resources.limits.memory=null"], &["/sidecar/resources/limits", "'memory'"]),
        (&[minimal, "sidecar.resources.requests.cpu=ten"], &["/sidecar/resources/requests/cpu"]),
        (&[minimal, "verify.enabled=true"], &["verify.source is missing", "_time:33h"]),
        (&[minimal, "verify.schedule=daily"], &["/verify/schedule"]),
        (&[minimal, "verify.sink=Main_1"], &["/verify/sink"]),
        (&[minimal, "verify.roots=secret"], &["/verify/roots", "BEGIN CERTIFICATE"]),
        (&[minimal, "witness.outside.url=https://w.example"], &["witness.outside.key", "NAME+ID+KEY"]),
        (&[minimal, "witness.outside.url=w.example"], &["/witness/outside/url"]),
        (&[minimal, "witness.headCopy.claimName=heads"], &["witness.headCopy.enabled is false"]),
        (&[minimal, "logFormat=xml"], &["/logFormat", "'json'"]),
        (&[minimal, "init.resources.requests.memory=null"], &["/init/resources/requests", "'memory'"]),
        (&[minimal, "init.runAsRoot=yes"], &["/init/runAsRoot", "boolean"]),
        (&[minimal, "injection.mode=Sidecar"], &["/injection/mode", "'AdmissionPolicy'"]),
        (&[minimal, "strict.enabled=yes"], &["/strict/enabled", "boolean"]),
        (&[minimal, "rollout.enabled=yes"], &["/rollout/enabled", "boolean"]),
        (&[minimal, "excludedNamespaces={Calico}"], &["/excludedNamespaces/0"]),
        (&[minimal, "serviceMonitor.interval=often"], &["/serviceMonitor/interval"]),
        (&[minimal, "podMonitor.interval=often"], &["/podMonitor/interval"]),
        (&[minimal, "prometheusRule.runbookUrl=wiki"], &["/prometheusRule/runbookUrl"]),
        (&[minimal, "dashboard.labels.grafana_dashboard=null"], &["/dashboard/labels", "minProperties"]),
        (&[minimal, "dashboard.namespace=Not_A_Name"], &["/dashboard/namespace"]),
        (&[minimal, "test.namespace=testimony-system"], &["test.namespace", "never audited"]),
        (
            &[minimal, "sidecar.resources.requests.memory=1Gi"],
            &["sidecar.resources.requests.memory is 1Gi", "raise the limit"],
        ),
        (&[minimal, "sidecar.resources.requests.cpu=0"], &["/sidecar/resources/requests/cpu"]),
        (&[minimal, "sidecar.resources.requests.memory=0Mi"], &["/sidecar/resources/requests/memory"]),
        (&[minimal, "sidecar.resources.requests.cpu=0.6"], &["sidecar.resources.requests.cpu is 0.6", "500m"]),
        (&[minimal, "init.resources.limits.cpu=5m"], &["init.resources.requests.cpu is 10m", "5m"]),
    ] {
        let output = template(&[], settings);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{settings:?} was accepted");
        for wanted in wanted {
            assert!(message.contains(wanted), "{settings:?}: {wanted:?} is not in: {message}");
        }
    }
}

/// Of the quantities that Rust reads, the schema lets some through; those the templates must read as Rust does.
#[test]
fn the_templates_read_quantities_as_the_operator_does() {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let schema: serde_json::Value = serde_json::from_str(&read(&chart().join("values.schema.json"))).expect("JSON");
    let table = read(&repository().join("core/tests/vectors/quantities.cases"));
    let rows = table.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_once(" = ").expect("a row"));
    let (texts, wanted): (Vec<&str>, Vec<&str>) = rows.unzip();

    let small = Path::new(env!("CARGO_TARGET_TMPDIR")).join("quantities");
    fs::create_dir_all(small.join("templates")).expect("a folder");
    let write = |name: &str, text: &str| fs::write(small.join(name), text).expect("written");
    write("Chart.yaml", "{apiVersion: v2, name: quantities, version: 0.0.0}");
    write("templates/_helpers.tpl", &read(&chart().join("templates/_helpers.tpl")));
    let all = r#"{{ range .Values.texts }}
- {{ if regexMatch $.Values.pattern . }}{{ include "testimony.amount" . | toJson }}{{ else }}none{{ end }}{{ end }}"#;
    let all = &format!("apiVersion: v1\nkind: Amounts\namounts:{all}\n");
    write("templates/all.yaml", all);
    let values = serde_json::json!({"pattern": schema["definitions"]["quantity"]["pattern"], "texts": texts});
    write("values.yaml", &values.to_string());

    let output = helm(&["template", &small.display().to_string()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    let printed: serde_json::Value = serde_saphyr::from_str(&printed).expect("one object");
    let amounts: Vec<String> = serde_json::from_value(printed["amounts"].clone()).expect("a list of texts");
    assert_eq!(amounts.len(), texts.len());
    let mut of_value = BTreeMap::new();
    for ((text, wanted), amount) in texts.iter().zip(wanted).zip(&amounts).filter(|(_, amount)| *amount != "none") {
        let number = |text: &str| text.parse::<f64>().unwrap_or_else(|_| panic!("{text:?} is no number"));
        // The schema looks at the form alone.
        if wanted == "none" && number(amount) >= 9.2e18 {
            continue;
        }
        assert!(
            (number(wanted) / 1e9 - number(amount)).abs() <= number(amount) * 1e-12,
            "{text:?} is read as {amount}"
        );
        assert_eq!(*of_value.entry(wanted).or_insert(amount), amount, "{text:?}: one value, two numbers");
    }
    assert!(of_value.len() > 10, "the schema lets none through: {amounts:?}");
}

/// Every path of the schema that holds a value and not a folder of values.
fn leaves(schema: &serde_json::Value, node: &serde_json::Value, path: &str, found: &mut Vec<String>) {
    let node = match node.get("$ref").and_then(serde_json::Value::as_str) {
        Some(reference) => schema.pointer(reference.trim_start_matches('#')).expect("the schema's own reference"),
        None => node,
    };
    match node.get("properties").and_then(serde_json::Value::as_object) {
        Some(properties) => {
            for (name, child) in properties.iter().filter(|(name, _)| !(path.is_empty() && *name == "global")) {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(schema, child, &path, found);
            }
        }
        None => found.push(path.to_owned()),
    }
}

#[test]
fn no_value_does_nothing() {
    let schema = fs::read_to_string(chart().join("values.schema.json")).expect("the schema");
    let schema: serde_json::Value = serde_json::from_str(&schema).expect("the schema is JSON");
    let mut paths = Vec::new();
    leaves(&schema, &schema, "", &mut paths);
    assert!(paths.len() > 30, "the schema is no longer walked: {paths:?}");

    let values = ["ci/everything-values.yaml"];
    let documented = fs::read_to_string(chart().join("values.yaml")).expect("the values");
    let with_all = rendered(&values, &[]);
    for path in paths {
        // Without the value, another manifest or a refusal: both show that it counts.
        let settings = match path.as_str() {
            "image.sidecar.tag" => "image.sidecar.digest=,image.sidecar.tag=other".to_owned(),
            "image.operator.digest" | "image.cli.digest" => format!("{path}=sha256:{}", "0".repeat(64)),
            _ => format!("{path}=null"),
        };
        let before = match path.as_str() {
            "image.sidecar.tag" => rendered(&values, &["image.sidecar.digest="]),
            _ => with_all.clone(),
        };
        let output = template(&values, &[&settings]);
        let after = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() || after != before, "{path} changes nothing");

        let name = path.rsplit('.').next().expect("a name");
        assert!(documented.contains(&format!("{name}:")), "{path} does not stand in values.yaml");
    }
    // A value without a comment is a value that nobody can use: each documented block starts with `# --`.
    assert!(documented.matches("# --").count() > 30);
}
