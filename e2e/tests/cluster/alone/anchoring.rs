//! Streams while nobody keeps the ledger.

use super::{Scaled, alone};
use crate::harness::{OPERATOR_SECONDS_MAX, Space, eventually};
use crate::objects::{audited, text};
use crate::witness::{is_anchored, replace, streams_of, uid, verified};
use anyhow::{Context, Result};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Seconds for which nobody keeps the ledger, at least; without it, for as long as it takes to see the stream unanchored.
const AWAY: &str = "TESTIMONY_OPERATOR_AWAY_SECONDS";

/// Between two requests while nobody keeps the ledger, in seconds.
const PACE_SECONDS: u32 = 10;

#[test]
fn w3_a_stream_that_began_without_the_operator_is_anchored_when_it_is_back_and_how_late_is_told() -> Result<()> {
    let away = std::env::var(AWAY).map_or(Ok(0), |seconds| seconds.parse()).context(AWAY)?;
    let _alone = alone();
    let space = audited("unanchored", "rules: []")?;
    let controller = Scaled::to("controller", 0)?;
    replace(&space, "server")?;
    let server = uid(&space, "server")?;
    // Traffic and recording go on.
    space.recorded_request()?;
    let recorded = Instant::now();
    let mut said = Value::Null;
    let waited = eventually("the verdict of a stream that nobody vouches for", OPERATOR_SECONDS_MAX, || {
        said = verified(&space)?;
        let streams = streams_of(&said, &server);
        let unanchored = |stream: &&Value| text(stream, "/verdict") == "UNANCHORED" && stream["certified"] == false;
        Ok(!streams.is_empty() && streams.iter().all(unanchored))
    });
    waited.with_context(|| format!("{said:#}"))?;
    let requests = requests_until(&space, recorded + Duration::from_secs(away))?;
    let unanchored = recorded.elapsed();
    controller.scale(1)?;
    let mut exposed = Duration::ZERO;
    let waited = eventually("the same stream to be anchored, and how late", 3 * OPERATOR_SECONDS_MAX, || {
        said = verified(&space)?;
        let longest = said.pointer("/exposure/longest_ns").and_then(Value::as_u64);
        exposed = longest.map_or(Duration::ZERO, Duration::from_nanos);
        Ok(is_anchored(&said, &server) && exposed >= unanchored)
    });
    waited.with_context(|| format!("{said:#}"))?;
    let (exposed, away) = (exposed.as_secs(), unanchored.as_secs());
    println!(
        "figure: operator away for {away} s with {requests} requests, all recorded: at most {exposed} s without a witness"
    );
    Ok(())
}

/// How many requests were made and recorded by then.
fn requests_until(space: &Space, then: Instant) -> Result<u32> {
    let mut requests = 0;
    while Instant::now() < then {
        space.recorded_request()?;
        requests += 1;
        space.sh("client", &format!("sleep {PACE_SECONDS}"))?;
    }
    Ok(requests)
}
