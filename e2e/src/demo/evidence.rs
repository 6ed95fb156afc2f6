//! What `testimony verify` says of the demo's records, and of the same records after somebody changed them.

use super::SHOP;
use crate::cluster::Cluster;
use crate::install::{OPERATOR_NAMESPACE, export_of};
use crate::records::AuditRecord;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How long a record may be without a signed head, in seconds: a busy stream gets one every 30 s.
const HEAD_SECONDS_MAX: u64 = 90;

/// Verifies the backend's export once a signed head covers these exchanges; then with a record altered, and with a tail
/// cut off. Says what was found.
pub fn verified(cluster: &Cluster, testimony: &Path, exchanges: &[&AuditRecord]) -> Result<String> {
    let places = exchanges.iter().map(|record| place(record)).collect::<Result<Vec<_>>>()?;
    let (last, newest) = places.last().zip(exchanges.last()).context("no exchange")?;
    let file = cluster.paths.logs().join("export.jsonl");
    let verify = |export: &str| {
        std::fs::write(&file, export).with_context(|| format!("cannot write {}", file.display()))?;
        Answer::of(testimony, &file, None)
    };
    let trust =
        Trust { roots: cluster.paths.logs().join("roots.txt"), ledger: cluster.paths.logs().join("ledger.jsonl") };
    let mut honest = None;
    cluster.kubectl.wait("a signed head over alice's purchase in each stream", HEAD_SECONDS_MAX, || {
        // First the ledger, then the records: what it knows must be among them.
        trust.fetch(cluster, testimony)?;
        let export = export_of(cluster, SHOP)?;
        let answer = verify(&export)?;
        let proved = answer.proves(&places);
        honest = Some((export, answer));
        Ok(proved)
    })?;
    let (export, answer) = honest.context("no export")?;
    let bad = answer.findings(|finding| BAD.contains(&verdict_of(finding)));
    ensure!(bad.is_empty(), "nobody touched the export: {}", bad.join("; "));
    let with_ledger = Answer::of(testimony, &file, Some(&trust))?;
    let pods = pods(cluster)?;
    let bad = with_ledger.findings(|finding| !is_honest(finding, &pods));
    ensure!(bad.is_empty(), "nobody touched export and ledger: {}", bad.join("; "));
    let altered = verify(&altered(&export, "alice", "mallory")?)?;
    ensure!(altered.verdict() == "TAMPERED", "an altered record was not found: {altered:?}");
    let cut = verify(&cut(&export, &last.0, last.1)?)?;
    ensure!(cut.verdict() == "MISSING", "a cut tail was not found: {cut:?}");
    std::fs::write(&file, &export)?;
    Ok(format!(
        "of the export as it is\n  {}\nwith the operator's roots and ledger\n  {}\nafter somebody made one \"alice\" a \"mallory\"\n  {}\nafter the newest records of {} were \
         taken out\n  {}",
        indented(&answer.lines(&["UNANCHORED", "GAP", "UNCLOSED"])),
        indented(&with_ledger.lines(&["MISSING", "FOREIGN", "UNANCHORED", "GAP", "UNCLOSED"])),
        indented(&altered.lines(&["TAMPERED"])),
        newest.service(),
        indented(&cut.lines(&["MISSING"])),
    ))
}

/// What nothing honest leads to. Without a ledger there is more that cannot be told, and so is no failure here.
const BAD: [&str; 6] = ["FORK", "TAMPERED", "FOREIGN", "MISSING", "PROJECTION", "UNKNOWN"];

/// Uids of the shop's pods of this run: those of an earlier one went with its namespace.
fn pods(cluster: &Cluster) -> Result<Vec<String>> {
    let list = cluster.kubectl.get(SHOP, &["pods"])?;
    let uid = |pod: &Value| Some(pod.pointer("/metadata/uid")?.as_str()?.to_owned());
    let pods: Vec<String> = list["items"].as_array().into_iter().flatten().filter_map(uid).collect();
    ensure!(!pods.is_empty(), "the shop has no pods");
    Ok(pods)
}

