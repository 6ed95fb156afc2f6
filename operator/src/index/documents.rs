//! Documents that were compiled already: pods of one workload, and all that look at them, share one.

use crate::compile::Compiled;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most documents that are kept; with more, all are compiled anew. One is for each set of policies that select a pod.
const DOCUMENTS_CACHED_MAX: usize = 4096;

/// Documents by the serials of the policies in them, in ascending order. A serial names one spec of one policy, for ever;
/// whoever changes a sink clears everything.
#[derive(Debug, Default)]
pub struct Documents(Mutex<HashMap<Vec<u64>, Arc<Compiled>>>);

impl Documents {
    /// The document of these policies; compiles it if it is not here.
    pub fn get(&self, mut serials: Vec<u64>, compile: impl FnOnce() -> Compiled) -> Arc<Compiled> {
        serials.sort_unstable();
        if let Some(known) = self.lock().get(&serials) {
            return known.clone();
        }
        // Outside of the lock: two may compile the same, and both are right.
        let compiled = Arc::new(compile());
        let mut documents = self.lock();
        if documents.len() >= DOCUMENTS_CACHED_MAX {
            documents.clear();
        }
        documents.insert(serials, compiled.clone());
        compiled
    }

    /// A policy's spec is no longer in force.
    pub fn forget(&mut self, serial: u64) {
        self.lock().retain(|serials, _| !serials.contains(&serial));
    }

    /// A sink has changed.
    pub fn clear(&mut self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<u64>, Arc<Compiled>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
