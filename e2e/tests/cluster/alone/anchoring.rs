//! Streams while nobody keeps the ledger.

use super::{Scaled, alone};
use crate::harness::{OPERATOR_SECONDS_MAX, eventually};
use crate::objects::{audited, text};
use crate::witness::{is_anchored, replace, streams_of, uid, verified};
use anyhow::{Context, Result};
use serde_json::Value;

#[test]
fn w2_a_stream_that_began_without_the_operator_is_anchored_when_it_is_back() -> Result<()> {
    let _alone = alone();
    let space = audited("unanchored", "rules: []")?;
    let controller = Scaled::to("controller", 0)?;
    replace(&space, "server")?;
    let server = uid(&space, "server")?;
    // Traffic and recording go on.
    space.recorded_request()?;
    let mut said = Value::Null;
    let waited = eventually("the verdict of a stream that nobody vouches for", OPERATOR_SECONDS_MAX, || {
        said = verified(&space)?;
        let streams = streams_of(&said, &server);
        let unanchored = |stream: &&Value| text(stream, "/verdict") == "UNANCHORED" && stream["certified"] == false;
        Ok(!streams.is_empty() && streams.iter().all(unanchored))
    });
    waited.with_context(|| format!("{said:#}"))?;
    controller.scale(1)?;
    let waited = eventually("the same stream to be anchored", 3 * OPERATOR_SECONDS_MAX, || {
        said = verified(&space)?;
        Ok(is_anchored(&said, &server))
    });
    waited.with_context(|| format!("{said:#}"))
}
