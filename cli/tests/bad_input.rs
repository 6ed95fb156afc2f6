//! Input that is no export, or was copied in another form: the error names file and place, and what to do (V1).

#[path = "support/program.rs"]
mod program;

use program::run;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A file of a test's own, which goes with it.
struct File(PathBuf);

impl File {
    fn new(name: &str, content: impl AsRef<[u8]>) -> Self {
        static RUN: AtomicU32 = AtomicU32::new(0);
        let run = RUN.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("testimony-bad-{}-{run}-{name}", std::process::id()));
        std::fs::write(&path, content).expect("a file");
        Self(path)
    }

    fn name(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const SID: &str = "c/shop/pod-1/0123456789abcdef0123456789abcdef-0-0";
const FOREIGN: &str = "{\"_msg\":\"GET /\"}\n";
const GZIP: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0];

fn utf_16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// One record that `tail` shows, in the form of the Collector.
fn logs() -> String {
    let logs = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/logs.jsonl");
    std::fs::read_to_string(logs).expect("the fixture")
}

#[test]
fn v1_what_holds_nothing_of_testimony_is_named_by_prove_and_prune_too() {
    let record = format!("{SID}:1");
    for (content, what) in [("", "no log entry at all"), (FOREIGN, "only 1 log entry of others")] {
        let file = File::new("other.jsonl", content);
        let prune = ["ledger", "prune", file.name(), "--reason", "x", "--stream", SID, "--dry-run"];
        for (arguments, code) in
            [(&["verify", file.name()][..], 65), (&["prove", file.name(), "--record", &record], 65), (&prune, 1)]
        {
            let (got, out, err) = run(arguments, "");
            assert_eq!((got, out.as_str()), (code, ""), "{arguments:?}: {err}");
            let told = format!(
                "testimony: {}: no record, no head and no ledger entry of Testimony is in it, {what}: look at",
                file.name()
            );
            assert!(err.starts_with(&told), "{err}");
        }
    }
    let logs = File::new("logs.jsonl", format!("{}{}", logs(), ledger_like()));
    let (code, _, err) = run(&["prove", logs.name(), "--record", &record], "");
    assert!(code == 65 && err.contains(&format!("record 1 of {SID} is not in {}: look at", logs.name())), "{err}");
    let prune = ["ledger", "prune", logs.name(), "--reason", "x", "--stream", SID, "--dry-run"];
    let (code, out, err) = run(&prune, "");
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("no record of the export is meant: nothing is ordered; look at --stream"), "{err}");
}

/// What claims to be a record of Testimony, in the Collector's form.
fn ledger_like() -> &'static str {
    concat!(
        r#"{"resourceLogs":[{"resource":{},"scopeLogs":[{"logRecords":[{"body":{"stringValue":"{\"typ\":\"open\",\"v\":\"1\"}"}}]}]}]}"#,
        "\n"
    )
}

#[test]
fn v1_roots_proofs_and_heads_say_what_they_are_instead() {
    let block = "-----BEGIN CERTIFICATE-----\nAA*A\n-----END CERTIFICATE-----\n";
    let files: [(&str, Vec<u8>, &str); 6] = [
        ("gz", GZIP.to_vec(), "it is packed with gzip: unpack it first, with `gzip -dc`"),
        ("u16", utf_16("\u{feff}# roots\n"), "it is UTF-16: convert it first"),
        ("u16-bare", utf_16("# roots\n"), "it is UTF-16: convert it first"),
        ("latin", b"# one\nledger \xe4\n".to_vec(), "line 2: it is no text (UTF-8)"),
        ("pem", format!("# one\r\n{block}").into_bytes(), "line 2: the PEM block that begins here is damaged"),
        ("key", b"spool".to_vec(), "neither a certificate (PEM) nor a line `ledger KEY` or `witness KEY`"),
    ];
    for (name, content, told) in files {
        let file = File::new(name, content);
        let (code, out, err) = run(&["verify", "logs.jsonl", "--roots", file.name()], "");
        assert_eq!((code, out.as_str()), (65, ""), "{name}: {err}");
        assert!(err.contains(&format!("--roots {}: ", file.name())) && err.contains(told), "{name}: {err}");
        if name != "pem" && name != "key" {
            let (code, _, err) = run(&["verify", "--proof", file.name()], "");
            assert!(code == 65 && err.contains(file.name()) && err.contains(told), "{name}: {err}");
            // What is wrong with the file needs no cluster.
            let (code, _, err) = run(&["ledger", "show", "--roots", file.name()], "");
            assert!(code == 1 && err.contains(file.name()) && err.contains(told), "{name}: {err}");
        }
    }
}

