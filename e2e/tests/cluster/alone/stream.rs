//! A stream of pod creations, and what became of each pod.

use super::simulated::{SimulatedNode, at_once, creation, has_sidecar, pods_of, runtime};
use crate::harness::{OPERATOR_SECONDS_MAX, Space, eventually};
use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Creators in each namespace.
const CREATORS: usize = 2;
/// Time between two pods of one creator, in milliseconds.
const PACE_MILLIS: u64 = 40;

/// What became of the pods of one namespace.
#[derive(Debug, Default)]
struct Seen {
    created: AtomicUsize,
    without: Mutex<Vec<String>>,
    refused: Mutex<Vec<String>>,
}

fn lock(list: &Mutex<Vec<String>>) -> std::sync::MutexGuard<'_, Vec<String>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes pods that must get a sidecar, in several namespaces, until it is dropped. Those that did are deleted at once.
pub struct Stream {
    seen: Vec<(String, Arc<Seen>)>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Stream {
    /// Begins once a pod of each space gets its sidecar.
    pub fn start(node: &SimulatedNode, spaces: &[&Space]) -> Result<Self> {
        let (mut seen, mut tasks, stop) = (Vec::new(), Vec::new(), Arc::<AtomicBool>::default());
        for space in spaces {
            let pods = pods_of(space)?;
            let probe = node.pod("probe", &json!({}))?;
            eventually("a pod to get its sidecar", OPERATOR_SECONDS_MAX, || {
                let made = runtime().block_on(pods.create(&creation(), &probe))?;
                runtime().block_on(pods.delete("probe", &at_once()))?;
                Ok(has_sidecar(&made))
            })?;
            let here = Arc::<Seen>::default();
            for creator in 0..CREATORS {
                let template = node.pod("", &json!({"app": "stream"}))?;
                tasks.push(runtime().spawn(create(pods.clone(), template, creator, here.clone(), stop.clone())));
            }
            seen.push((space.name.clone(), here));
        }
        Ok(Self { seen, stop, tasks })
    }

    /// Waits until each namespace has this many pods more.
    pub fn more(&self, pods: usize) -> Result<()> {
        let created = |seen: &Seen| seen.created.load(Ordering::Relaxed);
        let goals: Vec<usize> = self.seen.iter().map(|(_, seen)| created(seen) + pods).collect();
        eventually("the stream of pods to go on", OPERATOR_SECONDS_MAX, || {
            Ok(self.seen.iter().zip(&goals).all(|((_, seen), goal)| created(seen) >= *goal))
        })
    }

    /// Pods that were made so far, pods among them without a sidecar, and creations that failed.
    pub fn counts(&self) -> (usize, usize, usize) {
        self.seen.iter().fold((0, 0, 0), |(created, without, refused), (_, seen)| {
            let (less, not) = (lock(&seen.without).len(), lock(&seen.refused).len());
            (created + seen.created.load(Ordering::Relaxed), without + less, refused + not)
        })
    }

    /// Names of the pods of a space that have no sidecar; they are left there.
    pub fn without(&self, space: &Space) -> Vec<String> {
        let seen = self.seen.iter().filter(|(name, _)| *name == space.name);
        seen.flat_map(|(_, seen)| lock(&seen.without).clone()).collect()
    }

    /// Ends the stream and waits for its last pods.
    pub fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            runtime().block_on(task)?;
        }
        Ok(())
    }

    /// Ends the stream; an error if any pod lost its sidecar, or was refused. Returns how many pods there were.
    pub fn expect_no_loss(mut self) -> Result<usize> {
        self.end()?;
        let (created, without, refused) = self.counts();
        ensure!(created > 0 && without == 0 && refused == 0, "of {created} pods: {:#?}", self.seen);
        Ok(created)
    }
}

async fn create(pods: Api<Pod>, template: Pod, creator: usize, seen: Arc<Seen>, stop: Arc<AtomicBool>) {
    let mut pace = tokio::time::interval(Duration::from_millis(PACE_MILLIS));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for number in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        pace.tick().await;
        let mut pod = template.clone();
        let name = format!("s{creator}-{number}");
        pod.metadata.name = Some(name.clone());
        match pods.create(&creation(), &pod).await {
            Ok(made) if has_sidecar(&made) => {
                if let Err(error) = pods.delete(&name, &at_once()).await {
                    eprintln!("{name} is not deleted: {error}");
                }
            }
            Ok(_) => lock(&seen.without).push(name),
            Err(error) => lock(&seen.refused).push(format!("{name}: {error}")),
        }
        seen.created.fetch_add(1, Ordering::Relaxed);
    }
}