/// Whether a demo that nobody meddled with may show this, with roots and ledger at hand. Its own streams are there, whole, certified
/// and alive; so any other finding about them, or about export and ledger as a whole, is refused.
fn is_honest(finding: &Value, pods: &[String]) -> bool {
    match verdict_of(finding) {
        // The newest records wait for their head. Loss that is declared is honest, such as that of a slow machine.
        "PENDING" | "GAP" => true,
        // The ledger remembers streams of an earlier run for a week; the backend's file went with its pod, and with it their records.
        "MISSING" | "UNCLOSED" | "UNANCHORED" | "PRUNED" | "ERASED" => is_of_an_earlier_run(finding, pods),
        _ => false,
    }
}

fn is_of_an_earlier_run(finding: &Value, pods: &[String]) -> bool {
    let message = finding["message"].as_str().unwrap_or_default();
    match finding["stream"].as_str() {
        Some(sid) => !pods.iter().any(|uid| sid.split('/').nth(2) == Some(uid)),
        // Of a pod without any stream; whatever else names no stream is about all of the export.
        None => message.contains("expects streams of pod") && !pods.iter().any(|uid| message.contains(uid.as_str())),
    }
}

fn verdict_of(finding: &Value) -> &str {
    finding["verdict"].as_str().unwrap_or_default()
}

fn indented(lines: &str) -> String {
    lines.replace('\n', "\n  ")
}

/// Stream and number of a record.
fn place(record: &AuditRecord) -> Result<(String, u64)> {
    let seq = record.field("seq").parse().with_context(|| format!("a record without a place: {}", record.body))?;
    Ok((record.field("sid"), seq))
}

/// What a verification is given besides the export.
struct Trust {
    roots: PathBuf,
    ledger: PathBuf,
}

impl Trust {
    /// Takes both from the cluster.
    fn fetch(&self, cluster: &Cluster, testimony: &Path) -> Result<()> {
        let print = |command: &[&str], file: &Path| -> Result<()> {
            let output = Command::new(testimony)
                .args(command)
                .args(["--operator-namespace", OPERATOR_NAMESPACE])
                .arg("--kubeconfig")
                .arg(cluster.kubectl.kubeconfig())
                .output()
                .context("testimony does not start")?;
            ensure!(
                output.status.success(),
                "testimony {}: {}",
                command.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
            std::fs::write(file, output.stdout).with_context(|| format!("cannot write {}", file.display()))
        };
        print(&["roots"], &self.roots)?;
        print(&["ledger", "export"], &self.ledger)
    }
}

/// One answer of `testimony verify`.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What it printed with `-o json`.
    report: Value,
    code: i32,
}

