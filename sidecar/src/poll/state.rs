//! The policy in force, as the admin port and the operator are told.

use crate::config::PolicySource;
use crate::metrics::Metrics;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use testimony_core::policy::{PolicyDocument, Refused};

/// Puts a document into force: compiles all of it, swaps only when that succeeds, else says which field is at fault and
/// why. Called on the second runtime; must not block.
pub type Apply = Arc<dyn Fn(&PolicyDocument) -> Result<(), String> + Send + Sync>;

/// Which policy is in force and which was refused. Clones share it.
#[derive(Clone)]
pub struct PolicyState {
    inner: Arc<Mutex<Inner>>,
    metrics: Arc<Metrics>,
}

struct Inner {
    revision: String,
    source: PolicySource,
    refused: Option<Refused>,
}

impl PolicyState {
    /// The state at the start.
    pub fn new(revision: &str, source: PolicySource, metrics: Arc<Metrics>) -> Self {
        metrics.policy_in_force(revision);
        let inner = Inner { revision: revision.to_owned(), source, refused: None };
        Self { inner: Arc::new(Mutex::new(inner)), metrics }
    }

    /// Revision and source of the policy in force, and the last refusal.
    pub fn get(&self) -> (String, PolicySource, Option<Refused>) {
        let inner = self.lock();
        (inner.revision.clone(), inner.source, inner.refused.clone())
    }

    pub(super) fn in_force(&self, revision: &str) {
        self.metrics.policy_in_force(revision);
        let mut inner = self.lock();
        inner.revision = revision.to_owned();
        inner.source = PolicySource::Operator;
        inner.refused = None;
    }

    /// Returns whether this refusal is new.
    pub(super) fn refuse(&self, refused: Refused) -> bool {
        let mut inner = self.lock();
        let new = inner.refused.as_ref() != Some(&refused);
        if new {
            self.metrics.policy_refused.inc();
            inner.refused = Some(refused);
        }
        new
    }

    /// Each field is written whole, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
