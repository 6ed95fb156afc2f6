//! Asks the operator on behalf of one data thread, one thing after the other, on the second runtime.

use crate::client::{Backoff, Jitter};
use crate::poll::{CallError, Caller};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::time::Duration;
use testimony_core::contract::{ADD_CHECKPOINT_PATH, CERTIFICATE_PATH};
use testimony_core::evidence::witness::csr::{CertificateRequest, CertificateResponse};
use tokio::sync::{mpsc, oneshot};

/// Deadline of a request for a certificate.
const CERTIFICATE_DEADLINE: Duration = Duration::from_secs(10);

/// Deadline of a request to cosign: the witness answers when its next block is committed.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(65);

/// First and longest wait after a request that brought no certificate.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Largest answer with a certificate, in bytes: the certificate in base64, and a frame of JSON.
const ANSWER_BYTES_MAX: usize = CERTIFICATE_TEXT_BYTES_MAX + 1024;

/// Longest certificate in base64, in bytes: as much as its record can hold.
const CERTIFICATE_TEXT_BYTES_MAX: usize = 8192;

/// Largest answer of the witness, in bytes: cosignatures, a size or an error in words.
const WITNESS_ANSWER_BYTES_MAX: usize = 4096;

/// Shortest and longest time between two heads that the operator may ask for.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
const INTERVAL_MAX: Duration = Duration::from_secs(60);

/// What a data thread asks.
#[derive(Debug)]
pub enum Ask {
    /// A certificate; asked for until it comes, or until nobody waits for it.
    Certificate {
        /// The certificate request (PKCS #10) in DER.
        csr: Vec<u8>,
        /// Takes it.
        answer: oneshot::Sender<Certified>,
    },
    /// A cosignature; asked for once.
    Checkpoint {
        /// Body of the request.
        body: String,
        /// Takes status and body of the answer; `None`: there is none.
        answer: oneshot::Sender<Option<(u16, String)>>,
    },
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// DER in base64.
    pub certificate: String,
    /// Time from one head to the next.
    pub interval: Duration,
}

/// Carries what one data thread asks to the operator.
pub struct Messenger {
    caller: Caller,
    asks: mpsc::Receiver<Ask>,
    backoff: Backoff,
}

impl Messenger {
    /// Takes asks from this queue.
    pub fn new(caller: Caller, asks: mpsc::Receiver<Ask>) -> Self {
        Self { caller, asks, backoff: Backoff::new(RETRY_FIRST, RETRY_MAX, Jitter::seeded()) }
    }

    /// Answers until `shutdown` ends.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = shutdown => {}
            () = self.answer_for_ever() => {}
        }
    }

    async fn answer_for_ever(&mut self) {
        while let Some(ask) = self.asks.recv().await {
            match ask {
                Ask::Certificate { csr, mut answer } => {
                    let certified = tokio::select! {
                        certified = self.certificate(&csr) => certified,
                        () = answer.closed() => continue,
                    };
                    // A data thread that has ended meanwhile needs none.
                    let _ = answer.send(certified);
                }
                Ask::Checkpoint { body, answer } => {
                    let _ = answer.send(self.checkpoint(body).await);
                }
            }
        }
        // The data thread has ended; the task goes on until it is told to stop.
        std::future::pending::<()>().await;
    }

    async fn checkpoint(&mut self, body: String) -> Option<(u16, String)> {
        let call = self.caller.call_text(ADD_CHECKPOINT_PATH, body, ANSWER_DEADLINE, WITNESS_ANSWER_BYTES_MAX);
        match call.await {
            Ok((status, body)) => Some((status.as_u16(), body)),
            Err(error) => {
                self.caller.disconnect();
                tracing::debug!(%error, "no answer from the witness");
                None
            }
        }
    }

    async fn certificate(&mut self, csr: &[u8]) -> Certified {
        let injection_id = self.caller.injection_id().to_owned();
        let request = CertificateRequest { injection_id, csr: STANDARD.encode(csr) };
        let mut told = false;
        loop {
            match self.ask(&request).await {
                Ok(certified) => {
                    self.backoff.reset();
                    tracing::info!("the operator certified a stream");
                    return certified;
                }
                Err(error) => {
                    self.caller.disconnect();
                    if told {
                        tracing::debug!(%error, "no certificate from the operator");
                    } else {
                        tracing::warn!(%error, "no certificate from the operator; asking again");
                    }
                    told = true;
                    tokio::time::sleep(self.backoff.wait()).await;
                }
            }
        }
    }

    async fn ask(&mut self, request: &CertificateRequest) -> Result<Certified, CallError> {
        let answer = self.caller.call(CERTIFICATE_PATH, request, CERTIFICATE_DEADLINE, ANSWER_BYTES_MAX).await?;
        let wrong = |problem: &str| CallError::Body(problem.to_owned());
        let body = answer.ok_or_else(|| wrong("it is empty"))?;
        let response: CertificateResponse =
            serde_json::from_slice(&body).map_err(|error| CallError::Body(error.to_string()))?;
        let certificate = response.certificate;
        if certificate.is_empty()
            || certificate.len() > CERTIFICATE_TEXT_BYTES_MAX
            || STANDARD.decode(&certificate).is_err()
        {
            return Err(wrong("it holds no certificate"));
        }
        let interval = Duration::from_millis(response.interval_ms).clamp(INTERVAL_MIN, INTERVAL_MAX);
        Ok(Certified { certificate, interval })
    }
}
