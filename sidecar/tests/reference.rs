//! `docs/reference/metrics.md` and `sidecar-cli.md` are what the code says. `UPDATE_GOLDEN=1` rewrites them.

#[path = "../../e2e/tests/support/golden.rs"]
mod golden;

use golden::{assert_golden, repository};
use std::process::Command;
use testimony_sidecar::metrics;

#[test]
fn the_page_of_the_metrics_is_the_codes() {
    let page = format!(
        "# Metrics of the sidecar\n\nGenerated from the code; do not edit. Every sidecar serves them on port 24803, path \
         `/metrics`, in the OpenMetrics format. The operator's stand in [operator-metrics.md](operator-metrics.md).\n\n{}",
        metrics::reference()
    );
    assert_golden(&repository().join("docs/reference/metrics.md"), &page);
}

#[test]
fn the_page_of_the_command_is_its_help() {
    let mut page = String::from("# testimony-sidecar\n\nGenerated from `--help`; do not edit.\n");
    for command in [&[][..], &["init"], &["uninit"], &["run"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_testimony-sidecar"))
            .args(command)
            .arg("--help")
            .env_clear()
            .output()
            .expect("the program starts");
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        let title = ["testimony-sidecar"].iter().chain(command).copied().collect::<Vec<_>>().join(" ");
        let help = String::from_utf8(output.stdout).expect("the help is UTF-8");
        page.push_str(&format!("\n## {title}\n\n```text\n{}\n```\n", trimmed(&help)));
    }
    assert_golden(&repository().join("docs/reference/sidecar-cli.md"), &page);
}

/// Without blanks at the ends of lines.
fn trimmed(help: &str) -> String {
    help.trim_end().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}