impl Answer {
    /// Runs `testimony verify` on an export.
    fn of(testimony: &Path, export: &Path, trust: Option<&Trust>) -> Result<Self> {
        let mut verify = Command::new(testimony);
        verify.arg("verify").args(["--scope", &format!("ns={SHOP}"), "-o", "json"]);
        if let Some(trust) = trust {
            verify.arg("--roots").arg(&trust.roots).arg("--ledger").arg(&trust.ledger);
        }
        let output = verify.arg(export).output()?;
        let code = output.status.code().context("a signal ended testimony verify")?;
        let report = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("testimony verify: {}", String::from_utf8_lossy(&output.stderr)))?;
        Ok(Self { report, code })
    }

    /// The verdict of all.
    pub fn verdict(&self) -> &str {
        self.report["verdict"].as_str().unwrap_or_default()
    }

    /// The findings of which this holds, in a line each.
    fn findings(&self, which: impl Fn(&Value) -> bool) -> Vec<String> {
        let all = self.report["findings"].as_array().into_iter().flatten();
        all.filter(|finding| which(finding)).map(finding_line).collect()
    }

    /// Whether each stream that is given is proved up to this many records at least: stream and seq.
    pub fn proves(&self, streams: &[(String, u64)]) -> bool {
        let reports = self.report["streams"].as_array();
        streams.iter().all(|(sid, seq)| {
            let stream = reports.into_iter().flatten().find(|stream| stream["sid"].as_str() == Some(sid));
            stream.and_then(|stream| stream["proved"].as_u64()).is_some_and(|proved| proved > *seq)
        })
    }

    /// The verdict in a few lines, with the findings of these kinds.
    pub fn lines(&self, kinds: &[&str]) -> String {
        let number = |name: &str| self.report[name].as_u64().unwrap_or_default();
        let streams = self.report["streams"].as_array().map_or(0, Vec::len);
        let mut lines = vec![format!(
            "{}: {streams} streams, {} records, {} of them under a signed head; exit code {}",
            self.verdict(),
            number("records"),
            number("proved"),
            self.code
        )];
        for finding in self.report["findings"].as_array().into_iter().flatten() {
            if kinds.contains(&verdict_of(finding)) {
                lines.push(format!("  {}", finding_line(finding)));
            }
        }
        lines.join("\n")
    }
}

fn finding_line(finding: &Value) -> String {
    let text = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    // The last part of a stream's name tells it from the others of its pod.
    let stream = finding["stream"].as_str().and_then(|sid| sid.rsplit('/').next());
    let stream = stream.map(|name| format!(" {name}")).unwrap_or_default();
    let records = match (finding["records"]["start"].as_u64(), finding["records"]["end"].as_u64()) {
        (Some(start), Some(end)) if end == start + 1 => format!(" record {start}"),
        (Some(start), Some(end)) => format!(" records {start} to {}", end.saturating_sub(1)),
        _ => String::new(),
    };
    format!("{}{stream}{records}: {}", text("verdict"), text("message"))
}

/// The export with one record altered: somebody else bought.
pub fn altered(export: &str, from: &str, to: &str) -> Result<String> {
    let (from, to) = (format!("\\\"actor\\\":\\\"{from}\\\""), format!("\\\"actor\\\":\\\"{to}\\\""));
    ensure!(export.contains(&from), "no record of the export has {from}");
    Ok(export.replacen(&from, &to, 1))
}

/// The export without the records of one stream from `seq` on; its heads stay.
pub fn cut(export: &str, sid: &str, seq: u64) -> Result<String> {
    let (mut kept, mut gone) = (String::new(), 0);
    for line in export.lines() {
        let mut request: Value = serde_json::from_str(line).context("a line of the export")?;
        for records in log_records(&mut request) {
            let before = records.len();
            records.retain(|record| !is_from(record, sid, seq));
            gone += before - records.len();
        }
        kept.push_str(&request.to_string());
        kept.push('\n');
    }
    ensure!(gone > 0, "stream {sid} has no record {seq}");
    Ok(kept)
}

fn log_records(request: &mut Value) -> impl Iterator<Item = &mut Vec<Value>> {
    let resources = request.get_mut("resourceLogs").and_then(Value::as_array_mut).into_iter().flatten();
    let scopes = resources.filter_map(|resource| resource.get_mut("scopeLogs")?.as_array_mut()).flatten();
    scopes.filter_map(|scope| scope.get_mut("logRecords")?.as_array_mut())
}

