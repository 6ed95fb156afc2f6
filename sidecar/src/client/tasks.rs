//! The tasks that drive a client's connection. None of them outlives the client.

use hyper::rt::Executor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::JoinSet;

/// A set of tasks that hyper may add to. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let mut set = self.lock();
        while set.try_join_next().is_some() {}
        set.spawn(future);
    }

    /// Ends all of them.
    pub(super) fn abort(&self) {
        self.lock().abort_all();
    }

    /// Locked for a few instructions at a time; a set is whole even where somebody panicked.
    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, future: F) {
        self.spawn(future);
    }
}
