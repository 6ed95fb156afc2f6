//! The task that asks the operator for names.

use super::Names;
use crate::client::{Backoff, Jitter};
use crate::poll::{CallError, Caller};
use std::time::Duration;
use testimony_core::contract::NAMES_PATH;
use testimony_core::names::{ANSWER_BYTES_MAX, NamesResponse};
use tokio::time::sleep;

/// Deadline of one request.
pub const ASK_DEADLINE: Duration = Duration::from_secs(5);

/// How often what is known is asked for again: an address may have a new bearer.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// How soon an address is asked for again that was not named.
const UNSURE_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest time between two requests: addresses that are met in between are asked for together.
const ASK_PAUSE: Duration = Duration::from_millis(50);

/// First and longest wait after a request that failed.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Asks for ever.
pub struct Asker {
    names: Names,
    caller: Caller,
    backoff: Backoff,
}

impl Asker {
    /// An asker that fills this table.
    pub fn new(names: Names, caller: Caller) -> Self {
        Self { names, caller, backoff: Backoff::new(RETRY_FIRST, RETRY_MAX, Jitter::seeded()) }
    }

    /// Asks until `shutdown` ends: at once, when a new address is met, and at each [`REFRESH_INTERVAL`].
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = shutdown => {}
            () = self.ask_for_ever() => {}
        }
    }

    async fn ask_for_ever(&mut self) {
        loop {
            match self.ask().await {
                Ok(unsure) => {
                    self.backoff.reset();
                    sleep(ASK_PAUSE).await;
                    let again = if unsure { UNSURE_INTERVAL } else { REFRESH_INTERVAL };
                    tokio::select! {
                        () = self.names.news() => {}
                        () = sleep(again) => {}
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the operator names no addresses now");
                    self.caller.disconnect();
                    sleep(self.backoff.wait()).await;
                }
            }
        }
    }

    /// Returns whether to ask again soon.
    async fn ask(&mut self) -> Result<bool, CallError> {
        let wanted = self.names.wanted();
        let answer = self.caller.call(NAMES_PATH, &wanted, ASK_DEADLINE, ANSWER_BYTES_MAX).await?;
        let answer: Option<NamesResponse> = match answer {
            Some(body) => Some(serde_json::from_slice(&body).map_err(|error| CallError::Body(error.to_string()))?),
            None => None,
        };
        Ok(self.names.learn(&wanted, answer))
    }
}
