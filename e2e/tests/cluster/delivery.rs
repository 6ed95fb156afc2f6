//! `delivery.mode: Strict` and `failureMode: Closed` on a real spool.

use crate::objects::{audited, metric};
use anyhow::Result;

#[test]
fn t1_t2_under_strict_and_closed_requests_wait_for_their_records_and_probes_pass() -> Result<()> {
    let rules = "rules: [{name: probes, match: {pathPrefixes: [/status]}, level: None}]";
    let space = audited("strictly", &format!("delivery: {{mode: Strict}}, failureMode: Closed, {rules}"))?;
    space.recorded_request()?;
    space.sh("client", "curl -sS --fail -o /dev/null --max-time 20 http://server:8080/status/200")?;
    let held =
        |result: &str| metric(&space, "client", "server", &format!("testimony_held_total{{result=\"{result}\"}}"));
    assert!(held("durable")? > 0, "an answer waits");
    assert_eq!((held("refused")?, held("passed")?), (0, 0));
    Ok(())
}
