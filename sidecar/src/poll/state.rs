//! The policy in force, as the admin port and the operator are told.

use crate::config::PolicySource;
use crate::metrics::Metrics;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use testimony_core::policy::{PolicyDocument, Refused};
use tokio::sync::watch;

/// Puts a document into force: compiles all of it, swaps only when that succeeds, else says which field is at fault and
/// why. Called on the second runtime; must not block.
pub type Apply = Arc<dyn Fn(&PolicyDocument) -> Result<(), String> + Send + Sync>;

/// Which policy is in force and which was refused. Clones share it.
#[derive(Clone)]
pub struct PolicyState {
    inner: Arc<Mutex<Inner>>,
    answered: Arc<watch::Sender<bool>>,
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
        Self { inner: Arc::new(Mutex::new(inner)), answered: Arc::new(watch::Sender::new(false)), metrics }
    }

    /// Waits until the operator has sent a document, whether it could be run or not.
    pub async fn answered(&self) {
        // The sender lives as long as this does.
        let _ = self.answered.subscribe().wait_for(|answered| *answered).await;
    }

    /// Revision and source of the policy in force, and the last refusal.
    pub fn get(&self) -> (String, PolicySource, Option<Refused>) {
        let inner = self.lock();
        (inner.revision.clone(), inner.source, inner.refused.clone())
    }

    pub(crate) fn in_force(&self, revision: &str) {
        self.metrics.policy_in_force(revision);
        let mut inner = self.lock();
        inner.revision = revision.to_owned();
        inner.source = PolicySource::Operator;
        inner.refused = None;
        self.answered.send_replace(true);
    }

    /// Returns whether this refusal is new.
    pub(super) fn refuse(&self, refused: Refused) -> bool {
        let mut inner = self.lock();
        let new = inner.refused.as_ref() != Some(&refused);
        if new {
            self.metrics.policy_refused.inc();
            inner.refused = Some(refused);
        }
        self.answered.send_replace(true);
        new
    }

    /// Each field is written whole, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    fn is_answered(state: &PolicyState) -> bool {
        pin!(state.answered()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn any_document_of_the_operator_is_an_answer() {
        let state = || PolicyState::new("r0", PolicySource::Environment, Arc::default());
        let taken = state();
        assert!(!is_answered(&taken));
        taken.in_force("r1");
        assert!(is_answered(&taken) && is_answered(&taken.clone()));
        // One that cannot be run would not become better by waiting.
        let refused = state();
        refused.refuse(Refused { revision: "r1".to_owned(), message: "no".to_owned() });
        assert!(is_answered(&refused));
    }
}
