//! What sidecars call, on the policy server: the certificate of a stream's first key, and the witness.

use super::desk::Reply;
use crate::policy_server::Identity;
use crate::serve::{Answer, answer, body, json_answer, text_answer};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Incoming;
use hyper::{Request, StatusCode, header};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use testimony_core::contract::{
    ABANDONED_PATH, ADD_CHECKPOINT_PATH, CERTIFICATE_PATH, SINK_NAME_BYTES_MAX, UNWRAP_PATH,
};
use testimony_core::evidence::ledger::prune::Removal;
use testimony_core::evidence::ledger::{AbandonedRow, Pruned};
use testimony_core::evidence::note::PublicKey;
use testimony_core::evidence::stream::{NotAStream, StreamId};
use testimony_core::evidence::witness::csr::{
    Abandoned, CSR_BYTES_MAX, CertificateRequest, CertificateResponse, REASON_BYTES_MAX, parse_csr,
};
use testimony_core::evidence::witness::request::REQUEST_BYTES_MAX;
use testimony_core::evidence::witness::unwrap::{
    KEYS_MAX, MESSAGE_BYTES_MAX, STREAMS_MAX, UnwrapRequest, UnwrapResponse, WRAPPED_BYTES_MAX,
};
use tokio::sync::{mpsc, oneshot};

/// Requests that wait for the keeper at a time; more are told to come back.
pub const ASKS_MAX: usize = 4_096;

/// Time for an answer, in seconds: the longest interval between two blocks, and a commit.
const ANSWER_SECONDS_MAX: u64 = 60;

/// Largest request for a certificate, in bytes: a CSR in base64, and an injection id.
const CERTIFICATE_REQUEST_BYTES_MAX: usize = 2 * CSR_BYTES_MAX + 1024;

/// What a sidecar asks of the keeper.
#[derive(Debug)]
pub enum Ask {
    /// To certify a stream's first key.
    Certify {
        /// The injection id that it knows.
        injection_id: String,
        /// The stream.
        sid: StreamId,
        /// Its key.
        key: PublicKey,
    },
    /// To cosign a head.
    AddCheckpoint(Box<testimony_core::evidence::witness::Request>),
    /// To write down which records go with the pod.
    Abandon(AbandonedRow),
    /// To open keys of a spool.
    Unwrap {
        /// Streams that can be read by them.
        streams: Vec<StreamId>,
        /// The keys as they are wrapped.
        keys: Vec<Vec<u8>>,
    },
}

/// What is asked of the keeper.
#[derive(Debug)]
pub enum Wanted {
    /// By the sidecar of this pod.
    Of(Identity, Ask),
    /// To write down records that are removed by order. Whoever orders it was authorised.
    Prune(Removal, Vec<Pruned>),
}

/// What is asked, and where the answer goes.
pub type Asked = (Wanted, oneshot::Sender<Reply>);

/// Where sidecars reach the keeper; cloning shares it.
#[derive(Clone, Debug)]
pub struct WitnessDoor {
    asks: mpsc::Sender<Asked>,
    interval_ms: Arc<AtomicU64>,
}

