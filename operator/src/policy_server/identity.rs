//! Who polls: the pod to which a projected ServiceAccount token is bound.

use super::{Identify, orders};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::api::{Api, PostParams};
use kube::{Client, api::ObjectMeta};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use testimony_core::contract::TOKEN_AUDIENCE;
use tokio::sync::Semaphore;

/// How long a review is believed, in seconds.
const REVIEW_SECONDS_MAX: u64 = 60;

/// How long a refusal is believed, in seconds.
const REFUSAL_SECONDS_MAX: u64 = 10;

/// Most reviews that are kept.
const REVIEWS_MAX: usize = 20_000;

/// Reviews at a time: after a change of the leader all sidecars come within a second or two, and the API server answers others
/// too.
const REVIEWS_AT_ONCE_MAX: usize = 128;

/// Longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// A pod, as its token proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Namespace of the ServiceAccount, which is the pod's.
    pub namespace: String,
    /// Name of the pod.
    pub pod_name: String,
    /// Uid of the pod.
    pub pod_uid: String,
}

/// Why a poll is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unauthorized {
    /// The API server does not accept the token.
    #[error("the token is not accepted: {0}")]
    Refused(String),
    /// The token is valid, but bound to no pod.
    #[error("the token is not bound to a pod: use a projected token")]
    NotBound,
    /// The token is valid, and its owner lacks the right.
    #[error("{0}")]
    Forbidden(String),
    /// The API server did not answer.
    #[error("the token cannot be reviewed now: {0}")]
    Unavailable(String),
}

type Verdict = Result<Identity, Unauthorized>;

/// Verdicts by the token's hash, with the end of their life.
type Verdicts = HashMap<[u8; 32], (Verdict, Instant)>;

/// Reviews tokens at the API server and keeps the verdicts for a short time, by the token's hash.
#[derive(Clone)]
pub struct Reviewer {
    client: Client,
    namespace: String,
    verdicts: Arc<Mutex<Verdicts>>,
    turns: Arc<Semaphore>,
}

impl Reviewer {
    /// A reviewer with an empty cache; `namespace` is the operator's.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            verdicts: Arc::default(),
            turns: Arc::new(Semaphore::new(REVIEWS_AT_ONCE_MAX)),
        }
    }

    fn known(&self, hash: &[u8; 32], now: Instant) -> Option<Verdict> {
        let verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        verdicts.get(hash).filter(|(_, until)| now < *until).map(|(verdict, _)| verdict.clone())
    }

    fn keep(&self, hash: [u8; 32], verdict: Verdict, now: Instant) {
        let seconds = if verdict.is_ok() { REVIEW_SECONDS_MAX } else { REFUSAL_SECONDS_MAX };
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if verdicts.len() >= REVIEWS_MAX {
            verdicts.retain(|_, (_, until)| now < *until);
        }
        if verdicts.len() < REVIEWS_MAX {
            verdicts.insert(hash, (verdict, now + Duration::from_secs(seconds)));
        }
    }
}

/// What the API server says of a token: for an audience, or for itself.
pub(super) async fn review(client: &Client, token: &str, audience: Option<&str>) -> Result<TokenReview, Unauthorized> {
    let api: Api<TokenReview> = Api::all(client.clone());
    let answer = api.create(&PostParams::default(), &asked(token, audience)).await;
    answer.map_err(|error| Unauthorized::Unavailable(error.to_string()))
}

pub(super) fn asked(token: &str, audience: Option<&str>) -> TokenReview {
    let audiences = audience.map(|audience| vec![audience.to_owned()]);
    let spec = TokenReviewSpec { token: token.to_owned(), audiences };
    TokenReview { metadata: ObjectMeta::default(), spec, status: None }
}

fn not_too_long(token: &str) -> Result<(), Unauthorized> {
    match token.len() > TOKEN_BYTES_MAX {
        true => Err(Unauthorized::Refused(format!("it is longer than {TOKEN_BYTES_MAX} bytes"))),
        false => Ok(()),
    }
}

impl Identify for Reviewer {
    async fn identify(&self, token: &str) -> Verdict {
        not_too_long(token)?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
        let mut hash = [0u8; 32];
        hash.copy_from_slice(digest.as_ref());
        if let Some(verdict) = self.known(&hash, Instant::now()) {
            return verdict;
        }
        let turn = self.turns.acquire().await.map_err(|error| Unauthorized::Unavailable(error.to_string()))?;
        // The callers of one sidecar come together: one of them may have asked meanwhile.
        if let Some(verdict) = self.known(&hash, Instant::now()) {
            return verdict;
        }
        let answer = review(&self.client, token, Some(TOKEN_AUDIENCE)).await;
        drop(turn);
        let verdict = verdict(&answer?);
        self.keep(hash, verdict.clone(), Instant::now());
        verdict
    }

    /// Orders are rare: nothing is believed for any time.
    async fn may_prune(&self, token: &str) -> Result<String, Unauthorized> {
        not_too_long(token)?;
        orders::may_prune(&self.client, &self.namespace, token).await
    }
}

/// What a review says.
pub(super) fn verdict(review: &TokenReview) -> Verdict {
    let status = review.status.clone().unwrap_or_default();
    let audience = status.audiences.iter().flatten().any(|a| a == TOKEN_AUDIENCE);
    if !status.authenticated.unwrap_or_default() || !audience {
        return Err(Unauthorized::Refused(
            status.error.unwrap_or_else(|| format!("audience {TOKEN_AUDIENCE} is needed")),
        ));
    }
    let user = status.user.unwrap_or_default();
    let mut account = user.username.as_deref().unwrap_or_default().splitn(4, ':');
    let namespace = match (account.next(), account.next(), account.next(), account.next()) {
        (Some("system"), Some("serviceaccount"), Some(namespace), Some(_)) => namespace.to_owned(),
        _ => return Err(Unauthorized::NotBound),
    };
    let pod_uid = extra(&user, "authentication.kubernetes.io/pod-uid").ok_or(Unauthorized::NotBound)?;
    let pod_name = extra(&user, "authentication.kubernetes.io/pod-name").ok_or(Unauthorized::NotBound)?;
    Ok(Identity { namespace, pod_name, pod_uid })
}

fn extra(user: &UserInfo, key: &str) -> Option<String> {
    user.extra.as_ref()?.get(key)?.first().cloned()
}