fn is_from(record: &Value, sid: &str, seq: u64) -> bool {
    let body: Value =
        record["body"]["stringValue"].as_str().and_then(|b| serde_json::from_str(b).ok()).unwrap_or_default();
    let place = body["seq"].as_str().and_then(|seq| seq.parse().ok());
    body["sid"] == sid && place.is_some_and(|place: u64| place >= seq)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn export() -> String {
        let record = |body: Value| json!({"body": {"stringValue": body.to_string()}});
        let line =
            |records: Vec<Value>| json!({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}).to_string();
        let sealed = |seq: u64| record(json!({"actor": "alice", "seq": seq.to_string(), "sid": "a"}));
        let head = record(json!({"note": "", "typ": "head"}));
        format!("{}\n{}\n", line(vec![sealed(0), sealed(1), head]), line(vec![sealed(2)]))
    }

    #[test]
    fn one_record_is_altered() {
        let altered = altered(&export(), "alice", "mallory").expect("altered");
        assert_eq!((altered.matches("alice").count(), altered.matches("mallory").count()), (2, 1));
        assert!(super::altered(&export(), "bob", "mallory").is_err());
    }

    #[test]
    fn a_tail_is_cut_and_the_head_stays() {
        let cut = cut(&export(), "a", 1).expect("cut");
        assert_eq!((cut.matches("alice").count(), cut.matches("head").count(), cut.lines().count()), (1, 1, 2));
        assert!(super::cut(&export(), "b", 0).is_err());
    }

    #[test]
    fn v1_what_an_honest_demo_cannot_show_is_refused() {
        let pods = ["u-1".to_owned(), "u-2".to_owned()];
        let (own, earlier) = (Some("c/shop/u-2/b-0-0"), Some("c/shop/u-0/b-0-0"));
        let pod = |uid: &str| format!("the ledger expects streams of pod shop/orders ({uid}); none is in the export");
        let honest = |verdict: &str, stream: Option<&str>, message: &str| {
            is_honest(&json!({"verdict": verdict, "stream": stream, "records": null, "message": message}), &pods)
        };
        for verdict in ["PENDING", "GAP"] {
            assert!(honest(verdict, own, "m") && honest(verdict, None, "m"), "{verdict}");
        }
        for verdict in ["MISSING", "UNCLOSED", "UNANCHORED", "PRUNED", "ERASED"] {
            assert!(honest(verdict, earlier, "m") && !honest(verdict, own, "m"), "{verdict}");
            assert!(!honest(verdict, None, "about all of it"), "{verdict}");
        }
        assert!(honest("MISSING", None, &pod("u-0")) && !honest("MISSING", None, &pod("u-1")));
        for verdict in ["FORK", "TAMPERED", "FOREIGN", "PROJECTION", "UNKNOWN", "PARTIAL", "", "NEW"] {
            assert!(
                !honest(verdict, own, "m") && !honest(verdict, earlier, "m") && !honest(verdict, None, "m"),
                "{verdict}"
            );
        }
        // All findings count, not the worst alone.
        let finding = |verdict: &str| json!({"verdict": verdict, "stream": own, "records": null, "message": "m"});
        let report = json!({"verdict": "UNKNOWN", "findings": [finding("PENDING"), finding("MISSING")]});
        let bad = Answer { report, code: 1 }.findings(|finding| BAD.contains(&verdict_of(finding)));
        assert_eq!(bad, ["MISSING b-0-0: m"]);
    }

    #[test]
    fn a_stream_is_proved_when_a_head_covers_the_record() {
        let report = json!({"verdict": "UNANCHORED", "records": 9, "proved": 8, "streams": [{"sid": "a", "proved": 8}],
            "findings": [{"verdict": "TAMPERED", "stream": "c/n/p/b-0-0", "records": {"start": 3, "end": 4}, "message": "m"}]});
        let answer = Answer { report, code: 1 };
        assert!(answer.proves(&[("a".to_owned(), 7)]) && !answer.proves(&[("a".to_owned(), 8)]));
        assert!(!answer.proves(&[("b".to_owned(), 0)]));
        let of_all = json!({"verdict": "UNANCHORED", "stream": null, "records": null, "message": "m"});
        assert_eq!(finding_line(&of_all), "UNANCHORED: m");
        assert_eq!(
            answer.lines(&["TAMPERED"]),
            "UNANCHORED: 1 streams, 9 records, 8 of them under a signed head; exit code 1\n  TAMPERED b-0-0 record 3: m"
        );
    }
}