impl WitnessDoor {
    /// A door, and what comes in by it.
    pub fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (asks, inbox) = mpsc::channel(ASKS_MAX);
        (Self { asks, interval_ms: Arc::default() }, inbox)
    }

    /// Whether a path is the witness's.
    pub fn serves(path: &str) -> bool {
        [CERTIFICATE_PATH, ADD_CHECKPOINT_PATH, ABANDONED_PATH, UNWRAP_PATH].contains(&path)
    }

    /// Says how long it takes from block to block now.
    pub fn tell_interval(&self, interval: Duration) {
        self.interval_ms.store(u64::try_from(interval.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Answers a request of this pod, and says what metrics call it.
    pub async fn handle(&self, identity: Identity, request: Request<Incoming>) -> (Answer, &'static str) {
        let asked = match request.uri().path() {
            CERTIFICATE_PATH => certificate(request).await,
            ABANDONED_PATH => abandoned(request).await,
            UNWRAP_PATH => unwrap(request).await,
            _ => checkpoint(request).await,
        };
        let ask = match asked {
            Ok(ask) => ask,
            Err(answer) => return (answer, "bad_request"),
        };
        let reply = self.ask(identity, ask).await;
        self.say(reply)
    }

    /// Asks the keeper.
    pub async fn ask(&self, identity: Identity, ask: Ask) -> Reply {
        self.want(Wanted::Of(identity, ask)).await
    }

    /// Writes down what is removed by order.
    ///
    /// # Errors
    /// What is answered then, and what metrics call it.
    pub async fn prune(&self, removal: Removal, orders: Vec<Pruned>) -> Result<(), (Answer, &'static str)> {
        match self.want(Wanted::Prune(removal, orders)).await {
            Reply::Written => Ok(()),
            refused => Err(self.say(refused)),
        }
    }

    async fn want(&self, wanted: Wanted) -> Reply {
        let (reply, answer) = oneshot::channel();
        if self.asks.try_send((wanted, reply)).is_err() {
            return Reply::Later("the witness is busy, or not ready");
        }
        match tokio::time::timeout(Duration::from_secs(ANSWER_SECONDS_MAX), answer).await {
            Ok(Ok(reply)) => reply,
            // The keeper reads the ledger anew, or ends.
            Ok(Err(_)) => Reply::Later("the ledger is being read anew"),
            Err(_) => Reply::Later("the ledger's block was not committed in time"),
        }
    }

    fn say(&self, reply: Reply) -> (Answer, &'static str) {
        match reply {
            Reply::Certificate(der) => {
                let interval_ms = self.interval_ms.load(Ordering::Relaxed);
                json(&CertificateResponse { certificate: STANDARD.encode(der), interval_ms }, "certified")
            }
            Reply::Unwrapped(recovery_key, keys) => {
                let keys: Vec<_> = keys.into_iter().map(|key| key.map(|key| STANDARD.encode(key.0))).collect();
                let said = if keys.is_empty() { "recovery_key" } else { "unwrapped" };
                json(&UnwrapResponse { recovery_key: STANDARD.encode(recovery_key), keys }, said)
            }
            Reply::Written => (text_answer(StatusCode::NO_CONTENT, ""), "written"),
            Reply::Cosigned(line) => (text_answer(StatusCode::OK, line), "cosigned"),
            Reply::Refused(refusal) => {
                (answer(status(refusal.status()), refusal.content_type(), refusal.body()), refusal.as_str())
            }
            Reply::Denied(code, why) => (text_answer(status(code), format!("{why}\n")), "denied"),
            Reply::Later(why) => later(why),
        }
    }
}

fn json(response: &impl serde::Serialize, said: &'static str) -> (Answer, &'static str) {
    match serde_json::to_vec(response) {
        Ok(bytes) => (json_answer(StatusCode::OK, bytes), said),
        Err(error) => (text_answer(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()), "error"),
    }
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn later(why: &'static str) -> (Answer, &'static str) {
    let mut answer = text_answer(StatusCode::SERVICE_UNAVAILABLE, format!("{why}; try again\n"));
    answer.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    (answer, "later")
}

async fn certificate(request: Request<Incoming>) -> Result<Ask, Answer> {
    let bad = |text: String| text_answer(StatusCode::BAD_REQUEST, format!("certificate: {text}\n"));
    let body = body(request, CERTIFICATE_REQUEST_BYTES_MAX).await?;
    let asked: CertificateRequest = serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;
    let der = STANDARD.decode(&asked.csr).map_err(|error| bad(format!("csr: {error}")))?;
    let (sid, key) = parse_csr(&der)
        .ok_or_else(|| bad("csr: not a request for an Ed25519 key in the name of a stream, signed by it".to_owned()))?;
    Ok(Ask::Certify { injection_id: asked.injection_id, sid, key })
}

async fn abandoned(request: Request<Incoming>) -> Result<Ask, Answer> {
    let bad = |text: String| text_answer(StatusCode::BAD_REQUEST, format!("abandoned: {text}\n"));
    let body = body(request, CERTIFICATE_REQUEST_BYTES_MAX).await?;
    let told: Abandoned = serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;
    let sid = told.stream.parse().map_err(|error: NotAStream| bad(error.to_string()))?;
    if told.from >= told.to || told.reason.len() > REASON_BYTES_MAX {
        return Err(bad(format!("`from` must be below `to`, and `reason` have at most {REASON_BYTES_MAX} bytes")));
    }
    let is_name = |sink: &String| {
        (1..=SINK_NAME_BYTES_MAX).contains(&sink.len())
            && sink.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
    };
    if !told.sink.iter().all(is_name) {
        return Err(bad(format!(
            "`sink` is no name of an AuditSink: lower case letters, digits, `-` and `.`, at most {SINK_NAME_BYTES_MAX}"
        )));
    }
    let Abandoned { from, to, reason, sink, .. } = told;
    Ok(Ask::Abandon(AbandonedRow { sid, from, to, reason, sink }))
}

async fn unwrap(request: Request<Incoming>) -> Result<Ask, Answer> {
    let bad = |text: String| text_answer(StatusCode::BAD_REQUEST, format!("unwrap: {text}\n"));
    let body = body(request, MESSAGE_BYTES_MAX).await?;
    let asked: UnwrapRequest = serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;
    if asked.keys.len() > KEYS_MAX
        || asked.streams.len() > STREAMS_MAX
        || asked.streams.is_empty() != asked.keys.is_empty()
    {
        return Err(bad(format!(
            "`keys` has at most {KEYS_MAX} and `streams`, whose they are, at most {STREAMS_MAX} members; neither or both"
        )));
    }
    let decode = |key: &String| STANDARD.decode(key).ok().filter(|key| key.len() <= WRAPPED_BYTES_MAX);
    let keys: Option<Vec<_>> = asked.keys.iter().map(decode).collect();
    let keys = keys.ok_or_else(|| bad(format!("keys: base64 of at most {WRAPPED_BYTES_MAX} bytes each")))?;
    Ok(Ask::Unwrap { streams: asked.streams, keys })
}

async fn checkpoint(request: Request<Incoming>) -> Result<Ask, Answer> {
    let body = body(request, REQUEST_BYTES_MAX).await?;
    let request = testimony_core::evidence::witness::Request::parse(&body)
        .map_err(|error| text_answer(StatusCode::BAD_REQUEST, format!("add-checkpoint: {error}\n")))?;
    Ok(Ask::AddCheckpoint(Box::new(request)))
}
