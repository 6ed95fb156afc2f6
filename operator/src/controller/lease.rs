//! Leader election by a Lease. Who loses it must end: two leaders would write against each other.

use crate::plain::Plain;
use crate::serve::Shutdown;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use std::time::Duration;
use tokio::time::Instant;

/// A leader that has not renewed for this long has lost, in seconds.
const LEASE_SECONDS: i32 = 15;

/// Time between two renewals, in seconds.
const RENEW_SECONDS: u64 = 5;

/// A leader gives up when no renewal succeeded for this long, before others may take over, in seconds.
const RENEW_DEADLINE_SECONDS: u64 = 10;

/// Time between two looks of a candidate, in seconds: a lease that was given up has its next holder so soon.
const CANDIDATE_SECONDS: u64 = 1;

/// Deadline of a candidate's attempt, in seconds: one that is not answered must not keep a free lease free.
const ATTEMPT_SECONDS_MAX: u64 = 5;

/// Why a leader must end.
#[derive(Debug, thiserror::Error)]
pub enum LeaseLost {
    /// Another replica holds it.
    #[error("the lease is held by {0}")]
    Taken(String),
    /// No renewal succeeded in time.
    #[error("the lease was not renewed for {RENEW_DEADLINE_SECONDS} s: {0}")]
    NotRenewed(String),
}

/// What a candidate does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take or renew it.
    Hold,
    /// Another leads.
    Wait,
}

/// Judges other holders by this process's own clock: a lease that has not changed for [`LEASE_SECONDS`] is free.
#[derive(Debug, Default)]
pub struct Observer {
    seen: Option<(Option<String>, Option<Timestamp>, Instant)>,
}

impl Observer {
    /// What to do about the lease as it is.
    pub fn step(&mut self, me: &str, spec: &LeaseSpec, now: Instant) -> Step {
        let holder = spec.holder_identity.clone().filter(|h| !h.is_empty());
        let renewed = spec.renew_time.as_ref().map(|t| t.0);
        if holder.is_none() || holder.as_deref() == Some(me) {
            return Step::Hold;
        }
        let since = match &self.seen {
            Some((h, r, since)) if *h == holder && *r == renewed => *since,
            _ => now,
        };
        self.seen = Some((holder, renewed, since));
        let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(LEASE_SECONDS)).unwrap_or_default();
        if now.saturating_duration_since(since) >= Duration::from_secs(seconds) { Step::Hold } else { Step::Wait }
    }
}

/// The lease that this replica wants.
#[derive(Clone)]
pub struct Election {
    api: Api<Lease>,
    namespace: String,
    name: String,
    me: String,
}

impl Election {
    /// An election among all that use the same name.
    pub fn new(client: Client, namespace: &str, name: &str, me: &str) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, namespace: namespace.to_owned(), name: name.to_owned(), me: me.to_owned() }
    }

    /// Returns `true` when this replica leads, `false` at the signal to stop.
    pub async fn win(&self, shutdown: &mut Shutdown) -> bool {
        let mut observer = Observer::default();
        loop {
            let deadline = Duration::from_secs(ATTEMPT_SECONDS_MAX);
            let error = match tokio::time::timeout(deadline, self.attempt(&mut observer)).await {
                Ok(Ok(Step::Hold)) => return true,
                Ok(Ok(Step::Wait)) => None,
                Ok(Err(error)) => Some(Plain(&error).to_string()),
                Err(_) => Some("no answer".to_owned()),
            };
            if let Some(error) = error {
                tracing::warn!(error, lease = self.name, "lease not taken, trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(CANDIDATE_SECONDS)) => {}
                () = shutdown.wait() => return false,
            }
        }
    }

    /// Renews until the signal to stop, then gives the lease up.
    ///
    /// # Errors
    /// The lease is lost: the process must end.
    pub async fn hold(self, mut shutdown: Shutdown) -> Result<(), LeaseLost> {
        let deadline = Duration::from_secs(RENEW_DEADLINE_SECONDS);
        // What is written is as old as the attempt at it, not as its answer.
        let mut renewed =
            Instant::now().checked_sub(Duration::from_secs(ATTEMPT_SECONDS_MAX)).unwrap_or_else(Instant::now);
        let mut begun = renewed;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(begun + Duration::from_secs(RENEW_SECONDS)) => {}
                () = shutdown.wait() => {
                    self.release().await;
                    return Ok(());
                }
            }
            begun = Instant::now();
            let left = deadline.saturating_sub(renewed.elapsed());
            let attempt = tokio::time::timeout(left.max(Duration::from_secs(1)), self.renew()).await;
            match attempt {
                Ok(Ok(None)) => renewed = begun,
                Ok(Ok(Some(holder))) => return Err(LeaseLost::Taken(holder)),
                other => {
                    let error = match other {
                        Ok(Err(error)) => Plain(&error).to_string(),
                        _ => "no answer".to_owned(),
                    };
                    tracing::warn!(error, lease = self.name, "lease not renewed");
                    if renewed.elapsed() >= deadline {
                        return Err(LeaseLost::NotRenewed(error));
                    }
                }
            }
        }
    }

    async fn attempt(&self, observer: &mut Observer) -> kube::Result<Step> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let lease = self.lease(ObjectMeta::default(), LeaseSpec::default());
            return won(self.api.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.unwrap_or_default();
        match observer.step(&self.me, &spec, Instant::now()) {
            Step::Wait => Ok(Step::Wait),
            Step::Hold => {
                let lease = self.lease(lease.metadata, spec);
                won(self.api.replace(&self.name, &PostParams::default(), &lease).await)
            }
        }
    }

    /// `Some(holder)`: another one holds it.
    async fn renew(&self) -> kube::Result<Option<String>> {
        let lease = self.api.get(&self.name).await?;
        let spec = lease.spec.unwrap_or_default();
        if let Some(holder) = spec.holder_identity.as_ref().filter(|h| **h != self.me && !h.is_empty()) {
            return Ok(Some(holder.clone()));
        }
        let lease = self.lease(lease.metadata, spec);
        self.api.replace(&self.name, &PostParams::default(), &lease).await?;
        Ok(None)
    }

    async fn release(&self) {
        let release = async {
            let mut lease = self.api.get(&self.name).await?;
            if let Some(spec) = lease.spec.as_mut().filter(|s| s.holder_identity.as_ref() == Some(&self.me)) {
                spec.holder_identity = None;
                self.api.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(2), release).await {
            tracing::warn!(error = %Plain(&error), lease = self.name, "lease not released; it runs out by itself");
        }
    }

    /// The lease as this replica writes it; owners and labels that others set stay.
    fn lease(&self, metadata: ObjectMeta, before: LeaseSpec) -> Lease {
        let now = MicroTime(Timestamp::now());
        let mine = before.holder_identity.as_ref() == Some(&self.me);
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                managed_fields: None,
                ..metadata
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.me.clone()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                acquire_time: if mine { before.acquire_time } else { Some(now.clone()) },
                renew_time: Some(now),
                lease_transitions: Some(before.lease_transitions.unwrap_or_default() + i32::from(!mine)),
                ..LeaseSpec::default()
            }),
        }
    }
}

/// Who writes second has not won.
fn won(written: kube::Result<Lease>) -> kube::Result<Step> {
    match written {
        Ok(_) => Ok(Step::Hold),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Step::Wait),
        Err(error) => Err(error),
    }
}