#[test]
fn v1_standard_input_is_read_wherever_it_is_named_and_once() {
    let (code, _, err) = run(&["verify", "logs.jsonl", "--roots", "-"], "nothing\n");
    assert!(code == 65 && err.contains("--roots standard input: line 1: neither"), "{err}");
    for arguments in [
        &["verify", "-", "--roots", "-"][..],
        &["verify", "-", "-"],
        &["verify", "x", "--ledger", "-", "--roots", "r", "--ledger-head", "-"],
        &["prove", "-", "-", "--record", "c/n/p/0123456789abcdef0123456789abcdef-0-0:1"],
    ] {
        let (code, out, err) = run(arguments, "");
        assert_eq!((code, out.as_str()), (64, ""), "{arguments:?}: {err}");
        assert!(err.contains("- (standard input) can be given once"), "{arguments:?}: {err}");
    }
}

#[test]
fn v1_a_url_that_is_not_read_is_told_as_that() {
    let (code, _, err) = run(&["verify", "ftp://host/export.jsonl"], "");
    assert!(code == 65 && err.contains("only URLs that begin with http:// or https:// are read"), "{err}");
    let (code, _, err) = run(&["verify", "logs.jsonl", "--roots", "https://host/roots"], "");
    assert!(code == 65 && err.contains("only an export is read from a URL"), "{err}");
}

#[test]
fn v1_a_file_that_holds_nothing_is_told_beside_others() {
    let (full, empty) = (File::new("full.jsonl", ledger_like()), File::new("empty.jsonl", "\n"));
    let (_, _, err) = run(&["verify", full.name(), empty.name()], "");
    assert!(err.starts_with(&format!("testimony: {}: it holds nothing", empty.name())), "{err}");
    let (_, _, err) = run(&["verify", full.name()], "");
    assert!(!err.contains("it holds nothing"), "{err}");
}

#[test]
fn tail_shows_exchanges_and_gaps_of_a_file_in_any_form_and_nothing_of_the_streams() {
    let (_, plain, _) = run(&["tail", "-f", "logs.jsonl"], "");
    let logs = logs();
    let same = [
        format!("\u{feff}{logs}"),
        format!("{logs}{}", ledger_like()),
        logs.trim_end().to_owned(),
        format!("{logs}{{}}\n{{\"resourceMetrics\":[]}}\n"),
    ];
    for content in same {
        let file = File::new("tail.jsonl", &content);
        let (code, out, err) = run(&["tail", "-f", file.name()], "");
        assert_eq!((code, out.as_str()), (0, plain.as_str()), "{err}");
        let (code, out, err) = run(&["tail", "-f", "-"], &content);
        assert_eq!((code, out.as_str()), (0, plain.as_str()), "{err}");
    }
}

#[test]
fn tail_says_what_a_file_is_instead() {
    let first = logs().lines().next().expect("a line").to_owned();
    for (content, told) in [
        (format!("{first}\n{}", &first[..first.len() / 2]).into_bytes(), "line 2 is cut off: "),
        (format!("[{first}]\n").into_bytes(), "line 1 begins a JSON array"),
        (GZIP.to_vec(), "it is packed with gzip"),
        (FOREIGN.as_bytes().to_vec(), "line 1 is no OTLP in JSON: set `format: json`"),
    ] {
        let file = File::new("what.jsonl", content);
        let (code, _, err) = run(&["tail", "-f", file.name()], "");
        assert!(code == 1 && err.contains(&format!("{}: {told}", file.name())), "{told}: {err}");
        assert!(!err.contains("column"), "{err}");
    }
}

#[test]
fn without_a_cluster_the_cause_is_told_once() {
    let (code, _, err) = run(&["status"], "");
    assert!(code == 1 && err.contains("no cluster: name one with --kubeconfig"), "{err}");
    assert!(err.matches("failed to read kubeconfig").count() <= 1, "{err}");
}
