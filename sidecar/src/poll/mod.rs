//! Where policies come from: at the start from the environment, a file or the last good document; from then on from the
//! operator's long poll.
//!
//! The revision in each request is the acknowledgement: it names what is in force, never what was only received.

mod caller;
mod client;
mod pause;
mod state;
mod store;

pub use caller::{CallError, Caller};
pub use client::{POLL_DEADLINE, Poller, STATE_POLL_INTERVAL};
pub use state::{Apply, PolicyState};
pub use store::{LAST_GOOD, LastGood, Store, StoreError};

use crate::config::{Config, PolicySource, document_problems};
use testimony_core::policy::PolicyDocument;

/// The document to start with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The document.
    pub document: PolicyDocument,
    /// Where it comes from.
    pub source: PolicySource,
    /// The authority of the operator's certificate, if the last good answer named another than the environment.
    pub operator_ca: Option<String>,
}

/// The document of the configuration, unless an earlier process of this pod left one that the operator sent later.
pub fn start(config: &Config, store: Option<&Store>) -> Start {
    let configured = || Start { document: config.policy.clone(), source: config.policy_source, operator_ca: None };
    // Without an operator nothing can be newer than the configuration.
    let Some(store) = store.filter(|_| config.operator.is_some()) else { return configured() };
    match store.load() {
        Ok(Some(last)) => {
            let problems = document_problems("document", &last.document);
            match problems.first() {
                None => Start {
                    document: last.document,
                    source: PolicySource::LastGood,
                    operator_ca: Some(last.operator_ca),
                },
                Some(problem) => {
                    tracing::warn!(%problem, "the last good policy cannot be run; the environment's is used");
                    configured()
                }
            }
        }
        Ok(None) => configured(),
        Err(error) => {
            tracing::warn!(%error, "the last good policy cannot be read; the environment's is used");
            configured()
        }
    }
}
