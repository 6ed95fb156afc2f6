//! The admission webhook: decode, pure functions on the index as it is, encode. No await in between.
//!
//! A failure of the webhook itself never refuses a pod: it is admitted without a sidecar, with a warning, and the policy's
//! status counts it. In a strict namespace it is the other way round: what cannot be audited does not start.

mod run;
#[cfg(test)]
mod tests;

pub use run::run;

use crate::index::Index;
use crate::inject::{
    Decision, Enforcement, ExcludedNamespaces, Plan, PodTraits, Reason, Selection, SidecarConfig, admit,
    is_injection_id, patch,
};
use crate::metrics::{InjectionLabels, Metrics};
use crate::serve::{Answer, body, json_answer, text_answer};
use crate::state::State;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;
use testimony_core::contract::annotation;
use tokio::sync::watch;

/// Path of the webhook.
pub const MUTATE_PATH: &str = "/mutate";

/// Path of the webhook for strict namespaces.
pub const MUTATE_STRICT_PATH: &str = "/mutate-strict";

/// Largest review: an object of the API server has at most 1.5 MiB in etcd, 3 MiB as a request.
pub const REVIEW_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Connections at a time; the API server uses few.
pub const CONNECTIONS_MAX: usize = 512;

/// Longest warning that API servers pass on whole, in characters.
const WARNING_CHARS_MAX: usize = 256;

/// Answers admission reviews.
#[derive(Clone)]
pub struct Mutator {
    /// The cluster.
    pub state: Arc<State>,
    /// Namespaces that are never touched.
    pub excluded: ExcludedNamespaces,
    /// What every injected pod gets.
    pub config: SidecarConfig,
    /// PEM bundle for the sidecars.
    pub bundle: watch::Receiver<Option<Arc<str>>>,
    /// Whether the index is complete: all must hold.
    pub synced: Vec<watch::Receiver<bool>>,
    /// Counters.
    pub metrics: Metrics,
}

/// What becomes of a pod, for answer and metrics.
struct Outcome {
    response: AdmissionResponse,
    result: &'static str,
    reason: &'static str,
}

