//! The operator as certifier of streams: each data thread's stream asks once, and nothing waits for the answer (K1, S2).
//!
//! [`certify`] runs on a data thread, [`Certifier`] on the second runtime; between them stands a queue with a place for each
//! data thread.

use crate::client::{Backoff, Jitter};
use crate::data::Recorder;
use crate::poll::{CallError, Caller};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::time::Duration;
use testimony_core::contract::CERTIFICATE_PATH;
use testimony_core::evidence::witness::csr::{CertificateRequest, CertificateResponse};
use tokio::sync::{mpsc, oneshot};

/// Deadline of one request.
pub const CERTIFICATE_DEADLINE: Duration = Duration::from_secs(10);

/// First and longest wait after a request that brought no certificate.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// A certificate that found no place in its stream is tried again after this.
const SEAL_AGAIN: Duration = Duration::from_secs(1);

/// Largest answer, in bytes: a certificate in base64, and a frame of JSON.
const ANSWER_BYTES_MAX: usize = CERTIFICATE_TEXT_BYTES_MAX + 1024;

/// Longest certificate in base64, in bytes: as much as its record can hold.
const CERTIFICATE_TEXT_BYTES_MAX: usize = 8192;

/// A stream that wants its certificate.
#[derive(Debug)]
pub struct Ask {
    /// The certificate request (PKCS #10) in DER.
    pub csr: Vec<u8>,
    /// Takes the certificate: DER in base64.
    pub answer: oneshot::Sender<String>,
}

/// Asks for the certificate of this recorder's first stream, and seals it into the stream. Ends when that is done, or when
/// the stream has ended before.
pub async fn certify(recorder: Recorder, asks: mpsc::Sender<Ask>) {
    let (answer, answered) = oneshot::channel();
    if asks.send(Ask { csr: recorder.certificate_request().to_vec(), answer }).await.is_err() {
        return;
    }
    let Ok(certificate) = answered.await else { return };
    while !recorder.certified(&certificate) {
        tokio::time::sleep(SEAL_AGAIN).await;
    }
}

/// Gets certificates, one after the other, for as long as it takes.
pub struct Certifier {
    caller: Caller,
    asks: mpsc::Receiver<Ask>,
    backoff: Backoff,
}

impl Certifier {
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
        while let Some(Ask { csr, answer }) = self.asks.recv().await {
            let certificate = self.certificate(&csr).await;
            // A data thread that has ended meanwhile needs none.
            let _ = answer.send(certificate);
        }
        // All data threads have ended; the task goes on until it is told to stop.
        std::future::pending::<()>().await;
    }

    async fn certificate(&mut self, csr: &[u8]) -> String {
        let injection_id = self.caller.injection_id().to_owned();
        let request = CertificateRequest { injection_id, csr: STANDARD.encode(csr) };
        let mut told = false;
        loop {
            match self.ask(&request).await {
                Ok(certificate) => {
                    self.backoff.reset();
                    tracing::info!("the operator certified a stream");
                    return certificate;
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

    async fn ask(&mut self, request: &CertificateRequest) -> Result<String, CallError> {
        let answer = self.caller.call(CERTIFICATE_PATH, request, CERTIFICATE_DEADLINE, ANSWER_BYTES_MAX).await?;
        let wrong = |problem: &str| CallError::Body(problem.to_owned());
        let body = answer.ok_or_else(|| wrong("it is empty"))?;
        let response: CertificateResponse =
            serde_json::from_slice(&body).map_err(|error| CallError::Body(error.to_string()))?;
        let text = response.certificate;
        if text.is_empty() || text.len() > CERTIFICATE_TEXT_BYTES_MAX || STANDARD.decode(&text).is_err() {
            return Err(wrong("it holds no certificate"));
        }
        Ok(text)
    }
}