/// Why the webhook could not do its work; the pod is admitted as it is, or refused where its namespace is strict.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the operator has not read the cluster yet")]
    NotSynced,
    #[error("the operator has no certificate yet")]
    NoBundle,
    #[error("the review has no pod to create")]
    NoPod,
    #[error("pod: {0}")]
    Pod(#[from] serde_json::Error),
    #[error(transparent)]
    Patch(#[from] crate::inject::PatchError),
    #[error("patch: {0}")]
    Encode(#[from] kube::core::admission::SerializePatchError),
    #[error("random numbers are unavailable")]
    Random,
}

impl Mutator {
    /// Handles one HTTP request.
    pub async fn handle(self, request: Request<Incoming>) -> Answer {
        let enforcement = match request.uri().path() {
            MUTATE_PATH => Enforcement::Default,
            MUTATE_STRICT_PATH => Enforcement::Strict,
            _ => return text_answer(StatusCode::NOT_FOUND, format!("try {MUTATE_PATH} or {MUTATE_STRICT_PATH}\n")),
        };
        if request.method() != Method::POST {
            return text_answer(StatusCode::METHOD_NOT_ALLOWED, "use POST\n");
        }
        match body(request, REVIEW_BYTES_MAX).await {
            Ok(body) => self.review(enforcement, &body),
            Err(answer) => answer,
        }
    }

    /// Answers one review.
    pub fn review(&self, enforcement: Enforcement, body: &[u8]) -> Answer {
        let started = Instant::now();
        let review: AdmissionReview<DynamicObject> = match serde_json::from_slice(body) {
            Ok(review) => review,
            Err(error) => return text_answer(StatusCode::BAD_REQUEST, format!("no AdmissionReview: {error}\n")),
        };
        let request: AdmissionRequest<DynamicObject> = match review.try_into() {
            Ok(request) => request,
            Err(error) => return text_answer(StatusCode::BAD_REQUEST, format!("{error}\n")),
        };
        let span = tracing::info_span!(
            "admission",
            namespace = request.namespace,
            name = request.name,
            result = tracing::field::Empty,
            reason = tracing::field::Empty
        );
        let _entered = span.enter();
        let outcome =
            self.mutate(enforcement, &request).unwrap_or_else(|failure| failed(enforcement, &request, &failure));
        let labels = InjectionLabels { result: outcome.result, reason: outcome.reason };
        span.record("result", outcome.result).record("reason", outcome.reason);
        self.metrics.injections.get_or_create(&labels).inc();
        let answer = match serde_json::to_vec(&outcome.response.into_review()) {
            Ok(bytes) => json_answer(StatusCode::OK, bytes),
            Err(error) => text_answer(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        };
        self.metrics.admission_seconds.observe(started.elapsed().as_secs_f64());
        answer
    }

    fn mutate(&self, enforcement: Enforcement, request: &AdmissionRequest<DynamicObject>) -> Result<Outcome, Failure> {
        if self.synced.iter().any(|synced| !*synced.borrow()) {
            return Err(Failure::NotSynced);
        }
        let object =
            request.object.as_ref().filter(|_| request.operation == Operation::Create).ok_or(Failure::NoPod)?;
        let mut pod: Pod = serde_json::from_value(serde_json::to_value(object)?)?;
        let namespace = request.namespace.clone().or_else(|| pod.metadata.namespace.clone()).unwrap_or_default();
        pod.metadata.namespace = Some(namespace.clone());
        let index = self.state.index();
        let traits = PodTraits::of(&pod);
        match admit(&index, &self.excluded, enforcement, &namespace, &traits) {
            Decision::NotSelected => Ok(Outcome { response: request.into(), result: "not_selected", reason: "" }),
            Decision::Already => {
                let response = AdmissionResponse::from(request).with_patch(patch(&pod, None)?)?;
                Ok(Outcome { response, result: "already", reason: "" })
            }
            Decision::Skip(reason) => Ok(skipped(request, reason)),
            Decision::Deny(reason) => {
                let response = AdmissionResponse::from(request).deny(reason.denial(&namespace, &traits));
                Ok(Outcome { response, result: "denied", reason: reason.as_str() })
            }
            Decision::Inject(selection) => self.inject(request, &index, &pod, &namespace, &selection),
        }
    }

    fn inject(
        &self,
        request: &AdmissionRequest<DynamicObject>,
        index: &Index,
        pod: &Pod,
        namespace: &str,
        selection: &Selection,
    ) -> Result<Outcome, Failure> {
        let bundle = self.bundle.borrow().clone().ok_or(Failure::NoBundle)?;
        // At a second look the pod keeps its id.
        let known = pod.annotations().get(annotation::INJECTION_ID).filter(|id| is_injection_id(id)).cloned();
        let injection_id = known.map_or_else(injection_id, Ok)?;
        let plan = Plan {
            config: &self.config,
            selection,
            namespace,
            cluster_uid: index.cluster_uid().unwrap_or_default(),
            operator_ca: &bundle,
            injection_id: &injection_id,
        };
        let response = warn(request, selection.warnings.iter().cloned()).with_patch(patch(pod, Some(&plan))?)?;
        Ok(Outcome { response, result: "injected", reason: "" })
    }
}

fn skipped(request: &AdmissionRequest<DynamicObject>, reason: Reason) -> Outcome {
    let warning = format!("testimony: no sidecar ({reason}): {}", reason.explain());
    Outcome { response: warn(request, [warning]), result: "skipped", reason: reason.as_str() }
}

fn warn(request: &AdmissionRequest<DynamicObject>, warnings: impl IntoIterator<Item = String>) -> AdmissionResponse {
    let mut response = AdmissionResponse::from(request);
    let warnings: Vec<String> = warnings.into_iter().map(|w| w.chars().take(WARNING_CHARS_MAX).collect()).collect();
    response.warnings = (!warnings.is_empty()).then_some(warnings);
    response
}

/// In a strict namespace the pod waits: 503 says that trying again helps.
fn failed(enforcement: Enforcement, request: &AdmissionRequest<DynamicObject>, failure: &Failure) -> Outcome {
    let (namespace, name) = (&request.namespace, &request.name);
    if enforcement == Enforcement::Default {
        tracing::warn!(error = %failure, namespace, name, "pod admitted without a look");
        let response = warn(request, [format!("testimony: no sidecar was added: {failure}")]);
        return Outcome { response, result: "error", reason: "" };
    }
    tracing::warn!(error = %failure, namespace, name, "pod of a strict namespace refused without a look");
    let message =
        format!("testimony: refused, because this namespace is strict and no sidecar can be added: {failure}");
    let mut response = AdmissionResponse::from(request).deny(message);
    response.result.code = failure.code();
    Outcome { response, result: "error", reason: "" }
}

impl Failure {
    /// For a refusal: whether trying again can help.
    fn code(&self) -> u16 {
        match self {
            Self::NotSynced | Self::NoBundle | Self::Random => 503,
            Self::NoPod | Self::Pod(_) | Self::Patch(_) | Self::Encode(_) => 403,
        }
    }
}

/// 128 random bits, in hex.
fn injection_id() -> Result<String, Failure> {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Failure::Random)?;
    let mut text = String::with_capacity(32);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}
